"""Replace computed Reshape targets by constants where the extents are known.

Exporters compute shapes while the model runs: a normalization that flattens and restores its input
reads the previous layer twice, once for its values and once for its shape, so that the two cannot
merge. A Reshape target may leave one extent unknown, as -1.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.products import reshaped, spelled
from onnx_expand.lift import Linear, lift

__all__ = ["state_extents"]


def state_extents(
    graph: ir.Graph,
    facts: Facts,
    rewriter: Rewriter,
    locked: frozenset[str] = frozenset(),
    *,
    everywhere: bool = False,
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Store the Reshape targets that nodes compute from the shapes of other values.

    Args:
        graph: The graph.
        facts: Shapes, types and constants of the model.
        rewriter: Applies the changes to the model.
        locked: The labels of nodes that must not change.
        everywhere: Whether to store them all, instead of only those whose Shape node keeps two
            nodes apart that might merge.

    Yields:
        The labels of the removed nodes and the name of the constant that replaces them.
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
        if not locked.isdisjoint(labels):
            continue
        tensor = ir.Tensor(np.asarray(numbers, np.int64))
        yield labels, rewriter.freeze(shape, tensor)


def _numbers_for_all(shape: ir.Value, facts: Facts) -> list[int] | None:
    """Return the target that suits all consumers of computed extents, or None if there is none."""
    if facts.is_constant(shape):
        return None
    wanted = facts.extents_in(shape)
    uses = list(shape.uses())
    if wanted is None or any(use.node.op_type != "Reshape" or use.idx != 1 for use in uses):
        return None
    found = [_numbers(wanted, use.node, facts) for use in uses]
    return found[0] if all(numbers == found[0] for numbers in found) else None


def _numbers(wanted: tuple[Hashable, ...], node: ir.Node, facts: Facts) -> list[int] | None:
    """Return a constant target for a Reshape, or None if there is none."""
    given = facts.extents(node.inputs[0])
    copied = () if given is None or int_of(node, "allowzero", facts.opset) else given
    for target in (wanted, reshaped(given, wanted)):
        numbers = None if target is None else spelled(target, copied, wanted)
        if numbers is not None:
            return list(numbers)
    return None


def _behind(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that compute only a given value, in topological order."""
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
    """Return whether a Shape node reads a linear node's output that one other node reads."""
    value = node.inputs[0] if node.op_type == "Shape" and node.inputs else None
    producer = None if value is None else value.producer()
    if value is None or producer is None or value.is_graph_output():
        return False
    readers = {use.node for use in value.uses() if use.node.op_type != "Shape"}
    return len(readers) == 1 and isinstance(lift(producer, facts), Linear)
