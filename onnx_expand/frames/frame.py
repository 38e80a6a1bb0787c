"""Frames: subgraphs that pad with one constant per channel.

Some blocks pad an intermediate value not with zeros but with what the previous layer computes for
a zero input. Exporters write this as a Pad followed by copies of constants into the border, with
index arithmetic between them: a dozen to hundreds of nodes, all of which only move elements. Such
a subgraph is run on distinct elements; it is a frame if each inner position is a copy of its input
and each border position the constant of its channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.frames.following import follow
from onnx_expand.frames.patchwork import Box, Patchwork, cells
from onnx_expand.frames.symbols import Size, UndecidedError, sizes_of
from onnx_expand.graph.constants import run_nodes
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.graph.upstream import upstream

__all__ = ["Frame", "find_frames"]

_BATCHES = (1, 2, 3)
_LARGEST = 1 << 24  # elements of a probe


@dataclass(frozen=True)
class Frame:
    """A subgraph that pads its input with a constant per channel.

    Attributes:
        x: The padded value.
        pad: The node that reads it.
        nodes: The subgraph, in graph order; the last node computes the result.
        pads: Positions added, all begins, then all ends.
        fill: The constants, [n].
    """

    x: ir.Value
    pad: ir.Node
    nodes: tuple[ir.Node, ...]
    pads: tuple[int, ...]
    fill: npt.NDArray[np.float64]


def find_frames(graph: ir.Graph, facts: Facts) -> list[Frame]:
    """Return the frames in a graph."""
    found = []
    for node in graph:
        if node.op_type == "Pad" and node.domain == "" and _is_written_over(node):
            frame = _frame_at(graph, node, facts)
            if frame is not None:
                found.append(frame)
    return found


def _is_written_over(pad: ir.Node) -> bool:
    """Return whether a ScatterND may follow a Pad, without which it is not part of a frame."""
    pending, seen = [pad.outputs[0]], set[ir.Node]()
    while pending and len(seen) < 16:
        for user in pending.pop().consumers():
            if user.op_type == "ScatterND":
                return True
            if user in seen or user.op_type not in {"Transpose", "Identity", "Slice", "Shape"}:
                continue
            seen.add(user)
            pending.extend(user.outputs)
    return False


def _frame_at(graph: ir.Graph, pad: ir.Node, facts: Facts) -> Frame | None:
    x, shape = pad.inputs[0], facts.shape(pad.inputs[0])
    if x is None or shape is None or len(shape) < 3 or shape[1] is None:
        return None
    moved, indices = _moving_nodes(graph, pad, facts)
    exits = {out for node in moved for out in node.outputs if _leaves(out, moved, facts)}
    if len(exits) != 1:
        return None
    result = exits.pop()
    needed = _needed(graph, result, moved | indices)
    found = (_probed if None not in shape[1:] else _evaluated)(needed, x, result, facts)
    if found is None:
        return None
    # Index arithmetic without other consumers belongs to the frame.
    inside = {node for node in needed if node in moved and not facts.is_fixed(node)}
    for node in reversed(needed):
        users = [user for out in node.outputs for user in out.consumers()]
        if users and all(user in inside for user in users):
            inside.add(node)
    nodes = tuple(node for node in needed if node in inside)
    return Frame(x, pad, nodes, *found)


def _probed(
    nodes: Sequence[ir.Node], x: ir.Value, result: ir.Value, facts: Facts
) -> _Answer | None:
    """Find the padding of a subgraph by running it; all extents except the batch are static."""
    shape = facts.shape(x)
    assert shape is not None
    batches = _BATCHES if shape[0] is None else (shape[0],)
    answers = [
        _probe(nodes, x, tuple(d or batch for d in shape), result, facts) for batch in batches
    ]
    first = answers[0]
    if first is None or any(a is None or not _same(a, first) for a in answers):
        return None
    return first


def _evaluated(
    nodes: Sequence[ir.Node], x: ir.Value, result: ir.Value, facts: Facts
) -> _Answer | None:
    """Find the padding of a subgraph for all extents of its input by symbolic evaluation."""
    try:
        shape = sizes_of(x, facts, x)
        return None if shape is None else _frame_of(follow(nodes, x, result, facts), shape)
    except (UndecidedError, ValueError, TypeError, IndexError):
        return None  # not a frame, or the nodes contradict each other


def _frame_of(whole: Patchwork, shape: Sequence[Size]) -> _Answer | None:
    """Return the padding and constants of a frame around a value of a shape; None for no frame.

    Raises:
        UndecidedError: The answer depends on the extents.
    """
    parts = cells(whole)
    shown = next((box for _, _, box in parts if box.fill is None), None)
    if shown is None or len(whole.shape) != len(shape):
        return None
    first = shown.offsets
    behind = [w - s - b for w, s, b in zip(whole.shape, shape, first, strict=True)]
    pads = [*first[2:], *behind[2:]]
    if any(pad.symbols or pad.number < 0 for pad in pads) or not any(p.number for p in pads):
        return None
    if any(size != 0 for size in (*first[:2], *behind[:2])):
        return None
    fill = np.full(whole.shape[1].number, np.nan)
    for begins, ends, box in parts:
        sides = list(zip(begins, ends, first, shape, strict=True))
        if all(b >= at and e <= at + size for b, e, at, size in sides):
            if box.axes != tuple(range(len(shape))) or box.offsets != first:
                return None
        elif any(e <= at or b >= at + size for b, e, at, size in sides):
            if not _record(box, begins[1].number, ends[1].number, fill):
                return None
        else:
            return None
    return tuple(pad.number for pad in pads), fill


def _record(box: Box, begin: int, end: int, fill: npt.NDArray[np.float64]) -> bool:
    """Record the constants of a box in `fill`; return whether channels have one constant each."""
    if box.fill is None or box.offsets[1].symbols:
        return False
    array = box.fill.astype(np.float64)
    rows = array.reshape(*array.shape[:2], -1).swapaxes(0, 1).reshape(array.shape[1], -1)
    if not np.array_equal(rows, np.broadcast_to(rows[:, :1], rows.shape)):
        return False
    at = np.arange(begin, end) - box.offsets[1].number
    values = rows[at, 0] if len(rows) > 1 else np.full(end - begin, rows[0, 0])
    known = fill[begin:end]
    fill[begin:end] = values
    return bool(np.all(np.isnan(known) | (known == values)))


def _leaves(out: ir.Value, inside: set[ir.Node], facts: Facts) -> bool:
    """Return whether a node outside, or the graph's output, reads the elements of a value."""
    if out.is_graph_output():
        return True
    leaves = any(user not in inside for user in facts.readers(out))
    return leaves and not facts.is_constant(out)


def _moving_nodes(
    graph: ir.Graph, pad: ir.Node, facts: Facts
) -> tuple[set[ir.Node], set[ir.Node]]:
    """Return the nodes that move elements of a Pad's output, and those that compute indices."""
    moved, indices = {pad}, set[ir.Node]()
    started = False
    for node in graph:
        started = started or node is pad
        if Trait.PLACES not in op_of(node).traits or node is pad:
            continue
        producers = {
            v.producer() for v in node.inputs if v is not None and not facts.is_constant(v)
        }
        if node.op_type == "Shape":
            (moved if producers <= moved else indices).add(node)
        elif all(p in moved or p in indices for p in producers):
            (moved if started and producers & moved else indices).add(node)
    return moved, indices


def _needed(graph: ir.Graph, result: ir.Value, among: set[ir.Node]) -> tuple[ir.Node, ...]:
    """Return the nodes on which a result depends, in graph order, its producer last."""
    behind = upstream(result, through=lambda node: node.inputs if node in among else ())
    needed = among & {value.producer() for value in behind}
    return tuple(node for node in graph if node in needed)


_Answer = tuple[tuple[int, ...], npt.NDArray[np.float64]]


def _same(a: _Answer, b: _Answer) -> bool:
    return a[0] == b[0] and np.array_equal(a[1], b[1])


def _probe(
    nodes: Sequence[ir.Node],
    x: ir.Value,
    shape: tuple[int, ...],
    result: ir.Value,
    facts: Facts,
) -> _Answer | None:
    """Run a subgraph and return its padding and constants; None if it is not a frame.

    The elements of the input are 1, 2, ..., and a second run adds their count to each: an output
    element that changes by the count is a copy of that input element, others are constants.
    """
    count = int(np.prod(shape))
    dtype = facts.dtype(x)
    if dtype not in {ir.DataType.FLOAT, ir.DataType.DOUBLE} or 2 * count >= _LARGEST:
        return None
    numbers = np.arange(1, count + 1, dtype=dtype.numpy()).reshape(shape)
    first = _run(nodes, x, numbers, result, facts)
    second = _run(nodes, x, numbers + count, result, facts)
    if first is None or second is None or first.ndim != len(shape):
        return None
    copies = second - first == count
    if not np.array_equal(first.shape[:2], shape[:2]) or copies.sum() != count:
        return None
    corner = [int(axis[0]) for axis in np.nonzero(copies)]
    rank = len(shape) - 2
    begins = corner[2:]
    ends = [first.shape[2 + i] - shape[2 + i] - begins[i] for i in range(rank)]
    if corner[:2] != [0, 0] or min(begins + ends) < 0 or not any(begins + ends):
        return None
    inner = tuple(slice(b, b + size) for b, size in zip(begins, shape[2:], strict=True))
    border = np.ones(first.shape, dtype=bool)
    border[(slice(None), slice(None), *inner)] = False
    fill = first[(0, slice(None), *(np.argwhere(border[0, 0])[0]))]
    expected = np.broadcast_to(fill.reshape(1, -1, *(1,) * rank), first.shape).copy()
    expected[(slice(None), slice(None), *inner)] = numbers
    if not np.array_equal(first, expected):
        return None
    return (*begins, *ends), fill.astype(np.float64)


def _run(
    nodes: Sequence[ir.Node],
    x: ir.Value,
    numbers: npt.NDArray[Any],
    result: ir.Value,
    facts: Facts,
) -> npt.NDArray[Any] | None:
    """Evaluate a subgraph on an array."""
    made = {out for node in nodes for out in node.outputs}
    feeds: dict[str, npt.NDArray[Any]] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None or value in made or value.name in feeds:
                continue
            if value is x:
                feeds[value.name or ""] = numbers
            elif facts.is_constant(value):
                feeds[value.name or ""] = read_tensor(facts.tensor(value))
            elif node.op_type == "Shape":
                shape = facts.shape(value)
                if shape is None or None in shape[1:]:
                    return None
                sizes = (numbers.shape[0] if shape[0] is None else shape[0], *shape[1:])
                view = np.broadcast_to(np.zeros((), np.float32), sizes)  # type: ignore[arg-type]
                feeds[value.name or ""] = view
            elif node.op_type == "CastLike":
                feeds[value.name or ""] = numbers[:0]
            else:
                return None
    return run_nodes(nodes, feeds, result.name or "", facts.opset, facts.budget)
