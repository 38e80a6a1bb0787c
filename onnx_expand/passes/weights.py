"""Weights that a graph computes from constants, written down as what they come to.

Weight normalization, low-rank updates inside a layer and re-parameterized kernels arrive as
arithmetic in front of a layer, which a runtime would repeat or has to fold itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.constants import MOVING_OPS
from onnx_expand.editing import Rewriter, label
from onnx_expand.lift import Linear, lift
from onnx_expand.values import Facts

__all__ = ["Frozen", "freeze_weights"]

_SMALL = 1 << 12  # bytes that are not worth a node
_PLAIN = MOVING_OPS | {"Constant", "CastLike", "Expand", "Shape"}


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
    memory: half-precision weights that a node converts, for instance.
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
            nodes, given_up = _behind(value, facts)
            tensor = facts.tensor(value)
            is_arithmetic = any(n.op_type not in _PLAIN for n in nodes)
            released = sum(v.const_value.nbytes for v in given_up if v.const_value is not None)
            if is_arithmetic or tensor.nbytes <= max(released, _SMALL):
                labels = tuple(map(label, nodes))
                before = sum(v.const_value.size for v in given_up if v.const_value is not None)
                name = rewriter.freeze(value, tensor)
                yield Frozen(labels, name, (tensor.size, before))


def _behind(value: ir.Value, facts: Facts) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that compute a constant and serve nothing else, and initializers likewise."""
    nodes: list[ir.Node] = []
    given_up: list[ir.Value] = []
    pending = [value]
    while pending:
        current = pending.pop()
        producer = current.producer()
        if producer is None:
            if current.is_initializer() and not current.is_graph_input():
                given_up.append(current)
            continue
        nodes.append(producer)
        if facts.is_fixed(producer):
            continue
        inside = set(nodes)
        for v in producer.inputs:
            if v is None or v in given_up or v in pending or v.is_graph_output():
                continue
            if v is value or all(user in inside for user in v.consumers()):
                pending.append(v)
    return nodes[::-1], given_up
