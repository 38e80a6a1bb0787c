"""Merge consecutive Slices along different axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor

__all__ = ["join_slices"]

_PARTS = ("starts", "ends", "axes", "steps")


def join_slices(graph: ir.Graph, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Merge pairs of consecutive Slices into one; yield the labels of the first ones.

    Slice(Slice(x, axes a), axes b) = Slice(x, axes a and b) if no axis is in both, for any
    extents, since each axis is sliced independently.
    """
    if facts.opset < 10:  # starts and ends are attributes
        return
    for node in list(graph):
        inner = _slice_before(node)
        if inner is None:
            continue
        first, second = _numbers(inner, facts), _numbers(node, facts)
        if first is None or second is None or set(first[2]) & set(second[2]):
            continue
        operands = [inner.inputs[0]]
        for name, parts in zip(_PARTS, zip(first, second, strict=True), strict=True):
            numbers = np.concatenate(parts).tolist()
            operands.append(rewriter.integers(graph, f"{label(node)}.{name}", numbers))
        yield label(inner)
        rewriter.feed(node, operands)


def _slice_before(node: ir.Node) -> ir.Node | None:
    """Return the Slice that produces the input of a Slice, if nothing else reads that input."""
    value = node.inputs[0] if _is_slice(node) else None
    inner = None if value is None else value.producer()
    if value is None or inner is None or not _is_slice(inner) or inner.graph is not node.graph:
        return None
    return None if value.is_graph_output() or len(value.uses()) > 1 else inner


def _is_slice(node: ir.Node) -> bool:
    return node.op_type == "Slice" and node.domain == "" and len(node.inputs) > 2


def _numbers(node: ir.Node, facts: Facts) -> list[npt.NDArray[np.int64]] | None:
    """Return starts, ends, non-negative axes and steps, or None where they are unknown."""
    given = [*node.inputs[1:], None, None][:4]
    if any(value is not None and not facts.is_constant(value) for value in given):
        return None
    arrays = [None if v is None else read_tensor(facts.tensor(v)).ravel() for v in given]
    starts, ends = arrays[:2]
    if starts is None or ends is None:
        return None
    axes = np.arange(len(starts)) if arrays[2] is None else arrays[2]
    steps = np.ones_like(starts) if arrays[3] is None else arrays[3]
    if np.any(axes < 0):
        rank = facts.rank(node.inputs[0])
        if rank is None:
            return None
        axes = np.where(axes < 0, axes + rank, axes)
    if {len(starts)} != {len(ends), len(axes), len(steps)} or len(set(axes.tolist())) < len(axes):
        return None
    return [array.astype(np.int64) for array in (starts, ends, axes, steps)]
