"""What a model stores for a constant, and what of it goes when a node no longer reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from onnx_expand.errors import RefusedError
from onnx_expand.graph.facts import Facts, stated_constant
from onnx_expand.graph.ops import Trait, ops_with

__all__ = [
    "behind",
    "computes",
    "copies",
    "is_narrow",
    "released_bytes",
    "released_together",
    "stays",
    "stored_bytes",
]

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


def stored_bytes(graph: ir.Graph) -> int:
    """The bytes of the constants that a graph stores."""
    held = [value.const_value for value in graph.initializers.values()]
    held += [stated_constant(node.outputs[0]) for node in graph if node.op_type == "Constant"]
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def released_together(values: Collection[ir.Value], graph: ir.Graph, facts: Facts) -> int:
    """The bytes that are no longer stored once all of some values of a graph are."""
    taken = set(values)
    gone: set[ir.Node] = set()
    for node in reversed(graph):
        outs = [out for out in node.outputs if out not in taken]
        if not any(out.is_graph_output() or not gone.issuperset(out.consumers()) for out in outs):
            gone.add(node)
    given_up = {
        value
        for node in gone
        for value in node.inputs
        if value is not None
        and value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and gone.issuperset(value.consumers())
    }
    return released_bytes(gone, given_up, facts)


def copies(value: ir.Value, facts: Facts) -> bool:
    """Whether a constant is mostly made of one that is stored, in its own type or a narrower one.

    Where that one stays stored, to write the constant down would be to store its numbers twice;
    where it does not, in more bytes.
    """
    tensor = facts.tensor(value)
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        held = current.const_value if producer is None else stated_constant(current)
        if held is not None:
            if 2 * held.size >= tensor.size and _fits(held.dtype, tensor.dtype):
                return True
        elif producer is not None and not facts.is_fixed(producer):
            pending += [v for v in producer.inputs if v is not None]
    return False


def _fits(source: ir.DataType, target: ir.DataType) -> bool:
    """Whether numbers of a type are of the same kind as others and no wider, or narrower."""
    alike = source.is_floating_point() == target.is_floating_point()
    return source.bitwidth < target.bitwidth or (alike and source.bitwidth == target.bitwidth)
