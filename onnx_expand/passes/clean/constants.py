"""Constants that nodes compute, written down where the file does not grow by much.

Small ones are written down in any case, and those that take no more bytes than what they are
computed from. The others, such as an attention's table of positions gathered for each pair of
them, are written down together or not at all: all of a graph, where that makes the file a tenth
longer at most. What is stored in a narrower type than it is used in, quantized or in half
precision, stays so, and so does a weight that is stored once for two uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts, stated_constant
from onnx_expand.graph.storage import (
    behind,
    copies,
    released_bytes,
    released_together,
    stored_bytes,
)
from onnx_expand.lift import LINEAR_OPS
from onnx_expand.passes.clean.idle import is_of_maps

__all__ = ["lift_constants", "write_constants"]

_SMALL = 1 << 8  # bytes that are not worth a node
_SHARE = 10  # constants may make a model longer by one part in so many
_FREE = 1 << 14  # bytes by which any model may grow


def write_constants(
    graph: ir.Graph, facts: Facts, rewriter: Rewriter, *, maps: bool
) -> tuple[tuple[str, ...], int]:
    """Store the constants of a graph that its nodes compute.

    Args:
        graph: The graph.
        facts: What is known about the model.
        rewriter: What rewrites it.
        maps: Whether to store weights of maps, too, which fold composes with other maps first.

    Returns:
        The labels of the nodes that are gone, and by how many bytes the model has grown.
    """
    stored = stored_bytes(graph)
    room = stored // _SHARE + _FREE
    there = list(graph)
    large: list[ir.Value] = []
    for value in list(_frontier(graph, facts, stored + room)):
        if not maps and _is_weight(value, facts):
            continue
        nodes, given_up = behind(value, facts)
        tensor = facts.tensor(value)
        if tensor.nbytes <= max(released_bytes(nodes, given_up, facts), _SMALL):
            rewriter.freeze(value, tensor)
        elif not copies(value, facts):
            large.append(value)
    growth = sum(facts.tensor(value).nbytes for value in large)
    if large and growth - released_together(large, graph, facts) <= room:
        for value in large:
            rewriter.freeze(value, facts.tensor(value))
    gone = tuple(label(node) for node in there if node.graph is not graph)
    return gone, stored_bytes(graph) - stored if gone else 0


def lift_constants(graph: ir.Graph, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Store the numbers of Constant nodes as initializers; yields the labels of the nodes."""
    for node in list(graph):
        value = node.outputs[0] if node.outputs else None
        tensor = None if value is None else stated_constant(value)
        if value is None or tensor is None or value.is_graph_output():
            continue
        if tensor.dtype != ir.DataType.STRING:
            yield label(node)
            rewriter.freeze(value, tensor)


def _frontier(graph: ir.Graph, facts: Facts, most: int) -> Iterator[ir.Value]:
    """The constants that nodes compute and that anything reads which is none itself.

    Args:
        graph: The graph.
        facts: What is known about the model.
        most: Bytes above which a constant is not looked at.
    """
    found = {node for node in graph if _is_constant(node, facts, most)}
    for node in graph:
        if node not in found or node.op_type == "Constant":
            continue
        for value in node.outputs:
            if any(user not in found for user in value.consumers()):
                yield value


def _is_constant(node: ir.Node, facts: Facts, most: int) -> bool:
    """Whether all that a node computes is constant, and none of it an output of the graph."""
    named = [value for value in node.outputs if value.name]
    if not named or any(value.is_graph_output() for value in named):
        return False
    if any(facts.dtype(value) == ir.DataType.STRING for value in named):
        return False
    return all(_bytes_of(v, facts) <= most and facts.is_constant(v) for v in named)


def _is_weight(value: ir.Value, facts: Facts) -> bool:
    """Whether a node may be a map that reads a constant as its weight."""
    return is_of_maps(value, facts) and any(
        user.domain == "" and user.op_type in LINEAR_OPS for user in value.consumers()
    )


def _bytes_of(value: ir.Value, facts: Facts) -> int:
    """The bytes of a value, as far as they are known before it is computed."""
    shape, dtype = facts.shape(value), facts.dtype(value)
    if shape is None or dtype is None:
        return 0
    return math.prod(extent for extent in shape if extent is not None) * dtype.bitwidth // 8
