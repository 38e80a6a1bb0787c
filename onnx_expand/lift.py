"""From nodes to the algebra: `lift` says which affine convolution a node is.

A new linear op is one function here and a row in its test. The function raises `RefusedError`
where the op is linear in general but this node is not, or cannot be known to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError
from onnx_expand.geometry import Geometry
from onnx_expand.values import Facts, Shape

__all__ = ["Linear", "conv_geometry", "lift"]

Axes = tuple[int, int]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """A node seen as an affine convolution.

    Attributes:
        node: The node.
        slot: The index of the input that it maps.
        geometry: The map's shape. A map that treats all channels alike (a scalar factor) has one
            channel and no axes until `on` gives it some.
        axes: The channel axis in x and in y, counted from the front where the rank is known and
            from the back where not; None if any axis would do.
        weight: The constant that holds the weight, where the node has one.
        bias: The constant that holds the bias, where the node has one.
        load: Reads the numbers; raises `RefusedError` when they are not finite.
    """

    node: ir.Node
    slot: int
    geometry: Geometry
    axes: Axes | None
    load: Callable[[], AffineConv]
    weight: ir.Value | None = None
    bias: ir.Value | None = None
    shift_only: bool = False

    @property
    def x(self) -> ir.Value:
        """The value that the node maps, as the graph is now."""
        return _input(self.node, self.slot)

    @property
    def y(self) -> ir.Value:
        """The value that the node computes."""
        return self.node.outputs[0]

    def on(self, axis: int, channels: int) -> Linear:
        """A map that treats all channels alike, for so many channels on an axis."""
        if self.axes is not None:
            return self

        def load() -> AffineConv:
            one = self.load()
            shift = None if one.bias is None else np.repeat(one.bias, channels)
            return AffineConv.per_channel(np.repeat(one.weight, channels), shift)

        geometry = replace(
            self.geometry, in_channels=channels, out_channels=channels, group=channels
        )
        return replace(self, geometry=geometry, axes=(axis, axis), load=load)


Lifter = Callable[[ir.Node, Facts], "Linear | None"]
_LIFTERS: dict[str, Lifter] = {}


def lift(node: ir.Node, facts: Facts) -> Linear | Refusal | None:
    """The affine convolution that a node computes.

    Returns:
        The map; or why a node of a linear op is none; or None for a node that is not linear.
    """
    lifter = _LIFTERS.get(node.op_type) if node.domain == "" else None
    if lifter is None or not node.outputs:
        return None
    try:
        linear = lifter(node, facts)
        if linear is not None and any(out.uses() or out.name for out in node.outputs[1:]):
            return Refusal(Reason.UNSUPPORTED, f"{node.op_type} has further outputs")
        return linear
    except RefusedError as error:
        return error.refusal
    except UsageError as error:  # shapes that contradict each other
        return Refusal(Reason.UNSUPPORTED, str(error))


def _lifts(*op_types: str) -> Callable[[Lifter], Lifter]:
    def register(function: Lifter) -> Lifter:
        _LIFTERS.update(dict.fromkeys(op_types, function))
        return function

    return register


# -- Convolution ------------------------------------------------------------------------------


@_lifts("Conv")
def _conv(node: ir.Node, facts: Facts) -> Linear | None:
    x, weight = _input(node, 0), _input(node, 1)
    bias = _input(node, 2, optional=True)
    geometry = replace(
        conv_geometry(node, facts.dims(weight), facts.shape(x)),
        bias=bias is not None and bool(np.any(facts.array(bias))),
    )

    def load() -> AffineConv:
        return AffineConv(
            facts.array(weight),
            None if bias is None else facts.array(bias),
            geometry.strides,
            geometry.dilations,
            geometry.pads,
            geometry.group,
        )

    return Linear(node, 0, geometry, (1, 1), load, weight, bias)


def conv_geometry(node: ir.Node, weight: Sequence[int], x: Shape | None) -> Geometry:
    """The geometry of a Conv node, `auto_pad` resolved, bias left out.

    Args:
        node: Gives the attributes.
        weight: The shape of the weight, [n, m / group, *kernel].
        x: The shape of the input, where known.

    Raises:
        RefusedError: `auto_pad` needs an input extent that is not static.
    """
    kernel = tuple(weight[2:])
    if not kernel:
        _refuse("its weight has no spatial axis")
    strides = _ints(node, "strides") or (1,) * len(kernel)
    dilations = _ints(node, "dilations") or (1,) * len(kernel)
    group = node.attributes.get_int("group", 1)
    base = Geometry(
        weight[1] * group, weight[0], kernel, strides, dilations, _ints(node, "pads"), group
    )
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad in {"NOTSET", ""}:
        return base
    if auto_pad == "VALID":
        return replace(base, pads=(0,) * 2 * len(kernel))
    if auto_pad not in {"SAME_UPPER", "SAME_LOWER"}:
        _refuse(f"auto_pad is '{auto_pad}'")
    extents = (None,) * len(kernel) if x is None else x[2:]
    totals = []
    for size, stride, reach in zip(extents, strides, base.reach, strict=True):
        if stride > 1 and size is None:
            raise RefusedError(
                Refusal(
                    Reason.UNKNOWN_SHAPE,
                    f"auto_pad {auto_pad} with stride {stride} depends on an extent that is not "
                    "static",
                    hint="export the model with static height and width, or with explicit pads",
                )
            )
        covered = 1 if size is None or stride == 1 else size - (-(-size // stride) - 1) * stride
        totals.append(max(0, reach - covered))
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    pads = less + more if auto_pad == "SAME_UPPER" else more + less
    return replace(base, pads=tuple(pads))


# -- Matrices ---------------------------------------------------------------------------------


@_lifts("Gemm")
def _gemm(node: ir.Node, facts: Facts) -> Linear | None:
    a, b, c = _input(node, 0), _input(node, 1), _input(node, 2, optional=True)
    alpha = node.attributes.get_float("alpha", 1.0)
    beta = node.attributes.get_float("beta", 1.0)
    trans_a = bool(node.attributes.get_int("transA", 0))
    trans_b = bool(node.attributes.get_int("transB", 0))
    if facts.is_constant(b) or not facts.is_constant(a):
        slot, weight, transposed = 0, b, not trans_b
        axes = (0, 1) if trans_a else (1, 1)
    else:
        slot, weight, transposed = 1, a, trans_a
        axes = (1, 0) if trans_b else (0, 0)
    shape = facts.dims(weight)
    if len(shape) != 2:
        _refuse(f"its weight has {len(shape)} axes, not 2")
    n, m = shape[::-1] if transposed else shape
    bias = None if c is None else _broadcast_bias(facts, c, axes[1], n, 2)
    geometry = Geometry(m, n, bias=bias is not None and bool(np.any(beta * bias)))

    def load() -> AffineConv:
        array = facts.array(weight)
        return AffineConv(
            alpha * (array.T if transposed else array), None if bias is None else beta * bias
        )

    return Linear(node, slot, geometry, axes, load, weight, c)


@_lifts("MatMul")
def _matmul(node: ir.Node, facts: Facts) -> Linear | None:
    a, b = _input(node, 0), _input(node, 1)
    if not facts.is_constant(a) and not facts.is_constant(b):
        # A product of two activations is no linear map of either; a weight that only a caller
        # may replace is worth a word.
        for value in (b, a):
            if value.is_initializer():
                facts.tensor(value)
        return None
    right = facts.is_constant(b)
    x, weight = (a, b) if right else (b, a)
    shape, rank = facts.dims(weight), facts.rank(x)
    if len(shape) < 2 or any(d != 1 for d in shape[:-2]):
        _refuse(f"its weight of shape {list(shape)} is not one matrix")
    if rank is None and (len(shape) > 2 or not right):
        _unknown_rank(x)
    if rank is not None and rank < max(2 if not right else 1, len(shape) if len(shape) > 2 else 1):
        _refuse(f"its input of rank {rank} takes on axes of the weight")
    axis = -1 if right else -2
    axis = axis if rank is None else rank + axis
    n, m = (shape[-1], shape[-2]) if right else (shape[-2], shape[-1])

    def load() -> AffineConv:
        matrix = facts.array(weight).reshape(shape[-2:])
        return AffineConv(matrix.T if right else matrix)

    return Linear(node, 0 if right else 1, Geometry(m, n), (axis, axis), load, weight)


# -- Per channel ------------------------------------------------------------------------------


@_lifts("BatchNormalization")
def _batch_normalization(node: ir.Node, facts: Facts) -> Linear | None:
    if node.attributes.get_int("training_mode", 0):
        _refuse("it is in training mode")
    if not node.attributes.get_int("spatial", 1):
        _refuse("it has spatial=0")
    if facts.opset < 7 and not node.attributes.get_int("is_test", 0):
        _refuse("it is in training mode (is_test=0)")
    if len(node.inputs) != 5:
        _refuse(f"it has {len(node.inputs)} inputs, not 5")
    scale, shift, mean, variance = (_input(node, i) for i in range(1, 5))
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def load() -> AffineConv:
        spread = facts.array(variance) + epsilon
        if np.any(spread <= 0):
            _refuse(f"'{variance.name}' plus epsilon is not positive")
        factor = facts.array(scale) / np.sqrt(spread)
        return AffineConv.per_channel(factor, facts.array(shift) - factor * facts.array(mean))

    return _per_channel(node, 0, (1, 1), load(), scale=scale, shift=shift)


@_lifts("Identity")
def _identity(node: ir.Node, facts: Facts) -> Linear | None:
    return _per_channel(node, 0, None, AffineConv.identity(1), shift_only=True)


@_lifts("Neg")
def _neg(node: ir.Node, facts: Facts) -> Linear | None:
    return _per_channel(node, 0, None, AffineConv.per_channel([-1.0]))


@_lifts("Add", "Sub", "Mul", "Div")
def _arithmetic(node: ir.Node, facts: Facts) -> Linear | None:
    a, b = _input(node, 0), _input(node, 1)
    second = facts.is_constant(b)
    if second == facts.is_constant(a):
        return None  # two activations meet here, or two constants
    if not second and node.op_type == "Div":
        return None  # a constant divided by an activation
    x, constant = (a, b) if second else (b, a)
    if not facts.tensor(constant).dtype.is_floating_point():
        return None
    axes, values = _channel_values(facts, x, constant)
    ones = np.ones_like(values)
    if node.op_type == "Add":
        affine = AffineConv.per_channel(ones, values)
    elif node.op_type == "Sub":
        affine = AffineConv.per_channel(*((ones, -values) if second else (-ones, values)))
    elif node.op_type == "Mul":
        affine = AffineConv.per_channel(values)
    else:
        if not np.all(values):
            _refuse(f"'{constant.name}' holds zeros to divide by")
        affine = AffineConv.per_channel(1 / values)
    only = node.op_type == "Add" or (node.op_type == "Sub" and second)
    return _per_channel(node, int(not second), axes, affine, shift=constant, shift_only=only)


# -- Helpers ----------------------------------------------------------------------------------


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
    """The axis along which a constant varies when it is broadcast against x, and its values.

    Broadcasting is judged against the true shape of x: a constant of higher rank, or longer than
    an extent of x that is 1 or unknown, would change the shape.
    """
    array, shape = facts.array(constant), facts.shape(x)
    if array.ndim and shape is None:
        _unknown_rank(x)
    if shape is not None and array.ndim > len(shape):
        _refuse(f"'{constant.name}' has more axes than the value it is combined with")
    if array.size == 1:
        return None, array.reshape(1)
    assert shape is not None
    varying = [i for i, d in enumerate(array.shape) if d != 1]
    if len(varying) > 1 or array.size == 0:
        _refuse(f"'{constant.name}' of shape {list(array.shape)} varies along several axes")
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
    if shape[axis] != array.size:
        _refuse(f"'{constant.name}' broadcasts axis {axis} of '{x.name}'")
    return (axis, axis), array.reshape(-1)


def _broadcast_bias(facts: Facts, c: ir.Value, axis: int, n: int, rank: int) -> Array:
    array = facts.array(c)
    aligned = (1,) * (rank - array.ndim) + array.shape
    if len(aligned) > rank or any(d != 1 for i, d in enumerate(aligned) if i != axis):
        _refuse(f"'{c.name}' of shape {list(array.shape)} varies along the batch")
    return np.array(np.broadcast_to(array.reshape(-1), (n,)))


def _input(node: ir.Node, index: int, *, optional: bool = False) -> ir.Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None and not optional:
        _refuse(f"input {index} is missing")
    return value  # type: ignore[return-value]


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints(name, ()))


def _refuse(message: str) -> NoReturn:
    raise RefusedError(Refusal(Reason.UNSUPPORTED, message))


def _unknown_rank(x: ir.Value) -> NoReturn:
    raise RefusedError(
        Refusal(
            Reason.UNKNOWN_SHAPE,
            f"the rank of '{x.name}' is not known",
            hint="run shape inference on the model first",
        )
    )
