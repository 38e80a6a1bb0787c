"""Store constants that nodes compute, where the file does not grow by much.

Constants are stored if they are small or take no more bytes than the constants that they are
computed from. All others of a graph, such as the position table that attention gathers for each
pair of tokens, are stored together, or not at all if the file would grow by more than a tenth. A
constant stored in a narrower type than it is used in (quantized, half precision) stays as it is,
and so does a weight that is stored once for two uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.storage import (
    copied,
    exclusive_producers,
    released_bytes,
    released_together,
)
from onnx_expand.graph.stored import stated_constant, stored_bytes
from onnx_expand.lift import LINEAR_OPS
from onnx_expand.linear.terms.scaling.base import is_of_maps

__all__ = ["lift_constants", "write_constants"]

_SMALL = 1 << 8  # bytes below which a constant is always stored
_SHARE = 10  # constants may enlarge a model by one part in this many
_FREE = 1 << 14  # bytes by which any model may grow


def write_constants(
    graph: ir.Graph, facts: Facts, rewriter: Rewriter, *, maps: bool
) -> tuple[tuple[str, ...], int]:
    """Store the constants of a graph that its nodes compute.

    Args:
        graph: The graph.
        facts: Shapes, types and constants of the model.
        rewriter: Applies the changes to the model.
        maps: Whether to include the weights of linear maps, which fold first composes with others.

    Returns:
        The labels of the removed nodes, and the number of bytes by which the model has grown.
    """
    stored = stored_bytes(graph)
    room = stored // _SHARE + _FREE
    there = list(graph)
    large: list[ir.Value] = []
    frontier = list(_frontier(graph, facts, stored + room))
    parts = _parts(frontier, graph, facts)
    for value in parts:
        rewriter.freeze(value, facts.tensor(value))
    for value in frontier:
        if value in parts or (not maps and _is_weight(value, facts)):
            continue
        nodes, freed = exclusive_producers(value, facts)
        tensor = facts.tensor(value)
        if tensor.nbytes <= max(released_bytes(nodes, freed, facts), _SMALL):
            rewriter.freeze(value, tensor)
        elif copied(value, facts) is None:
            large.append(value)
    growth = sum(facts.tensor(value).nbytes for value in large)
    if large and growth - released_together(large, graph, facts) <= room:
        for value in large:
            rewriter.freeze(value, facts.tensor(value))
    gone = tuple(label(node) for node in there if node.graph is not graph)
    return gone, stored_bytes(graph) - stored if gone else 0


def _parts(values: Iterable[ir.Value], graph: ir.Graph, facts: Facts) -> dict[ir.Value, None]:
    """Return the constants that together take no more bytes than what they are parts of.

    The projections of an attention are such parts of one stored weight. Each alone would be stored
    beside it.
    """
    whole: dict[ir.Value, list[ir.Value]] = {}
    for value in values:
        source = copied(value, facts)
        if source is not None:
            whole.setdefault(source, []).append(value)
    found: dict[ir.Value, None] = {}  # in the order of the graph
    for parts in whole.values():
        taken = sum(facts.tensor(value).nbytes for value in parts)
        if len(parts) > 1 and taken <= released_together(parts, graph, facts):
            found.update(dict.fromkeys(parts))
    return found


def lift_constants(graph: ir.Graph, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Replace Constant nodes by initializers; yield the labels of the nodes."""
    for node in list(graph):
        value = node.outputs[0] if node.outputs else None
        tensor = None if value is None else stated_constant(value)
        if value is None or tensor is None or value.is_graph_output():
            continue
        if tensor.dtype != ir.DataType.STRING:
            yield label(node)
            rewriter.freeze(value, tensor)


def _frontier(graph: ir.Graph, facts: Facts, most: int) -> Iterator[ir.Value]:
    """Yield the constants computed by nodes that a node with a non-constant result reads."""
    found = {node for node in graph if _is_constant(node, facts, most)}
    for node in graph:
        if node not in found or node.op_type == "Constant":
            continue
        for value in node.outputs:
            if any(user not in found for user in value.consumers()):
                yield value


def _is_constant(node: ir.Node, facts: Facts, most: int) -> bool:
    """Return whether all outputs of a node are constant and none is a graph output."""
    named = [value for value in node.outputs if value.name]
    if not named or any(value.is_graph_output() for value in named):
        return False
    if any(facts.dtype(value) == ir.DataType.STRING for value in named):
        return False
    return all(_bytes_of(v, facts) <= most and facts.is_constant(v) for v in named)


def _is_weight(value: ir.Value, facts: Facts) -> bool:
    """Return whether a linear node may read a constant as its weight."""
    return is_of_maps(value, facts) and any(
        user.domain == "" and user.op_type in LINEAR_OPS for user in value.consumers()
    )


def _bytes_of(value: ir.Value, facts: Facts) -> int:
    """Return the size of a value in bytes, counting only its known extents."""
    shape, dtype = facts.shape(value), facts.dtype(value)
    if shape is None or dtype is None:
        return 0
    return math.prod(extent for extent in shape if extent is not None) * dtype.bitwidth // 8
