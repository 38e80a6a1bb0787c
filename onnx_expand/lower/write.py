"""Write affine convolutions as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import RefusedError, UsageError
from onnx_expand.graph.attributes import flag_of, float_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.spill import Spill
from onnx_expand.lift import Axes, conv_geometry, conv_transpose_geometry, swap_channels
from onnx_expand.lower.forms import Form, from_behind, ops_of
from onnx_expand.lower.numbers import check_numbers, constant
from onnx_expand.lower.templates import Template, fresh, node_like

__all__ = ["Names", "Target", "lower"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Names:
    """The names of the nodes and constants that `lower` writes."""

    node: str
    weight: str
    bias: str
    add: str


@dataclass(frozen=True)
class Target:
    """The input, dtype and names of the nodes to write.

    Large constants are written to disk if there is a `spill` file.
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
    """Write a map as nodes, in order; the last node's first output is the result.

    Constants are new values of the target's dtype with `const_value` set; the caller names the
    output and registers the constants as initializers.

    Args:
        affine: The map.
        form: The form that `form_of` returned for it.
        axes: Its channel axes.
        target: Input, dtype and names.
        template: How to write it; ignored if the map does not fit.
        restore: Whether the template takes precedence over the form.
        judged: Whether `check_numbers` has accepted the map already.

    Raises:
        RefusedError: A value exceeds the range of the dtype, or an op may not be written.
    """
    if not judged:
        check_numbers(affine, target.dtype)
    if not restore:
        scales = form is not Form.ELEMENTWISE or bool(np.any(affine.weight != 1))
        ops = ops_of(form, affine.geometry.bias, scales=scales)
        refusal = target.facts.writable(target.dtype).refusal(*ops)
        if refusal is not None:
            raise RefusedError(refusal)
    rank = target.facts.rank(target.x)
    if form is Form.CONV and not affine.rank and rank is not None:
        affine = affine.at_rank(rank - 2)
    if template is not None and axes and (restore or _may_follow(template, form, affine)):
        try:
            nodes = _WRITERS[template.node.op_type](affine, template, axes, target)
        except UsageError:
            nodes = []  # the map does not fit the template's geometry
        if nodes and (restore or not _multiplies_more(nodes[0], affine, form)):
            return nodes
    if form is Form.ELEMENTWISE:
        return _write_elementwise(affine, axes, rank, target)
    assert axes is not None
    template = fresh(form, affine, axes, rank, target.names.node)
    return _WRITERS[form.value](affine, template, axes, target)


def _multiplies_more(node: ir.Node, affine: AffineConv, form: Form) -> bool:
    """Return whether a convolution like the template needs zeros that the map's weight lacks.

    The composed weights may allow more groups than their layers had, and the cost assumes them.
    """
    weight = node.inputs[1].const_value if node.inputs[1] is not None else None
    is_conv = form in {Form.CONV, Form.CONV_TRANSPOSE}
    return is_conv and weight is not None and weight.size > affine.weight.size


def _may_follow(template: Template, form: Form, affine: AffineConv) -> bool:
    """Return whether the template's op costs the same as the form: MatMul as Gemm without bias."""
    op = template.node.op_type
    is_product = op == "MatMul" and form is Form.GEMM and not affine.geometry.bias
    return op == form.value or is_product


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
    transposed = [flag_of(node, "transA"), flag_of(node, "transB")]
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
    if axes[0] != axes[1] or from_behind(axes[0], rank) != (-1 if right else -2):
        raise UsageError("the template maps another axis")
    matrix = _matrix(affine)
    weight = matrix.T if right else matrix
    fits = rank is not None and len(template.weight) <= max(2, rank)
    if fits and template.weight == (*template.weight[:-2], *weight.shape):
        weight = weight.reshape(template.weight)
    operands = [target.x, constant(weight, target.names.weight, target.dtype, target.spill)]
    shift = None
    if affine.bias is not None and affine.geometry.bias:
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
        place = from_behind(axes[1], rank)
        assert place is not None
        shape = (-1, *(1,) * (-1 - place))
    # Constants come first: a refused value must not leave a half-written node.
    names = target.names
    factor, geometry = affine.weight.reshape(shape), affine.geometry
    scale = shift = None
    spreads = geometry.in_channels < geometry.out_channels and not geometry.bias
    if np.any(factor != 1) or spreads:
        scale = constant(factor, names.weight, target.dtype)
    if affine.bias is not None and geometry.bias:
        shift = constant(affine.bias.reshape(shape), names.bias, target.dtype)
    nodes = [ir.node("Mul", [target.x, scale], name=names.node)] if scale is not None else []
    if shift is not None:
        nodes.append(_add(nodes[-1].outputs[0] if nodes else target.x, shift, target))
    return nodes or [ir.node("Identity", [target.x], name=names.node)]


def _add(value: ir.Value, shift: ir.Value, target: Target) -> ir.Node:
    return ir.node("Add", [value, shift], name=target.names.add)


def _matrix(affine: AffineConv) -> Array:
    if affine.rank:
        raise UsageError("a kernel with spatial axes is not a matrix")
    return affine.embedded(replace(affine.geometry, group=1)).weight


def _written(template: Template, inputs: Sequence[ir.Value], target: Target) -> ir.Node:
    """Return a node like the template's with the target's node name, if the template has one."""
    node = node_like(template.node, inputs)
    node.name = target.names.node if node.name else node.name
    return node
