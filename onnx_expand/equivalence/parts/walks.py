"""Walk from a tensor back to the tensors that bound its cell, and compare two walks."""

from __future__ import annotations

from collections.abc import Iterator, Set

import onnx_ir as ir

from onnx_expand.graph.editing import label

__all__ = [
    "Walk",
    "are_same",
    "operands",
]


class Walk:
    """The nodes between a value and the tensors that bound its cell, in topological order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.inputs: set[str] = set()
        self._names: dict[ir.Value, tuple[object, ...]] = {}
        self._constants: list[ir.Value] = []
        self._text: list[object] = []

    @classmethod
    def from_(cls, value: ir.Value, names: Set[str]) -> Walk:
        """Walk back from a value that a node computes."""
        walk = cls()
        start = value.producer()
        assert start is not None
        pending: list[tuple[ir.Node, bool]] = [(start, False)]
        seen: set[ir.Node] = set()
        while pending:
            node, is_done = pending.pop()
            if is_done:
                walk._add(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            pending.append((node, True))
            for operand in operands(node):
                producer = operand.producer()
                if producer is None or operand.name in names:
                    walk._note(operand)
                elif producer not in seen:
                    pending.append((producer, False))
        walk._text.append(walk._names[value])
        return walk

    def _note(self, value: ir.Value) -> None:
        """Record a value from outside: a constant, or a tensor that bounds the cell."""
        if value in self._names:
            return
        if value.const_value is not None:
            self._constants.append(value)
            self._names[value] = ("constant", len(self._constants))
        else:
            self.inputs.add(value.name or "")
            self._names[value] = ("input", value.name)

    def _add(self, node: ir.Node) -> None:
        number = len(self.nodes)
        self.nodes.append(node)
        for place, out in enumerate(node.outputs):
            self._names[out] = ("node", number, place)
        reads = [None if value is None else self._names.get(value) for value in node.inputs]
        plain = sorted((name, self._said(a)) for name, a in node.attributes.items())
        self._text.append((node.domain, node.op_type, node.overload, plain, reads))

    def _said(self, attribute: ir.Attr) -> object:
        """Return an attribute in comparable form; equal subgraphs must have equal names, too."""
        if not _is_graph(attribute):
            return _text(attribute)
        is_one = attribute.type == ir.AttributeType.GRAPH
        return [self._inner(graph) for graph in ([attribute.value] if is_one else attribute.value)]

    def _inner(self, graph: ir.Graph) -> object:
        for value in graph.initializers.values():
            self._note(value)
        ports = [[v.name for v in values] for values in (graph.inputs, graph.outputs)]
        nodes = []
        for node in graph:
            plain = sorted((name, self._said(a)) for name, a in node.attributes.items())
            outs = [out.name for out in node.outputs]
            reads = [v and self._names.get(v, ("within", v.name)) for v in node.inputs]
            nodes.append((node.domain, node.op_type, node.overload, plain, reads, outs))
        return (*ports, nodes)

    def labels(self) -> tuple[str, ...]:
        """Return the labels of the nodes."""
        return tuple(label(node) for node in self.nodes if node.op_type != "Constant")

    def is_like(self, other: Walk) -> bool:
        """Return whether the two have equal nodes and equal constants."""
        return self.unlike(other) == []

    def unlike(self, other: Walk) -> list[tuple[ir.Value, ir.Value]] | None:
        """Return the constants in which the two differ, or None if their nodes differ."""
        if self._text != other._text or len(self._constants) != len(other._constants):
            return None
        pairs = zip(self._constants, other._constants, strict=True)
        return [(x, y) for x, y in pairs if not are_same(x.const_value, y.const_value)]


def are_same(x: ir.TensorProtocol | None, y: ir.TensorProtocol | None) -> bool:
    """Return whether two constants have the same bytes."""
    if x is None or y is None:
        return x is y
    return x is y or (x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes())


def operands(node: ir.Node) -> Iterator[ir.Value]:
    """Return the inputs of a node, including those of its subgraphs."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if _is_graph(attribute):
            one = attribute.type == ir.AttributeType.GRAPH
            for graph in [attribute.value] if one else attribute.value:
                for inner in graph.all_nodes():
                    for value in inner.inputs:
                        if value is not None and value.graph is node.graph:
                            yield value


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}


def _text(attribute: ir.Attr) -> object:
    if attribute.is_ref():
        return ("reference", attribute.ref_attr_name)
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.value
        return (str(tensor.dtype), tuple(tensor.shape), tensor.tobytes())
    return str(attribute.value)
