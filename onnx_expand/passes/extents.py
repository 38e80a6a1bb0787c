"""Extents that a graph computes for a Reshape, written down where they are known.

Exporters ask tensors for their shapes while the model runs: a normalization that flattens and
restores reads the layer before it twice, once for its numbers and once for its shape, so that the
two cannot merge. At most one extent of a Reshape need be unknown, which is -1.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import Linear, lift

__all__ = ["state_extents"]


def state_extents(
    graph: ir.Graph, facts: Facts, rewriter: Rewriter, *, everywhere: bool = False
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Write down what Reshapes compute from the shapes of other values.

    Args:
        graph: The graph.
        facts: What is known about the model.
        rewriter: What rewrites it.
        everywhere: Do so wherever it is possible, not only where the reading of a shape stands
            between two readers of numbers that might be one.

    Yields:
        The names of the nodes that are gone and the name of what is there instead.
    """
    for node in list(graph):
        shape = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        if shape is None or node.domain or shape.is_graph_output() or shape.producer() is None:
            continue
        numbers = _numbers_for_all(shape, facts)
        if numbers is None:
            continue
        behind = _behind(shape)
        if not everywhere and not any(_stands_between(reader, facts) for reader in behind):
            continue
        labels = tuple(map(label, behind))
        tensor = ir.Tensor(np.asarray(numbers, np.int64))
        yield labels, rewriter.freeze(shape, tensor)


def _numbers_for_all(shape: ir.Value, facts: Facts) -> list[int] | None:
    """What all readers of computed extents may be told; None where one may not."""
    if facts.is_constant(shape):
        return None
    wanted = facts.extents_in(shape)
    uses = list(shape.uses())
    if wanted is None or any(use.node.op_type != "Reshape" or use.idx != 1 for use in uses):
        return None
    found = [_numbers(wanted, use.node, facts) for use in uses]
    return found[0] if all(numbers == found[0] for numbers in found) else None


def _numbers(wanted: Sequence[Hashable], node: ir.Node, facts: Facts) -> list[int] | None:
    """What a Reshape may be told instead of computed extents.

    One extent may be -1, which is what the others leave. Those that the input has in the same
    place are copied by a 0, unless an attribute says that a 0 is one.
    """
    numbers = [extent if isinstance(extent, int) else -1 for extent in wanted]
    if not all(n > 0 or n == -1 for n in numbers):
        return None
    if numbers.count(-1) > 1:
        given = facts.extents(node.inputs[0])
        if given is None or int_of(node, "allowzero", facts.opset):
            return None
        for i, extent in enumerate(wanted):
            if numbers[i] == -1 and i < len(given) and given[i] == extent:
                numbers[i] = 0
    return numbers if numbers.count(-1) <= 1 else None


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
