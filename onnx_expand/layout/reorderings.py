"""Reorderings: how a node is written for values with permuted axes.

A permutation q replaces a value x by transpose(x, q): axis i of the result is axis q[i] of x. The
function registered for an op returns which inputs and outputs of a node are permuted together,
and the attributes and constants with which it computes the same elements. Each satisfies the law
f'(transpose(x, q)) = transpose(f(x), q), or f'(transpose(x, q)) = f(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import has_references, int_of, ints_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers, slot_of
from onnx_expand.graph.ops import Handlers
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.layout.features import SMALL, Features, features_before, features_behind

__all__ = [
    "REORDERINGS",
    "Order",
    "Reordering",
    "keeps_order",
    "new_axis",
    "reordering_of",
    "tensor_of",
]

Order = tuple[int, ...]


@dataclass(frozen=True)
class Reordering:
    """The changes of a node that works in another axis order.

    Attributes:
        inputs: The indices of the inputs that are permuted.
        outputs: The indices of the outputs that are permuted; if there are none, the node computes
            the same outputs from either order.
        attributes: The new values of attributes that change.
        constants: The new constants by input index.
        gathered: Whether the output has one element per axis, whose order must be restored.
        features: The features that are reordered with the node.
    """

    inputs: tuple[int, ...] = (0,)
    outputs: tuple[int, ...] = (0,)
    attributes: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    constants: Mapping[int, ir.TensorProtocol] = field(default_factory=dict)
    gathered: bool = False
    features: Features | None = None


def reordering_of(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Return how a node works on turned values; None if it cannot."""
    function = REORDERINGS.get(node.op_type) if node.domain == "" else None
    if function is None or has_references(node):
        return None
    reordering = function(node, order, facts)
    if reordering is None:
        return None
    values = [node.inputs[i] for i in reordering.inputs] + [
        node.outputs[i] for i in reordering.outputs
    ]
    return reordering if all(facts.rank(value) == len(order) for value in values) else None


_Function = Callable[[ir.Node, Order, Facts], "Reordering | None"]
REORDERINGS: Handlers[_Function] = Handlers("how does it work in another axis order?")

_UNARY = (
    *("Abs", "Cast", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal"),
    *("Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt"),
    *("Tanh", "ThresholdedRelu", "Sin", "Cos", "Not", "CastLike", "IsInf", "IsNaN"),
)


@REORDERINGS.register(*_UNARY)
def _unary(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute input and output; further inputs are scalars or only give a dtype."""
    return Reordering()


@REORDERINGS.register("Dropout")
def _dropout(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute a Dropout as an elementwise op, if its mask is unused."""
    asked = any(out.uses() or out.is_graph_output() for out in node.outputs[1:])
    return None if asked else Reordering()


_BROADCASTING = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
    *("Mean", "Min", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where"),
)


_ALIGNED = 8  # from this opset on, all of these broadcast by aligning the last axes


@REORDERINGS.register(*_BROADCASTING)
def _broadcasting(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute all operands; constants of lower rank get the missing axes."""
    if facts.opset < _ALIGNED:
        return None  # older opsets have other broadcasting rules
    inputs: list[int] = []
    constants: dict[int, ir.TensorProtocol] = {}
    for i, value in enumerate(node.inputs):
        rank = facts.rank(value)
        if value is None or rank is None or rank > len(order):
            return None
        if rank == 0:
            continue
        if facts.is_constant(value):
            tensor = _permuted_constant(value, node, order, facts)
            if tensor is None:
                return None
            if tensor is not facts.tensor(value):
                constants[i] = tensor
        elif rank == len(order):
            inputs.append(i)
        else:
            return None
    return Reordering(tuple(inputs), constants=constants) if inputs else None


def _permuted_constant(
    value: ir.Value, node: ir.Node, order: Order, facts: Facts
) -> ir.TensorProtocol | None:
    """Return a constant with permuted axes; None if this needs a second copy or a conversion."""
    tensor = facts.tensor(value)
    shape = facts.dims(value)
    if math.prod(shape) == 1 and len(shape) <= 1:
        return tensor
    is_own = all(use.node is node for use in value.uses()) and value.producer() is None
    if tensor.dtype.bitwidth < 8 or (math.prod(shape) > SMALL and not is_own):
        return None
    array = read_tensor(tensor).reshape((1,) * (len(order) - len(shape)) + shape)
    return ir.Tensor(np.ascontiguousarray(array.transpose(order)), tensor.dtype)


def new_axis(axis: int, order: Order) -> int:
    """Return the index of an axis after the turn."""
    return order.index(axis % len(order))


@REORDERINGS.register("Concat")
def _concat(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute all inputs, with constants, and move the axis."""
    constants: dict[int, ir.TensorProtocol] = {}
    for i, value in enumerate(node.inputs):
        if value is not None and facts.is_constant(value):
            tensor = _permuted_constant(value, node, order, facts)
            if tensor is None or len(tensor.shape) != len(order):
                return None
            constants[i] = tensor
    axis = new_axis(int_of(node, "axis", facts.opset, 1), order)
    inputs = tuple(i for i in range(len(node.inputs)) if i not in constants)
    return Reordering(inputs, (0,), {"axis": axis}, constants) if inputs else None


@REORDERINGS.register("Split")
def _split(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the input and all outputs, and move the axis."""
    outputs = tuple(range(len(node.outputs)))
    return Reordering((0,), outputs, {"axis": new_axis(int_of(node, "axis", facts.opset), order)})


@REORDERINGS.register("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axis; before opset 13 these ops flatten several axes."""
    if facts.opset < _ONE_AXIS:
        return None
    return Reordering(attributes={"axis": new_axis(int_of(node, "axis", facts.opset), order)})


_ONE_AXIS = 13


@REORDERINGS.register("Pad")
def _pad(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the pads."""
    pads, rank = integers(node, "pads", facts), len(order)
    if pads is None or len(pads) != 2 * rank or integers(node, "axes", facts) != []:
        return None
    permuted = [pads[axis] for axis in order] + [pads[rank + axis] for axis in order]
    return _with_setting(node, "pads", permuted, facts)


_REDUCING = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


@REORDERINGS.register(*_REDUCING)
def _reduce(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axes; if the result drops them, the order must not permute the others."""
    chosen = integers(node, "axes", facts)
    if not chosen:
        return None
    axes = sorted(new_axis(axis, order) for axis in chosen)
    if int_of(node, "keepdims", facts.opset):
        return _with_setting(node, "axes", axes, facts)
    in_order = keeps_order(order, {axis % len(order) for axis in chosen})
    return _with_setting(node, "axes", axes, facts, ()) if in_order else None


@REORDERINGS.register("Squeeze")
def _squeeze(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axes, if the order does not permute the others."""
    chosen = integers(node, "axes", facts)
    if not chosen or not keeps_order(order, {axis % len(order) for axis in chosen}):
        return None
    axes = sorted(new_axis(axis, order) for axis in chosen)
    return _with_setting(node, "axes", axes, facts, ())


@REORDERINGS.register("Unsqueeze")
def _unsqueeze(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the new axes, if the order does not permute the others."""
    chosen = integers(node, "axes", facts)
    if not chosen or not keeps_order(order, {axis % len(order) for axis in chosen}):
        return None
    axes = sorted(new_axis(axis, order) for axis in chosen)
    return replace(_with_setting(node, "axes", axes, facts), inputs=())


@REORDERINGS.register("Transpose")
def _transpose(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Compose the permutation with the order; the output does not change."""
    perm = ints_of(node, "perm") or tuple(range(len(order)))[::-1]
    if sorted(perm) != list(range(len(order))):
        return None
    return Reordering((0,), (), {"perm": [new_axis(axis, order) for axis in perm]})


def keeps_order(order: Order, without: set[int]) -> bool:
    """Return whether a permutation keeps the order of all axes except `without`."""
    kept = [axis for axis in order if axis not in without]
    return kept == sorted(kept)


def _with_setting(
    node: ir.Node, name: str, numbers: Sequence[int], facts: Facts, outputs: tuple[int, ...] = (0,)
) -> Reordering:
    """Return the reordering that replaces a setting, an attribute or an input."""
    slot = slot_of(node.op_type, name, facts.opset)
    if slot is None:
        return Reordering((0,), outputs, {name: numbers})
    return Reordering((0,), outputs, constants={slot: tensor_of(numbers)})


@REORDERINGS.register("Flatten", "Reshape")
def _reshape(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the input if only axes of extent 1 move, which keeps the order of the elements.

    Otherwise the result has reordered features, which dense layers may absorb.
    """
    extents = facts.extents(node.inputs[0])
    if extents is None or len(extents) != len(order):
        return _reshape_to(node, order, facts) if node.op_type == "Reshape" else None
    features = None
    if not _is_in_order(extents, order):
        features = features_behind(node, order, facts, _is_elementwise(facts))
        if features is None:
            return _reshape_to(node, order, facts) if node.op_type == "Reshape" else None
    if node.op_type == "Flatten":
        axis = int_of(node, "axis", facts.opset)
        same = features is not None or (axis in {0, 1} and order[0] == 0)
        return Reordering((0,), (), features=features) if same else None
    wanted = facts.extents_in(node.inputs[1])
    if wanted is None or any(_copies(i, wanted, extents, order) for i in range(len(wanted))):
        return None
    return (
        Reordering((0,), (), features=features)
        if facts.rank(node.outputs[0]) is not None
        else None
    )


def _is_elementwise(facts: Facts) -> Callable[[ir.Node], bool]:
    """Return a predicate for elementwise nodes."""

    def found(node: ir.Node) -> bool:
        if node.domain or facts.opset < _ALIGNED:
            return False
        asked = any(out.uses() or out.is_graph_output() for out in node.outputs[1:])
        return not asked and node.op_type in {*_UNARY, *_BROADCASTING, "Dropout"}

    return found


def _is_in_order(extents: Sequence[Hashable], order: Order) -> bool:
    return keeps_order(order, {i for i, extent in enumerate(extents) if extent == 1})


def _reshape_to(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the output and the target extents of a Reshape, by the laws of `_reshape`."""
    extents, wanted = facts.extents(node.outputs[0]), integers(node, "shape", facts)
    if extents is None or wanted is None or not len(extents) == len(wanted) == len(order):
        return None
    if any(wanted[i] == 0 and order[i] != i for i in range(len(order))):
        return None
    features = None
    if not _is_in_order(extents, order):
        features = features_before(node, order, facts, _is_elementwise(facts))
        if features is None:
            return None
    constants = {1: tensor_of([wanted[axis] for axis in order])}
    return Reordering((), (0,), constants=constants, features=features)


def _copies(i: int, wanted: Sequence[Hashable], extents: Sequence[Hashable], order: Order) -> bool:
    """Return whether a Reshape may copy an extent (target 0) that differs after the turn.

    A dynamic extent may be zero.
    """
    if isinstance(wanted[i], int) and wanted[i] != 0:
        return False
    return extents[order[i]] != extents[i] if i < len(order) else wanted[i] == 0


@REORDERINGS.register("Slice")
def _slice(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axes, which must be given."""
    axes = integers(node, "axes", facts)
    if not axes:
        return None
    return _with_setting(node, "axes", [new_axis(axis, order) for axis in axes], facts)


@REORDERINGS.register("Shape")
def _shape(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the input; the extents are then gathered in their original order."""
    if int_of(node, "start", facts.opset) or "end" in node.attributes:
        return None
    return Reordering((0,), (), gathered=True)


def tensor_of(numbers: Sequence[int]) -> ir.TensorProtocol:
    """Return integers as an int64 tensor."""
    return ir.Tensor(np.array(numbers, dtype=np.int64))
