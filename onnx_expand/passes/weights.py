"""Evaluate and store weights that a graph computes from constants.

Weight normalization, low-rank updates inside a layer and re-parameterized kernels are exported as
arithmetic in front of a layer, which a runtime would repeat or has to fold itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.storage import computes, exclusive_producers, is_narrow, released_bytes
from onnx_expand.lift import Linear, lift

__all__ = ["Frozen", "freeze_weights"]

_SMALL = 1 << 8  # bytes below which a constant is always stored


@dataclass(frozen=True)
class Frozen:
    """A constant that was stored.

    Attributes:
        nodes: The labels of the removed nodes that computed it.
        name: Its name.
        parameters: The number of its elements, and of those of the removed constants.
    """

    nodes: tuple[str, ...]
    name: str
    parameters: tuple[int, int]


def freeze_weights(
    graph: ir.Graph, facts: Facts, rewriter: Rewriter, locked: frozenset[str] = frozenset()
) -> Iterator[Frozen]:
    """Store the constants that other nodes compute for the linear nodes of a graph.

    Constants that nodes only move or convert are kept if storing the result would take more
    memory: half-precision weights that a node converts, for instance, or quantized ones that nodes
    convert and scale. So are those that a node of `locked`, by its label, takes part in.
    """
    for node in list(graph):
        if node.graph is not graph:
            continue  # it computed a constant and was removed
        linear = lift(node, facts)
        if not isinstance(linear, Linear):
            continue
        for index in range(len(node.inputs)):
            value = node.inputs[index]  # changed by now if the node reads it twice
            if value is None or index == linear.slot or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is None or producer.op_type == "Constant" or not facts.is_constant(value):
                continue
            nodes, freed = exclusive_producers(value, facts)
            if not locked.isdisjoint(map(label, nodes)):
                continue
            tensor = facts.tensor(value)
            grows = tensor.nbytes > max(released_bytes(nodes, freed, facts), _SMALL)
            if not grows or (computes(nodes) and not is_narrow(freed, tensor)):
                labels = tuple(map(label, nodes))
                before = sum(v.const_value.size for v in freed if v.const_value is not None)
                name = rewriter.freeze(value, tensor)
                yield Frozen(labels, name, (tensor.size, before))
