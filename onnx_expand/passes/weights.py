"""Weights that a graph computes from constants, written down as what they come to.

Weight normalization, low-rank updates inside a layer and re-parameterized kernels arrive as
arithmetic in front of a layer, which a runtime would repeat or has to fold itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.storage import behind, computes, is_narrow, released_bytes
from onnx_expand.lift import Linear, lift

__all__ = ["Frozen", "freeze_weights"]

_SMALL = 1 << 8  # bytes that are not worth a node


@dataclass(frozen=True)
class Frozen:
    """A constant that was written down.

    Attributes:
        nodes: The nodes that computed it and are gone.
        name: Its name now.
        parameters: Elements of it, and of the constants that went.
    """

    nodes: tuple[str, ...]
    name: str
    parameters: tuple[int, int]


def freeze_weights(graph: ir.Graph, facts: Facts, rewriter: Rewriter) -> Iterator[Frozen]:
    """Write down the constants that the linear nodes of a graph read from other nodes.

    What merely moves or converts stored numbers stays where writing it down would take more
    memory: half-precision weights that a node converts, for instance, or quantized ones that nodes
    convert and scale.
    """
    for node in list(graph):
        if node.graph is not graph:
            continue  # it computed a constant, and is gone
        linear = lift(node, facts)
        if not isinstance(linear, Linear):
            continue
        for index in range(len(node.inputs)):
            value = node.inputs[index]  # another one by now, where the node reads it twice
            if value is None or index == linear.slot or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is None or producer.op_type == "Constant" or not facts.is_constant(value):
                continue
            nodes, given_up = behind(value, facts)
            tensor = facts.tensor(value)
            grows = tensor.nbytes > max(released_bytes(nodes, given_up, facts), _SMALL)
            if not grows or (computes(nodes) and not is_narrow(given_up, tensor)):
                labels = tuple(map(label, nodes))
                before = sum(v.const_value.size for v in given_up if v.const_value is not None)
                name = rewriter.freeze(value, tensor)
                yield Frozen(labels, name, (tensor.size, before))
