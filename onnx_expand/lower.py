"""From the algebra to nodes: `lower` writes an affine convolution as the ONNX nodes it fits.

A `Template` is the way in which some node wrote its map down: op, attributes, layout, names. A
result that fits the template of a node it replaces is written just like it; otherwise a fresh
template is made for the cheapest `Form`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from google.protobuf import json_format

from onnx_expand.affine import AffineConv
from onnx_expand.attributes import float_of, int_of
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError
from onnx_expand.geometry import Geometry
from onnx_expand.lift import (
    Axes,
    Linear,
    conv_geometry,
    conv_transpose_geometry,
    swap_channels,
)
from onnx_expand.origins import inherit
from onnx_expand.spill import LARGE, Spill
from onnx_expand.values import Facts
from onnx_expand.writable import Writable

__all__ = [
    "Form",
    "Names",
    "Target",
    "Template",
    "check_numbers",
    "constant",
    "form_of",
    "least_channel",
    "lower",
    "node_like",
]

Array = npt.NDArray[np.float64]


class Form(Enum):
    """The kinds of node that an affine convolution can be written as."""

    CONV = "Conv"
    CONV_TRANSPOSE = "ConvTranspose"
    GEMM = "Gemm"
    MATMUL = "MatMul"
    ELEMENTWISE = "Mul, Add"


@dataclass(frozen=True)
class Names:
    """Names for what is written; `lower` makes none up that it is not given."""

    node: str
    weight: str
    bias: str
    add: str


def form_of(
    geometry: Geometry,
    axes: Axes | None,
    rank: int | None,
    writable: Writable,
    *,
    scales: bool = True,
    multiplies: bool = True,
) -> Form | Refusal:
    """The cheapest form that can hold a map and may be written.

    Args:
        geometry: The map.
        axes: Its channel axes in input and output, None if all channels are treated alike.
        rank: The rank of the tensors it maps, where known.
        writable: Which ops may be written.
        scales: Whether a map of single channels does more than to add.
        multiplies: Whether a map that makes one channel into several is taken for a matrix, not
            for a broadcast.
    """
    if min(geometry.pads, default=0) < 0:
        return Refusal(Reason.UNSUPPORTED, "a Conv node cannot cut its input (negative pads)")
    refusal: Refusal | None = None
    broadcasts = not multiplies and _broadcasts(geometry, axes) and (scales or geometry.bias)
    forms = [Form.ELEMENTWISE] if broadcasts and rank is not None else []
    for form in (*forms, *_forms(geometry, axes, rank)):
        ops = _ops(form, geometry.bias, scales=scales)
        why = writable.refusal(*ops)
        if why is None:
            return form
        refusal = refusal or why
    if refusal is not None:
        return refusal
    if axes is None or geometry.is_per_channel:
        return Refusal(Reason.UNKNOWN_SHAPE, "the rank is unknown")
    return Refusal(Reason.UNSUPPORTED, f"no single node mixes channels on axis {axes[0]}")


def _broadcasts(geometry: Geometry, axes: Axes | None) -> bool:
    """Whether a map makes one channel into several on the same axis."""
    spreads = geometry.in_channels == 1 < geometry.out_channels and geometry.is_pointwise
    return spreads and axes is not None and axes[0] == axes[1]


def _forms(geometry: Geometry, axes: Axes | None, rank: int | None) -> Iterator[Form]:
    """The forms that can hold a map, the cheapest first."""
    if axes is None or (geometry.is_per_channel and axes[0] == axes[1]):
        if axes is None or axes[1] < 0 or rank is not None:
            yield Form.ELEMENTWISE
        return
    if geometry.rank:
        if axes == (1, 1):
            yield Form.CONV_TRANSPOSE if geometry.transposed else Form.CONV
        return
    if rank == 2:
        yield Form.GEMM
    if axes[0] == axes[1] and _from_behind(axes[0], rank) in {-1, -2}:
        yield Form.MATMUL
    elif axes == (1, 1) and rank in {4, 5}:
        yield Form.CONV


def _ops(form: Form, bias: bool, *, scales: bool = True) -> tuple[str, ...]:
    """The ops of the nodes that a form comes to."""
    if form is Form.ELEMENTWISE:
        return (*(("Mul",) if scales else ()), *(("Add",) if bias else ()))
    return (form.value, "Add") if form is Form.MATMUL and bias else (form.value,)


def _from_behind(axis: int, rank: int | None) -> int | None:
    """An axis counted from the back; None where that takes a rank that is not known."""
    if axis < 0:
        return axis
    return None if rank is None else axis - rank


# -- Templates --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """How a node writes its map down.

    Attributes:
        node: A node without inputs that carries op, name, attributes, doc string and metadata.
        inputs: The names of its inputs, "" for one that is left out.
        slot: The index of the input that is the activation.
        weight: The shape of the weight constant.
        bias: The shape of the bias constant, None if there is none.
    """

    node: ir.Node
    inputs: tuple[str, ...]
    slot: int
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None

    @classmethod
    def of(cls, linear: Linear, facts: Facts) -> Template | None:
        """The template of a Conv, Gemm or MatMul node; None for one of another op."""
        node = linear.node
        if node.op_type not in _WRITERS or linear.weight is None:
            return None
        return cls(
            node_like(node, []),
            tuple("" if value is None else value.name or "" for value in node.inputs),
            linear.slot,
            facts.dims(linear.weight),
            None if linear.bias is None else facts.dims(linear.bias),
        )

    def without_bias(self) -> Template:
        """The template of a node that adds nothing."""
        return replace(self, inputs=self.inputs[:2], bias=None)

    def to_json(self) -> dict[str, Any]:
        """The template as plain JSON types."""
        node = json_format.MessageToDict(ir.serde.serialize_node(self.node))
        return {
            "node": node,
            "inputs": list(self.inputs),
            "slot": self.slot,
            "weight": list(self.weight),
            "bias": None if self.bias is None else list(self.bias),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Template:
        """The inverse of `to_json`.

        Raises:
            ValueError: The data is not what `to_json` writes.
        """
        try:
            proto = json_format.ParseDict(data["node"], onnx.NodeProto())
            node = ir.serde.deserialize_node(proto)
            bias = data["bias"]
            return cls(
                node_like(node, []),
                tuple(map(str, data["inputs"])),
                int(data["slot"]),
                tuple(map(int, data["weight"])),
                None if bias is None else tuple(map(int, bias)),
            )
        except (KeyError, TypeError, json_format.ParseError) as error:
            raise ValueError(f"not a template: {error}") from None

    def input_name(self, index: int) -> str:
        """The name of an input, "" where there is none."""
        return self.inputs[index] if index < len(self.inputs) else ""


def _fresh(form: Form, affine: AffineConv, axes: Axes, rank: int | None, name: str) -> Template:
    if form in {Form.CONV, Form.CONV_TRANSPOSE}:
        return _fresh_conv(form, affine, name)
    n, m = affine.weight.shape[0], affine.geometry.in_channels
    if form is Form.MATMUL:
        place = _from_behind(axes[0], rank)
        if axes[0] != axes[1] or place not in {-1, -2}:
            raise UsageError(f"MatMul does not map axes {axes} of a tensor of rank {rank}")
        right = place == -1
        node = ir.node("MatMul", [], name=name)
        return Template(node, (), 0 if right else 1, (m, n) if right else (n, m), None)
    attributes: dict[str, int] = {}
    right = axes[1] == 1  # y = x W^T, or y = W x where the channels of y are its rows
    if right:
        attributes = {"transA": 1} if axes[0] == 0 else {}
        attributes["transB"] = 1
    elif axes[0] == 1:
        attributes = {"transB": 1}
    node = ir.node("Gemm", [], attributes, name=name)
    return Template(node, (), 0 if right else 1, (n, m), (n,) if right else (n, 1))


def _fresh_conv(form: Form, affine: AffineConv, name: str) -> Template:
    g = affine.geometry
    attributes: dict[str, Any] = {
        "dilations": g.dilations,
        "group": g.group,
        "kernel_shape": g.kernel,
        "pads": g.pads,
        "strides": g.strides,
    }
    shape = g.weight_shape
    if g.floats:
        del attributes["pads"]
        attributes |= {"auto_pad": g.auto_pad} if g.auto_pad else {}
        attributes |= {"output_shape": g.output_shape} if g.output_shape else {}
    if g.transposed:
        attributes["output_padding"] = g.extension
        shape = (g.in_channels, g.out_channels // g.group, *g.kernel)
    node = ir.node(form.value, [], attributes, name=name)
    return Template(node, (), 0, shape, (g.out_channels,))


# -- Writing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Where a map is written to: its input, the type of its numbers, the names it may use.

    Large constants go to the disk, where there is something to `spill` them to.
    """

    x: ir.Value
    dtype: ir.DataType
    names: Names
    facts: Facts
    spill: Spill | None = None


def lower(
    affine: AffineConv,
    form: Form,
    axes: Axes | None,
    target: Target,
    template: Template | None = None,
    *,
    restore: bool = False,
    judged: bool = False,
) -> list[ir.Node]:
    """Write a map as nodes, in order; the last one's first output is the result.

    Constants are new values of the target's type with `const_value` set; the caller names the
    output and registers the constants as initializers.

    Args:
        affine: The map.
        form: What `form_of` answered for it.
        axes: Its channel axes.
        target: Where it goes.
        template: A node to write it like; ignored where the map does not fit it.
        restore: Whether the template goes before the form.
        judged: Whether `check_numbers` found nothing wrong.

    Raises:
        RefusedError: A number does not fit the type.
    """
    if not judged:
        check_numbers(affine, target.dtype)
    if not restore:
        shifts = affine.bias is not None and bool(np.any(affine.bias))
        scales = form is not Form.ELEMENTWISE or bool(np.any(affine.weight != 1))
        refusal = target.facts.writable(target.dtype).refusal(*_ops(form, shifts, scales=scales))
        if refusal is not None:
            raise RefusedError(refusal)
    rank = target.facts.rank(target.x)
    if form is Form.CONV and not affine.rank and rank is not None:
        affine = affine.at_rank(rank - 2)
    if template is not None and axes and (restore or _may_follow(template, form, affine)):
        try:
            return _WRITERS[template.node.op_type](affine, template, axes, target)
        except UsageError:
            pass  # the result has another geometry than the template
    if form is Form.ELEMENTWISE:
        return _write_elementwise(affine, axes, rank, target)
    assert axes is not None
    fresh = _fresh(form, affine, axes, rank, target.names.node)
    return _WRITERS[form.value](affine, fresh, axes, target)


def check_numbers(
    affine: AffineConv, dtype: ir.DataType, held: Callable[[], float] = lambda: np.inf
) -> None:
    """Refuse a map that cannot be written in a type.

    Args:
        affine: The map.
        dtype: The type.
        held: Gives the `least_channel` of the maps that it is made of.

    Raises:
        RefusedError: A number does not fit the type, or an attribute ONNX's integers.
    """
    _check_scale(affine, dtype, held)
    _check_attributes(affine)
    for array in (affine.weight, affine.bias):
        if array is None:
            continue
        for number in (float(array.max(initial=0.0)), float(array.min(initial=0.0))):
            _rounded(np.asarray(number), dtype)


def _check_attributes(affine: AffineConv) -> None:
    """Refuse a map whose attributes do not fit ONNX's integers."""
    numbers = (*affine.strides, *affine.dilations, *affine.pads, *affine.extension)
    if max(map(abs, numbers), default=0) >= 1 << 63:
        raise RefusedError(
            Refusal(Reason.GEOMETRY, f"its strides, dilations or pads {numbers} are too large")
        )


def _may_follow(template: Template, form: Form, affine: AffineConv) -> bool:
    """Whether a form's cost is also that of the template's op: a MatMul is a Gemm without bias."""
    op = template.node.op_type
    biased = affine.bias is not None and bool(np.any(affine.bias))
    return op == form.value or (op == "MatMul" and form is Form.GEMM and not biased)


def _write_conv(
    affine: AffineConv, template: Template, axes: Axes, target: Target
) -> list[ir.Node]:
    shape = target.facts.shape(target.x)
    if axes != (1, 1):
        raise UsageError("the template maps other axes")
    try:
        if template.node.op_type == "ConvTranspose":
            geometry = conv_transpose_geometry(template.node, template.weight)
        else:
            geometry = conv_geometry(template.node, template.weight, shape)
    except RefusedError as error:
        raise UsageError(str(error)) from None
    if geometry.rank != affine.rank:
        raise UsageError("the template has another rank")
    fitted = affine.embedded(replace(geometry, bias=affine.geometry.bias))
    swapped = template.node.op_type == "ConvTranspose"
    weight = swap_channels(fitted.weight, fitted.group) if swapped else fitted.weight
    inputs = [target.x, constant(weight, target.names.weight, target.dtype, target.spill)]
    if fitted.bias is not None and (np.any(fitted.bias) or template.input_name(2) != ""):
        inputs.append(constant(fitted.bias, target.names.bias, target.dtype))
    return [_written(template, inputs, target)]


def _write_gemm(
    affine: AffineConv, template: Template, axes: Axes, target: Target
) -> list[ir.Node]:
    node = template.node
    alpha, beta = float_of(node, "alpha"), float_of(node, "beta")
    transposed = [int_of(node, "transA"), int_of(node, "transB")]
    right = template.slot == 0
    own_axes = (1 - transposed[0], 1) if right else (transposed[1], 0)
    if own_axes != axes or alpha == 0 or beta == 0:
        raise UsageError("the template maps other axes, or scales by zero")
    matrix = _matrix(affine) / alpha
    weight = matrix.T if right != bool(transposed[1 if right else 0]) else matrix
    operands = [target.x, constant(weight, target.names.weight, target.dtype, target.spill)]
    inputs = operands if right else operands[::-1]
    bias = affine.bias
    is_needed = target.facts.writable(target.dtype).needs("Gemm", 2)
    if bias is None and is_needed:
        bias = np.zeros(affine.geometry.out_channels)
    if bias is not None and (is_needed or np.any(bias) or template.input_name(2) != ""):
        shape: tuple[int, ...] = (-1,) if right else (-1, 1)
        if template.bias is not None and np.prod(template.bias) == bias.size:
            shape = template.bias
        inputs.append(constant((bias / beta).reshape(shape), target.names.bias, target.dtype))
    return [_written(template, inputs, target)]


def _write_matmul(
    affine: AffineConv, template: Template, axes: Axes, target: Target
) -> list[ir.Node]:
    right = template.slot == 0
    rank = target.facts.rank(target.x)
    if axes[0] != axes[1] or _from_behind(axes[0], rank) != (-1 if right else -2):
        raise UsageError("the template maps another axis")
    matrix = _matrix(affine)
    weight = matrix.T if right else matrix
    fits = rank is not None and len(template.weight) <= max(2, rank)
    if fits and template.weight == (*template.weight[:-2], *weight.shape):
        weight = weight.reshape(template.weight)
    operands = [target.x, constant(weight, target.names.weight, target.dtype, target.spill)]
    shift = None
    if affine.bias is not None and np.any(affine.bias):
        bias = affine.bias if right else affine.bias.reshape(-1, 1)
        shift = constant(bias, target.names.bias, target.dtype)
    node = _written(template, operands if right else operands[::-1], target)
    return [node] if shift is None else [node, _add(node.outputs[0], shift, target)]


_WRITERS = {
    "Conv": _write_conv,
    "ConvTranspose": _write_conv,
    "Gemm": _write_gemm,
    "MatMul": _write_matmul,
}


def _write_elementwise(
    affine: AffineConv, axes: Axes | None, rank: int | None, target: Target
) -> list[ir.Node]:
    shape: tuple[int, ...] = ()
    if axes is not None:
        place = _from_behind(axes[1], rank)
        assert place is not None
        shape = (-1, *(1,) * (-1 - place))
    # Constants first: a number that does not fit the type must leave no half-written node.
    names = target.names
    factor, shift = affine.weight.reshape(shape), None
    shifts = affine.bias is not None and bool(np.any(affine.bias))
    spreads = affine.geometry.in_channels < affine.geometry.out_channels and not shifts
    scale = None
    if np.any(factor != 1) or spreads:
        scale = constant(factor, names.weight, target.dtype)
    if affine.bias is not None and np.any(affine.bias):
        shift = constant(affine.bias.reshape(shape), names.bias, target.dtype)
    nodes = [ir.node("Mul", [target.x, scale], name=names.node)] if scale is not None else []
    if shift is not None:
        nodes.append(_add(nodes[-1].outputs[0] if nodes else target.x, shift, target))
    return nodes or [ir.node("Identity", [target.x], name=names.node)]


def _add(value: ir.Value, shift: ir.Value, target: Target) -> ir.Node:
    return ir.node("Add", [value, shift], name=target.names.add)


def _matrix(affine: AffineConv) -> Array:
    if affine.rank:
        raise UsageError("a kernel with spatial axes is no matrix")
    return affine.embedded(replace(affine.geometry, group=1)).weight


def constant(array: Array, name: str, dtype: ir.DataType, spill: Spill | None = None) -> ir.Value:
    """A value that holds an array, rounded once to a type.

    Args:
        array: The numbers.
        name: What to call it.
        dtype: The type.
        spill: Where a large one goes, if not into memory.

    Raises:
        RefusedError: A number does not fit the type.
    """
    tensor: ir.TensorProtocol | None = None
    if spill is not None and array.nbytes >= LARGE and array.ndim:
        rows = max(1, _BLOCK // max(1, array.nbytes // max(1, len(array))))
        blocks = (_rounded(array[i : i + rows], dtype) for i in range(0, len(array), rows))
        tensor = spill.written(blocks, array.shape, dtype, name)
    if tensor is None:
        tensor = ir.Tensor(_rounded(array, dtype), dtype, name=name)
    return ir.val(name, const_value=tensor)


def _rounded(array: Array, dtype: ir.DataType) -> npt.NDArray[Any]:
    with np.errstate(over="ignore", under="ignore"):
        cast = array.astype(dtype.numpy(), order="C")
    if not np.all(np.isfinite(cast)):
        _refuse_numbers(float(np.max(np.abs(array))), dtype)
    return cast


_BLOCK = 1 << 24  # bytes in float64 that are rounded at a time


def _check_scale(affine: AffineConv, dtype: ir.DataType, held: Callable[[], float]) -> None:
    """Refuse weights of which all that one channel writes, or reads, is too small for a type.

    That loses nothing where the type holds these very numbers, where what is lost is nothing
    beside the channel's bias, and where the source's own numbers are as small.
    """
    smallest = float(ml_dtypes.finfo(dtype.numpy()).smallest_normal)  # type: ignore[no-untyped-call]
    numbers = affine.weight.reshape(affine.group, -1, *affine.weight.shape[1:])
    if min(map(_least, _largest(numbers))) >= smallest:
        return
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(dtype.numpy()).astype(np.float64)
        lost = np.abs(rounded - numbers)
    bias = np.zeros(affine.weight.shape[0]) if affine.bias is None else affine.bias
    margin = float(ml_dtypes.finfo(dtype.numpy()).eps) / _LARGE_INPUT  # type: ignore[no-untyped-call]
    rows = lost.sum(axis=tuple(range(2, lost.ndim)))
    kept = rows <= np.abs(bias).reshape(rows.shape) * margin
    lost[kept] = 0
    numbers = np.where(kept.reshape(*kept.shape, *(1,) * (numbers.ndim - 2)), 0.0, numbers)
    for found, losses in zip(_largest(numbers), _largest(lost), strict=True):
        least = _least(found[losses > 0])
        if least < smallest and least < held() / _SMALLER:
            _refuse_numbers(least, dtype)


_LARGE_INPUT = 2.0**40  # what an input may be, for what is lost of its weight to count as nothing
_SMALLER = 4.0  # numbers that are not smaller by more than this are as small as the source's


def least_channel(affine: AffineConv) -> float:
    """The least, over channels, of the largest weight with which one is written, or read."""
    numbers = affine.weight.reshape(affine.group, -1, *affine.weight.shape[1:])
    return min(map(_least, _largest(numbers)))


def _largest(numbers: Array) -> tuple[Array, Array]:
    """The largest magnitudes in [group, n, m, *kernel]: [group, n] and [group, m]."""
    inner = tuple(range(3, numbers.ndim))
    # Magnitudes of all numbers would be as large as the weight.
    found = [
        np.maximum(numbers.max(axis=axes, initial=0.0), -numbers.min(axis=axes, initial=0.0))
        for axes in ((2, *inner), (1, *inner))
    ]
    return found[0], found[1]


def _least(numbers: Array) -> float:
    """The least number above zero."""
    return float(np.min(numbers, initial=np.inf, where=numbers > 0))


def _refuse_numbers(number: float, dtype: ir.DataType) -> NoReturn:
    raise RefusedError(
        Refusal(
            Reason.OVERFLOW,
            f"merged weights come to {number:.3g}, which {dtype} does not hold",
            {"weight": number},
            "fold the model in a wider type",
        )
    )


def _written(template: Template, inputs: Sequence[ir.Value], target: Target) -> ir.Node:
    """A node like a template's, by the name that is free if that one has a name."""
    node = node_like(template.node, inputs)
    node.name = target.names.node if node.name else node.name
    return node


def node_like(node: ir.Node, inputs: Sequence[ir.Value | None], outputs: int = 1) -> ir.Node:
    """A node with another's op, name, attributes, doc string and metadata, and so many outputs."""
    like = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
        num_outputs=outputs,
        version=node.version,
    )
    inherit([like], [node], is_new=False)
    return like
