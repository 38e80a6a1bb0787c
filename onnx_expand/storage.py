"""What a model stores for a constant, and what of it goes when a node no longer reads it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnx_expand.errors import RefusedError
from onnx_expand.ops import Trait, ops_with
from onnx_expand.values import Facts

__all__ = ["behind", "computes", "is_narrow", "released_bytes", "stays"]

_PLAIN = ops_with(Trait.MOVES) | {"Constant", "CastLike", "Expand", "Shape"}


def stays(value: ir.Value, reader: ir.Node, facts: Facts) -> int:
    """How many numbers of a constant's type go on being stored once a node does not read it.

    All of it where something else reads it, none where it is the node's own. A weight that is
    computed from numbers of a narrower type is stored as these: the rest of its size would be
    new.
    """
    try:
        tensor = facts.tensor(value)
    except RefusedError:
        return 0
    if value.is_graph_output() or any(user is not reader for user in facts.readers(value)):
        return int(tensor.size)
    if value.producer() is None:
        return 0
    nodes, initializers = behind(value, facts)
    if computes(nodes) and not is_narrow(initializers, tensor):
        return 0  # arithmetic is written down anyway
    missing = tensor.nbytes - released_bytes(nodes, initializers, facts)
    return max(0, missing) * 8 // tensor.dtype.bitwidth


def released_bytes(
    nodes: Iterable[ir.Node], initializers: Iterable[ir.Value], facts: Facts
) -> int:
    """The bytes of what `behind` answered."""
    held = [v.const_value for v in initializers if v.const_value is not None]
    outs = (n.outputs[0] for n in nodes if n.op_type == "Constant" and n.domain == "")
    held += [facts.tensor(out) for out in outs if facts.is_constant(out)]
    return sum(tensor.nbytes for tensor in held)


def computes(nodes: Iterable[ir.Node]) -> bool:
    """Whether some nodes do more than to move or convert stored numbers."""
    return any(node.op_type not in _PLAIN for node in nodes)


def is_narrow(initializers: Iterable[ir.Value], tensor: ir.TensorProtocol) -> bool:
    """Whether a computed tensor is mostly stored in a narrower type than its own."""
    held = [v.const_value for v in initializers if v.const_value is not None]
    return any(
        t.dtype.bitwidth < tensor.dtype.bitwidth and 2 * t.size >= tensor.size for t in held
    )


def behind(value: ir.Value, facts: Facts) -> tuple[list[ir.Node], list[ir.Value]]:
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
