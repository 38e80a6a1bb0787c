"""Compute the bytes that a model stores for a constant, and those that removing a use frees."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx_ir as ir

from onnx_expand.errors import RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, ops_with
from onnx_expand.graph.stored import stated_constant
from onnx_expand.graph.upstream import upstream

__all__ = [
    "computes",
    "copied",
    "exclusive_producers",
    "is_narrow",
    "released_bytes",
    "released_together",
    "remaining_elements",
]

_MOVING = ops_with(Trait.MOVES)
_PLAIN = _MOVING | {"Constant", "CastLike", "Expand", "Shape"}


def remaining_elements(value: ir.Value, reader: ir.Node, facts: Facts) -> int:
    """Return how many elements of a constant remain stored once a node no longer reads it.

    All of it if it has other consumers, none if it has not. A weight that is computed from a
    narrower type is stored in that type: the difference in size would be added.
    """
    try:
        tensor = facts.tensor(value)
    except RefusedError:
        return 0
    if value.is_graph_output() or any(user is not reader for user in facts.readers(value)):
        return int(tensor.size)
    if value.producer() is None:
        return 0
    nodes, initializers = exclusive_producers(value, facts)
    if computes(nodes) and not is_narrow(initializers, tensor):
        return 0  # results of arithmetic are stored in any case
    missing = tensor.nbytes - released_bytes(nodes, initializers, facts)
    return max(0, missing) * 8 // tensor.dtype.bitwidth


def released_bytes(
    nodes: Iterable[ir.Node], initializers: Iterable[ir.Value], facts: Facts
) -> int:
    """Return the bytes of the nodes and initializers that `exclusive_producers` returned."""
    held = [v.const_value for v in initializers if v.const_value is not None]
    outs = (n.outputs[0] for n in nodes if n.op_type == "Constant" and n.domain == "")
    held += [facts.tensor(out) for out in outs if facts.is_constant(out)]
    return sum(tensor.nbytes for tensor in held)


def computes(nodes: Iterable[ir.Node]) -> bool:
    """Return whether some nodes do more than move or convert stored elements."""
    return any(node.op_type not in _PLAIN for node in nodes)


def is_narrow(initializers: Iterable[ir.Value], tensor: ir.TensorProtocol) -> bool:
    """Return whether a computed tensor is mostly stored in a narrower type."""
    held = [v.const_value for v in initializers if v.const_value is not None]
    return any(
        t.dtype.bitwidth < tensor.dtype.bitwidth and 2 * t.size >= tensor.size for t in held
    )


def exclusive_producers(value: ir.Value, facts: Facts) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes and initializers that serve only to compute a constant."""
    nodes: list[ir.Node] = []
    freed: list[ir.Value] = []
    pending = [value]
    while pending:
        current = pending.pop()
        producer = current.producer()
        if producer is None:
            if current.is_initializer() and not current.is_graph_input():
                freed.append(current)
            continue
        nodes.append(producer)
        fixed, inside = facts.is_fixed(producer), set(nodes)
        for v in producer.inputs:
            if fixed and not facts.is_constant(v):
                continue
            if v is None or v in freed or v in pending or v.is_graph_output():
                continue
            if v is value or all(user in inside for user in v.consumers()):
                pending.append(v)
    return nodes[::-1], freed


def released_together(values: Collection[ir.Value], graph: ir.Graph, facts: Facts) -> int:
    """Return the bytes that are freed once some values of a graph are stored as constants."""
    taken = set(values)
    gone: set[ir.Node] = set()
    for node in reversed(graph):
        outs = [out for out in node.outputs if out not in taken]
        if not any(out.is_graph_output() or not gone.issuperset(out.consumers()) for out in outs):
            gone.add(node)
    freed = {
        value
        for node in gone
        for value in node.inputs
        if value is not None
        and value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and gone.issuperset(value.consumers())
    }
    return released_bytes(gone, freed, facts)


def copied(value: ir.Value, facts: Facts) -> ir.Value | None:
    """Return the stored constant, of its own or a narrower type, that a constant mostly copies.

    Storing the constant would duplicate the stored one if that remains, and would otherwise take
    more bytes. What arithmetic makes of constants of its own type is no copy.
    """
    tensor = facts.tensor(value)

    def stored(*, moved: bool) -> Iterator[ir.Value]:
        def through(node: ir.Node) -> Sequence[ir.Value | None]:
            stops = facts.is_fixed(node) or (moved and node.op_type not in _MOVING)
            return () if stops else node.inputs

        for source in upstream(value, through=through):
            held = source.const_value if source.producer() is None else stated_constant(source)
            if held is not None and 2 * held.size >= tensor.size:
                narrower = held.dtype.bitwidth < tensor.dtype.bitwidth
                if _is_alike(held.dtype, tensor.dtype) if moved else narrower:
                    yield source

    return next(itertools.chain(stored(moved=True), stored(moved=False)), None)


def _is_alike(source: ir.DataType, target: ir.DataType) -> bool:
    """Return whether two types are equally wide and of the same kind."""
    alike = source.is_floating_point() == target.is_floating_point()
    return alike and source.bitwidth == target.bitwidth
