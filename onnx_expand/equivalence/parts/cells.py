"""Cells: the corresponding parts of two models between tensors of common names."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnx_expand.equivalence.parts.walks import Walk, are_same, operands
from onnx_expand.graph.facts import Facts

__all__ = [
    "Cell",
    "Swap",
    "all_cells",
    "common_tensors",
    "dependent",
    "differing_cells",
    "inlined",
    "is_symbolic",
    "known_from_extents",
    "swapped_constants",
    "unlike_ends",
]

# Types that numpy and the runtimes exchange.
_MANY = 256  # outputs of one node
_CUTTING = {
    *("Compress", "Gather", "GatherElements", "GatherND", "Pad", "Slice", "Split", "TopK"),
}
"""Ops whose output may lack elements of their first input, wherever these are."""
_NUMBERS = {
    *(ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE),
    *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
}


@dataclass(frozen=True)
class Cell:
    """The nodes that compute one tensor from the nearest preceding tensors that both models have.

    Attributes:
        tensor: The name of the tensor.
        nodes_a: The nodes of the cell in A.
        nodes_b: The nodes of the cell in B.
        inputs: The tensors that the cell reads in A or in B.
        shared: The tensors that it reads in both.
    """

    tensor: str
    nodes_a: tuple[str, ...]
    nodes_b: tuple[str, ...]
    inputs: frozenset[str]
    shared: frozenset[str]

    @property
    def alike(self) -> bool:
        """Whether the cell reads the same tensors in both models."""
        return self.inputs == self.shared


@dataclass(frozen=True)
class Swap:
    """A constant that was replaced by another one, between otherwise equal nodes.

    Attributes:
        tensor: The tensor that the nodes compute.
        name: The name of the constant in A.
        readers: The ops in A that read it, each with the index of the input.
        a: The constant in A.
        b: The constant in B.
    """

    tensor: str
    name: str
    readers: frozenset[tuple[str, int]]
    a: ir.TensorProtocol
    b: ir.TensorProtocol


def common_tensors(a: ir.Model, b: ir.Model, facts: Facts | None = None) -> dict[str, ir.DataType]:
    """Return name and type in A of the numeric tensors that nodes of both main graphs compute."""
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
    """Return the cells between inputs and tensors in which the nodes of two models differ."""
    return [
        _cell(name, left, right)
        for name, left, right in _walks(a, b, names)
        if not left.is_like(right)
    ]


def all_cells(a: ir.Model, b: ir.Model, names: Set[str]) -> list[Cell]:
    """Return all cells between tensors of these names, including those with equal nodes."""
    return [_cell(name, left, right) for name, left, right in _walks(a, b, names)]


def _cell(name: str, left: Walk, right: Walk) -> Cell:
    return Cell(
        name,
        left.labels(),
        right.labels(),
        frozenset(left.inputs | right.inputs),
        frozenset(left.inputs & right.inputs),
    )


def unlike_ends(a: ir.Model, b: ir.Model, names: Set[str]) -> list[str]:
    """Return the outputs that are not among these tensors and may differ."""
    others = {value.name: value for value in b.graph.outputs}
    found = []
    for value in a.graph.outputs:
        other = others.get(value.name)
        if value.name in names:
            continue
        if other is None or (value.producer() is None) != (other.producer() is None):
            found.append(value.name or "")
        elif value.producer() is None:
            if not (value.const_value is other.const_value is None) and not are_same(
                value.const_value, other.const_value
            ):
                found.append(value.name or "")
        elif not Walk.from_(value, names).is_like(Walk.from_(other, names)):
            found.append(value.name or "")
    return found


def dependent(model: ir.Model, names: Set[str]) -> Set[str]:
    """Return those of the named tensors that depend on others of them."""
    after: set[ir.Value] = {value for value in model.graph.inputs if value.name in names}
    found = set()
    for node in model.graph:
        if any(value in after for value in operands(node)):
            found |= {out.name or "" for out in node.outputs if out.name in names}
            after.update(node.outputs)
        after.update(out for out in node.outputs if out.name in names)
    return found


def inlined(model: ir.Model) -> ir.Model:
    """Return the model, or a copy of it with all local functions inlined.

    Functions that import another opset version than the model are not inlined.
    """
    if not model.functions:
        return model
    copy = model.clone()
    try:
        InlinePass()(copy)
    except Exception:  # the pass raises arbitrary errors for models that it cannot process
        return model
    return copy


def swapped_constants(a: ir.Model, b: ir.Model, names: Set[str]) -> list[Swap]:
    """Return the constants in which cells of otherwise equal nodes differ, if exactly one differs.

    Two different constants may compensate for each other, as the scales of consecutive layers do.
    A constant of which the cell uses only a part, such as a bias before a Split, may differ, too.
    """
    found = []
    for name, left, right in _walks(a, b, names):
        pairs = left.unlike(right)
        if pairs is not None and len(pairs) == 1:
            x, y = pairs[0]
            assert x.const_value is not None
            assert y.const_value is not None
            if _is_cut(left, x):
                continue
            readers = frozenset((node.op_type, index) for node, index in x.uses())
            found.append(Swap(name, x.name or "", readers, x.const_value, y.const_value))
    return found


def _is_cut(walk: Walk, constant: ir.Value) -> bool:
    """Return whether a walk drops elements of what it computes from a constant."""
    after = {constant}
    for node in walk.nodes:
        if after.isdisjoint(operands(node)):
            continue
        if node.op_type in _CUTTING and node.inputs[0] is not constant:
            return True
        after.update(node.outputs)
    return False


def _walks(a: ir.Model, b: ir.Model, names: Set[str]) -> Iterator[tuple[str, Walk, Walk]]:
    others = {out.name: out for node in b.graph for out in node.outputs if out.name in names}
    for node in a.graph:
        if len(node.outputs) > _MANY:
            continue  # each of its outputs depends on all of the node
        for out in node.outputs:
            if out.name in names:
                right = Walk.from_(others[out.name], names)
                yield out.name or "", Walk.from_(out, names), right


def known_from_extents(model: ir.Model, facts: Facts) -> set[str]:
    """Return the tensors that depend only on the extents of a model's inputs."""
    found: set[ir.Value] = set()
    for node in model.graph:
        if (node.op_type in {"Shape", "Size"} and not node.domain) or all(
            value in found or facts.is_constant(value) for value in operands(node)
        ):
            found.update(node.outputs)
    return {value.name or "" for value in found}


def is_symbolic(model: ir.Model, facts: Facts, names: Set[str]) -> bool:
    """Return whether tensors allow any extent on all of their spatial axes."""
    values = [out for node in model.graph for out in node.outputs if out.name in names]
    values += [value for value in model.graph.inputs if value.name in names]
    shapes = [facts.shape(value) for value in values]
    return all(shape is not None and set(shape[2:]) <= {None} for shape in shapes)
