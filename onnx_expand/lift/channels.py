"""Lift per-channel ops and ops that treat all channels alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.attributes import float_of, int_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.lift.base import (
    Array,
    Axes,
    Linear,
    Numbers,
    input_of,
    lifts,
    refuse,
    refuse_unknown_rank,
)


@lifts("BatchNormalization")
def _batch_normalization(node: ir.Node, facts: Facts) -> Linear | None:
    if int_of(node, "training_mode", facts.opset):
        refuse("it is in training mode")
    if not int_of(node, "spatial", facts.opset, 1):
        refuse("it has spatial=0")
    if facts.opset < 7 and not int_of(node, "is_test", facts.opset):
        refuse("it is in training mode (is_test=0)")
    if len(node.inputs) != 5:
        refuse(f"it has {len(node.inputs)} inputs, not 5")
    scale, shift, mean, variance = (input_of(node, i) for i in range(1, 5))
    epsilon = float_of(node, "epsilon", facts.opset)

    def load() -> AffineConv:
        spread = facts.array(variance) + epsilon
        if np.any(spread <= 0):
            refuse(f"'{variance.name}' plus epsilon is not positive")
        factor = facts.array(scale) / np.sqrt(spread)
        return AffineConv.per_channel(factor, facts.array(shift) - factor * facts.array(mean))

    return _per_channel(node, 0, (1, 1), load(), scale=scale, shift=shift)


@lifts("Identity")
def _identity(node: ir.Node, facts: Facts) -> Linear | None:
    return _per_channel(node, 0, None, AffineConv.identity(1), shift_only=True)


@lifts("Dropout")
def _dropout(node: ir.Node, facts: Facts) -> Linear | None:
    mode = input_of(node, 2, optional=True)
    if mode is not None and np.any(read_tensor(facts.tensor(mode))):
        refuse("it is in training mode")
    if facts.opset < 7 and not int_of(node, "is_test", facts.opset):
        refuse("it is in training mode (is_test=0)")
    return _per_channel(node, 0, None, AffineConv.identity(1), shift_only=True)


@lifts("LeakyRelu")
def _leaky_relu(node: ir.Node, facts: Facts) -> Linear | None:
    if float_of(node, "alpha", facts.opset) != 1:
        return None
    return _per_channel(node, 0, None, AffineConv.identity(1), shift_only=True)


@lifts("Neg")
def _neg(node: ir.Node, facts: Facts) -> Linear | None:
    return _per_channel(node, 0, None, AffineConv.per_channel([-1.0]))


@lifts("Add", "Sub", "Mul", "Div")
def _arithmetic(node: ir.Node, facts: Facts) -> Linear | None:
    a, b = input_of(node, 0), input_of(node, 1)
    second = facts.is_constant(b)
    if second == facts.is_constant(a):
        return None  # both operands are activations, or both are constants
    if not second and node.op_type == "Div":
        return None  # a constant divided by an activation
    x, constant = (a, b) if second else (b, a)
    if facts.opset < 7:
        refuse("it broadcasts by the rules before opset 7")
    axes, values = _channel_values(facts, x, constant)
    scaled = _spread if _is_broadcast(facts, x, axes, values) else AffineConv.per_channel
    if node.op_type == "Div" and not np.all(values):
        refuse(f"the divisor '{constant.name}' has zeros")
    numbers = _reversed if node.op_type == "Sub" and not second else _ARITHMETIC[node.op_type]
    scale, shift = numbers(values)
    only = scale is None
    affine = scaled(np.ones_like(values) if only else scale, shift)
    linear = _per_channel(node, int(not second), axes, affine, shift=constant, shift_only=only)
    return replace(linear, operands=(constant,), numbers=numbers)


def _added(*constants: Any) -> tuple[Any, Any]:
    return None, sum(constant.reshape(-1) for constant in constants)


def _subtracted(constant: Any) -> tuple[Any, Any]:
    return None, -constant.reshape(-1)


def _reversed(constant: Any) -> tuple[Any, Any]:
    """Return -1 and the constant; the power 0 of a constant is 1 of its dtype and device."""
    return -(constant.reshape(-1) ** 0), constant.reshape(-1)


def _multiplied(constant: Any) -> tuple[Any, Any]:
    return constant.reshape(-1), None


def _divided(constant: Any) -> tuple[Any, Any]:
    return 1 / constant.reshape(-1), None


_ARITHMETIC: dict[str, Numbers] = {
    "Add": _added,
    "Sub": _subtracted,
    "Mul": _multiplied,
    "Div": _divided,
}


@lifts("Sum")
def _sum(node: ir.Node, facts: Facts) -> Linear | None:
    """Lift a Sum of one activation and constants."""
    slots = [i for i in range(len(node.inputs)) if not facts.is_constant(input_of(node, i))]
    if len(slots) != 1 or len(node.inputs) < 2:
        return None  # a sum of several activations
    if facts.opset < 8:
        refuse("it broadcasts by the rules before opset 8")
    x = input_of(node, slots[0])
    constants = [input_of(node, i) for i in range(len(node.inputs)) if i != slots[0]]
    parts = [_channel_values(facts, x, constant) for constant in constants]
    known = {axes for axes, _ in parts} - {None}
    if len(known) > 1:
        refuse("its constants vary along different axes")
    _, shift = _added(*(values for _, values in parts))
    axes = next(iter(known), None)
    scaled = _spread if _is_broadcast(facts, x, axes, shift) else AffineConv.per_channel
    affine = scaled(np.ones_like(shift), shift)
    linear = _per_channel(node, slots[0], axes, affine, shift=constants[0], shift_only=True)
    return replace(linear, operands=tuple(constants), numbers=_added)


def _spread(scale: Array, shift: Array | None = None) -> AffineConv:
    """Return the map from one channel to as many as there are scales."""
    column = scale.reshape(-1, 1)
    column.flags.writeable = False  # may be cached, so it must not be modified in place
    return AffineConv(column, shift)


def _is_broadcast(facts: Facts, x: ir.Value, axes: Axes | None, values: Array) -> bool:
    """Return whether values per channel broadcast an axis of x of extent 1."""
    shape = facts.shape(x)
    return axes is not None and shape is not None and shape[axes[0]] == 1 < values.size


def _per_channel(
    node: ir.Node,
    slot: int,
    axes: Axes | None,
    affine: AffineConv,
    *,
    scale: ir.Value | None = None,
    shift: ir.Value | None = None,
    shift_only: bool = False,
) -> Linear:
    return Linear(
        node, slot, affine.geometry, axes, lambda: affine, scale, shift, shift_only=shift_only
    )


def _channel_values(facts: Facts, x: ir.Value, constant: ir.Value) -> tuple[Axes | None, Array]:
    """Return the axis along which a constant broadcast against x varies, and its values.

    The true shape of x decides: a constant of higher rank, or longer than an unknown extent of x,
    may change the shape in more than one way. An axis of x of extent 1 may be broadcast.
    """
    array, shape = facts.array(constant), facts.shape(x)
    if array.ndim and shape is None:
        refuse_unknown_rank(x)
    if shape is not None and array.ndim > len(shape):
        refuse(f"'{constant.name}' has more axes than the value it is combined with")
    if array.size == 1:
        return None, array.reshape(1)
    assert shape is not None
    varying = [i for i, d in enumerate(array.shape) if d != 1]
    if len(varying) > 1 or array.size == 0:
        refuse(f"'{constant.name}' of shape {list(array.shape)} varies along several axes")
    axis = len(shape) - array.ndim + varying[0]
    if shape[axis] is None:
        raise RefusedError(
            Refusal(
                Reason.UNKNOWN_SHAPE,
                f"'{constant.name}' may broadcast axis {axis} of '{x.name}', whose extent is not "
                "static",
                hint="run shape inference on the model, or export it with static channels",
            )
        )
    if shape[axis] not in {1, array.size}:
        refuse(f"'{constant.name}' broadcasts axis {axis} of '{x.name}'")
    return (axis, axis), array.reshape(-1)
