"""Which parts of two models stand for one another: what lies between tensors of one name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from onnx_expand.graph.facts import Facts
from onnx_expand.runtimes.base import Tensors

__all__ = [
    "Cell",
    "Swap",
    "all_cells",
    "common_tensors",
    "constants_of",
    "cut",
    "dependent",
    "differing_cells",
    "inlined",
    "is_symbolic",
    "keep_outputs",
    "known_from_extents",
    "swapped_constants",
    "target",
    "unlike_ends",
]

# Types that arrays hold and runtimes hand out.
_MANY = 256  # outputs of one node
_NUMBERS = {
    *(ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE),
    *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
}
_SUFFIX = "\u2009(computed)"
_SPARE = "\u2009(given)"


@dataclass(frozen=True)
class Cell:
    """What computes one tensor from the nearest tensors before it that both models have.

    Attributes:
        tensor: The name of the tensor.
        nodes_a: The nodes of A in between.
        nodes_b: The nodes of B.
        inputs: The tensors that either reads.
        shared: The tensors that both read.
    """

    tensor: str
    nodes_a: tuple[str, ...]
    nodes_b: tuple[str, ...]
    inputs: frozenset[str]
    shared: frozenset[str]

    @property
    def alike(self) -> bool:
        """Whether both models read the same tensors for it."""
        return self.inputs == self.shared


@dataclass(frozen=True)
class Swap:
    """A constant in the place of another one, between nodes that are alike.

    Attributes:
        tensor: The tensor that the nodes compute.
        name: What A calls the constant.
        readers: The ops in A that read it, and at which input.
        a: The constant in A.
        b: That in B.
    """

    tensor: str
    name: str
    readers: frozenset[tuple[str, int]]
    a: ir.TensorProtocol
    b: ir.TensorProtocol


def common_tensors(a: ir.Model, b: ir.Model, facts: Facts | None = None) -> dict[str, ir.DataType]:
    """Names and types in A of the tensors of numbers that nodes of both main graphs compute.

    Args:
        a: One model.
        b: The other one.
        facts: About A, where they are known already.
    """
    others = {out.name for node in b.graph for out in node.outputs if out.name}
    facts = facts or Facts(a)
    found = {}
    for node in a.graph:
        for out in node.outputs:
            is_tensor = out.type is None or isinstance(out.type, ir.TensorType)
            dtype = facts.dtype(out) if is_tensor else None
            if dtype is None or dtype not in _NUMBERS or out.name not in others:
                continue
            if out.name and not facts.is_constant(out):
                found[out.name] = dtype
    return found


def differing_cells(a: ir.Model, b: ir.Model, names: Set[str]) -> list[Cell]:
    """The cells that the two models do not have node for node alike.

    Args:
        a: One model.
        b: The other one.
        names: The tensors that bound the cells, besides the inputs of the models.
    """
    return [
        _cell(name, left, right)
        for name, left, right in _walks(a, b, names)
        if not left.is_like(right)
    ]


def all_cells(a: ir.Model, b: ir.Model, names: Set[str]) -> list[Cell]:
    """All cells between tensors of these names, those that are node for node alike included."""
    return [_cell(name, left, right) for name, left, right in _walks(a, b, names)]


def _cell(name: str, left: _Walk, right: _Walk) -> Cell:
    return Cell(
        name,
        left.labels(),
        right.labels(),
        frozenset(left.inputs | right.inputs),
        frozenset(left.inputs & right.inputs),
    )


def unlike_ends(a: ir.Model, b: ir.Model, names: Set[str]) -> list[str]:
    """The outputs that are none of the tensors of these names, and may differ."""
    others = {value.name: value for value in b.graph.outputs}
    found = []
    for value in a.graph.outputs:
        other = others.get(value.name)
        if value.name in names:
            continue
        if other is None or (value.producer() is None) != (other.producer() is None):
            found.append(value.name or "")
        elif value.producer() is None:
            if not (value.const_value is other.const_value is None) and not _are_same(
                value.const_value, other.const_value
            ):
                found.append(value.name or "")
        elif not _Walk.from_(value, names).is_like(_Walk.from_(other, names)):
            found.append(value.name or "")
    return found


def dependent(model: ir.Model, names: Set[str]) -> Set[str]:
    """Those of some tensors that follow, among others, from others of them."""
    after: set[ir.Value] = {value for value in model.graph.inputs if value.name in names}
    found = set()
    for node in model.graph:
        if any(value in after for value in _operands(node)):
            found |= {out.name or "" for out in node.outputs if out.name in names}
            after.update(node.outputs)
        after.update(out for out in node.outputs if out.name in names)
    return found


def inlined(model: ir.Model) -> ir.Model:
    """The model itself, or a copy with the bodies of its functions in the place of their calls.

    Bodies of another opset than the model's stay where they are.
    """
    if not model.functions:
        return model
    copy = model.clone()
    try:
        InlinePass()(copy)
    except Exception:  # the pass has no error of its own for what it cannot do
        return model
    return copy


def swapped_constants(a: ir.Model, b: ir.Model, names: Set[str]) -> list[Swap]:
    """The cells that are node for node alike and differ in one constant.

    Where two differ they may make up for one another, as scales of layers that follow each other.

    Args:
        a: One model.
        b: The other one.
        names: The tensors that bound the cells, besides the inputs of the models.
    """
    found = []
    for name, left, right in _walks(a, b, names):
        pairs = left.unlike(right)
        if pairs is not None and len(pairs) == 1:
            x, y = pairs[0]
            assert x.const_value is not None
            assert y.const_value is not None
            readers = frozenset((node.op_type, index) for node, index in x.uses())
            found.append(Swap(name, x.name or "", readers, x.const_value, y.const_value))
    return found


def _walks(a: ir.Model, b: ir.Model, names: Set[str]) -> Iterator[tuple[str, _Walk, _Walk]]:
    others = {out.name: out for node in b.graph for out in node.outputs if out.name in names}
    for node in a.graph:
        if len(node.outputs) > _MANY:
            continue  # each of its outputs leads to all of it
        for out in node.outputs:
            if out.name in names:
                right = _Walk.from_(others[out.name], names)
                yield out.name or "", _Walk.from_(out, names), right


class _Walk:
    """The nodes between a value and the tensors that bound its cell, inputs before users."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.inputs: set[str] = set()
        self._names: dict[ir.Value, tuple[object, ...]] = {}
        self._constants: list[ir.Value] = []
        self._text: list[object] = []

    @classmethod
    def from_(cls, value: ir.Value, names: Set[str]) -> _Walk:
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
            for operand in _operands(node):
                producer = operand.producer()
                if producer is None or operand.name in names:
                    walk._note(operand)
                elif producer not in seen:
                    pending.append((producer, False))
        walk._text.append(walk._names[value])
        return walk

    def _note(self, value: ir.Value) -> None:
        """A value from outside: a constant, or a tensor that bounds the cell."""
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
        """An attribute as text; two inner graphs are alike if they have the same names, too."""
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
        return tuple(
            node.name or node.outputs[0].name or node.op_type
            for node in self.nodes
            if node.op_type != "Constant"
        )

    def is_like(self, other: _Walk) -> bool:
        """Whether the two hold the same nodes with the same constants."""
        return self.unlike(other) == []

    def unlike(self, other: _Walk) -> list[tuple[ir.Value, ir.Value]] | None:
        """The constants in which the two differ; None where they do not hold the same nodes."""
        if self._text != other._text or len(self._constants) != len(other._constants):
            return None
        pairs = zip(self._constants, other._constants, strict=True)
        return [(x, y) for x, y in pairs if not _are_same(x.const_value, y.const_value)]


def _are_same(x: ir.TensorProtocol | None, y: ir.TensorProtocol | None) -> bool:
    if x is None or y is None:
        return x is y
    return x is y or (x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes())


def _operands(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its inner graphs included."""
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


def known_from_extents(model: ir.Model, facts: Facts) -> set[str]:
    """Tensors that follow from the extents of a model's inputs, whatever their numbers."""
    found: set[ir.Value] = set()
    for node in model.graph:
        if (node.op_type in {"Shape", "Size"} and not node.domain) or all(
            value in found or facts.is_constant(value) for value in _operands(node)
        ):
            found.update(node.outputs)
    return {value.name or "" for value in found}


def is_symbolic(model: ir.Model, facts: Facts, names: Set[str]) -> bool:
    """Whether tensors may have any extents on all of their spatial axes."""
    values = [out for node in model.graph for out in node.outputs if out.name in names]
    values += [value for value in model.graph.inputs if value.name in names]
    shapes = [facts.shape(value) for value in values]
    return all(shape is not None and set(shape[2:]) <= {None} for shape in shapes)


def target(name: str) -> str:
    """What a cut model calls a tensor that it computes, since it is given one of that name."""
    return name + _SUFFIX


def cut(model: ir.Model, cells: Mapping[str, Cell], values: Tensors) -> ir.Model:
    """The cells of a model side by side, each between inputs and an output of its own.

    Args:
        model: The model, which is not changed.
        cells: The cells, by the name of their tensor.
        values: An array for each tensor that a cell reads; it decides type and shape.

    Returns:
        A model from these tensors, by their own names, to those of the cells, called as `target`
        says.
    """
    copy = model.clone()
    graph = copy.graph
    bounds = set[str]().union(*(cell.inputs for cell in cells.values()))
    outputs, given = [], []
    for node in graph:
        for out in node.outputs:
            name = out.name or ""
            if name in bounds:
                value = _given(name, values[name])
                convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
                given.append(value)
                # Another output of the node may be computed still.
                out.name = name + _SPARE
            if name in cells:
                out.name = target(name)
                outputs.append(out)
            out.shape = None  # it may be stale, and follows from those of the inputs
    for value in graph.inputs:
        if (name := value.name or "") in values:
            value.shape = ir.Shape(values[name].shape)
    graph.inputs.extend(given)
    graph.outputs[:] = outputs
    keep_outputs(copy, {target(name) for name in cells})
    return copy


def keep_outputs(model: ir.Model, names: Set[str]) -> None:
    """Remove from a model all that does not compute some of its outputs."""
    graph = model.graph
    graph.outputs[:] = [value for value in graph.outputs if value.name in names]
    RemoveUnusedNodesPass()(model)
    # Weights that a caller could replace are not replaced here.
    graph.inputs[:] = [v for v in graph.inputs if v.uses() and not v.is_initializer()]


def constants_of(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of a model that computes nothing but some of its constants.

    Args:
        model: A model.
        names: Values that nodes of its main graph compute from constants.
    """
    copy = model.clone()
    values = {out.name: out for node in copy.graph for out in node.outputs}
    copy.graph.outputs[:] = [values[name] for name in names]
    keep_outputs(copy, set(names))
    return copy


def _given(name: str, array: Any) -> ir.Value:
    return ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
    )
