"""Extents that a graph computes for a Reshape, written down where they are known.

Exporters ask tensors for their shapes while the model runs: a normalization that flattens and
restores reads the layer before it twice, once for its numbers and once for its shape, so that the
two cannot merge. At most one extent of a Reshape need be unknown, which is -1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnx_expand.editing import Rewriter, label
from onnx_expand.lift import Linear, lift
from onnx_expand.values import Facts

__all__ = ["state_extents"]


def state_extents(
    graph: ir.Graph, facts: Facts, rewriter: Rewriter
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Write down what Reshapes compute from the shapes of what linear nodes put out.

    Only where the reading of a shape stands between two readers of numbers that might be one.

    Yields:
        The names of the nodes that are gone and the name of what is there instead.
    """
    for node in list(graph):
        shape = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        if shape is None or node.domain or shape.is_graph_output() or shape.producer() is None:
            continue
        users = {use.node for use in shape.uses()}
        if any(user.op_type != "Reshape" or user.inputs[0] is shape for user in users):
            continue
        numbers = _numbers(shape, facts)
        if numbers is None:
            continue
        behind = _behind(shape)
        if not any(_stands_between(reader, facts) for reader in behind):
            continue
        labels = tuple(map(label, behind))
        tensor = ir.Tensor(np.asarray(numbers, np.int64))
        yield labels, rewriter.freeze(shape, tensor)


def _numbers(shape: ir.Value, facts: Facts) -> list[int] | None:
    """What a Reshape may be told instead of computed extents."""
    extents = facts.extents_in(shape)
    if extents is None or facts.is_constant(shape):
        return None
    numbers = [extent if isinstance(extent, int) else -1 for extent in extents]
    # A zero copies the extent of the input, or is one, by an attribute.
    return numbers if numbers.count(-1) <= 1 and all(n > 0 or n == -1 for n in numbers) else None


def _behind(value: ir.Value) -> list[ir.Node]:
    """The nodes that compute a value and serve nothing else, first to last."""
    found: list[ir.Node] = []
    pending = [value]
    while pending:
        current = pending.pop()
        node = current.producer()
        if node is None or node in found or any(out.is_graph_output() for out in node.outputs):
            continue
        inside = set(found)
        if current is value or all(
            use.node in inside for out in node.outputs for use in out.uses()
        ):
            found.append(node)
            if node.op_type != "Shape":
                pending += [v for v in node.inputs if v is not None]
    return found[::-1]


def _stands_between(node: ir.Node, facts: Facts) -> bool:
    """Whether a node reads the shape of what a linear node computes for one other reader."""
    value = node.inputs[0] if node.op_type == "Shape" and node.inputs else None
    producer = None if value is None else value.producer()
    if value is None or producer is None or value.is_graph_output():
        return False
    readers = {use.node for use in value.uses() if use.node.op_type != "Shape"}
    return len(readers) == 1 and isinstance(lift(producer, facts), Linear)
