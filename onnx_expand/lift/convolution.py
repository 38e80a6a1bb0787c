"""Lift Conv and ConvTranspose."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.graph.attributes import int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts, Shape
from onnx_expand.lift.base import Linear, Numbers, input_of, lifts, refuse

__all__ = ["conv_geometry", "conv_transpose_geometry", "swap_channels"]


@lifts("Conv")
def _conv(node: ir.Node, facts: Facts) -> Linear | None:
    x, weight = input_of(node, 0), input_of(node, 1)
    bias = input_of(node, 2, optional=True)
    geometry = replace(
        conv_geometry(node, facts.dims(weight), facts.shape(x)),
        bias=bias is not None and bool(np.any(facts.array(bias))),
    )
    return _convolution(node, geometry, facts, weight, bias, _held)


def _convolution(
    node: ir.Node,
    geometry: Geometry,
    facts: Facts,
    weight: ir.Value,
    bias: ir.Value | None,
    numbers: Numbers,
) -> Linear:
    x = facts.shape(node.inputs[0])
    if x is not None and x[1] not in {None, geometry.in_channels}:
        refuse(f"its weight takes {geometry.in_channels} channels, its input has {x[1]}")
    kernel = ints_of(node, "kernel_shape")
    if kernel and kernel != geometry.kernel:
        refuse(f"kernel_shape is {list(kernel)}, its weight has {list(geometry.kernel)}")
    if bias is not None and facts.dims(bias) != (geometry.out_channels,):
        refuse(f"its bias has shape {list(facts.dims(bias))}, not [{geometry.out_channels}]")
    operands = (weight,) if bias is None else (weight, bias)

    def load() -> AffineConv:
        return AffineConv.of(geometry, *numbers(*map(facts.array, operands)))

    return Linear(
        node, 0, geometry, (1, 1), load, weight, bias, operands=operands, numbers=numbers
    )


def _held(weight: Any, bias: Any = None) -> tuple[Any, Any]:
    return weight, bias


def conv_geometry(node: ir.Node, weight: Sequence[int], x: Shape | None) -> Geometry:
    """Return the geometry of a Conv node without its bias; resolve `auto_pad` where possible.

    Args:
        node: The node with the attributes.
        weight: The shape of the weight, [n, m / group, *kernel].
        x: The shape of the input, if known.
    """
    kernel = tuple(weight[2:])
    if not kernel:
        refuse("its weight has no spatial axis")
    strides = ints_of(node, "strides") or (1,) * len(kernel)
    dilations = ints_of(node, "dilations") or (1,) * len(kernel)
    group = int_of(node, "group")
    base = Geometry(
        weight[1] * group, weight[0], kernel, strides, dilations, ints_of(node, "pads"), group
    )
    auto_pad = text_of(node, "auto_pad")
    if auto_pad in {"NOTSET", ""}:
        return base
    base = replace(base, pads=(0,) * 2 * len(kernel))
    if auto_pad == "VALID":
        return base
    if auto_pad not in {"SAME_UPPER", "SAME_LOWER"}:
        refuse(f"auto_pad is '{auto_pad}'")
    floating = replace(base, auto_pad=auto_pad)
    extents = (None,) * len(kernel) if x is None else x[2:]
    if any(
        size is None and stride > 1 and reach > 1
        for size, stride, reach in zip(extents, strides, base.reach, strict=True)
    ):
        return floating
    # Without a stride the pads do not depend on the extent; one tap needs none.
    return floating.settled([1 if size is None else size for size in extents])


@lifts("ConvTranspose")
def _conv_transpose(node: ir.Node, facts: Facts) -> Linear | None:
    weight, bias = input_of(node, 1), input_of(node, 2, optional=True)
    geometry = replace(
        conv_transpose_geometry(node, facts.dims(weight)),
        bias=bias is not None and bool(np.any(facts.array(bias))),
    )
    numbers = functools.partial(_swapped, group=int_of(node, "group"))
    return _convolution(node, geometry, facts, weight, bias, numbers)


def conv_transpose_geometry(node: ir.Node, weight: Sequence[int]) -> Geometry:
    """Return the geometry of a ConvTranspose node without its bias.

    It is floating if its padding depends on the input (`auto_pad`, `output_shape`).

    Args:
        node: The node with the attributes.
        weight: The shape of the weight, [m, n / group, *kernel].
    """
    kernel, group = tuple(weight[2:]), int_of(node, "group")
    if not kernel:
        refuse("its weight has no spatial axis")
    auto_pad, output_shape = text_of(node, "auto_pad"), ints_of(node, "output_shape")
    if auto_pad not in {"NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"}:
        refuse(f"auto_pad is '{auto_pad}'")
    is_same = auto_pad.startswith("SAME")
    return Geometry(
        weight[0],
        weight[1] * group,
        kernel,
        ints_of(node, "strides"),
        ints_of(node, "dilations"),
        () if is_same or output_shape or auto_pad == "VALID" else ints_of(node, "pads"),
        group,
        transposed=True,
        extension=ints_of(node, "output_padding"),
        auto_pad=auto_pad if is_same else "",
        output_shape=output_shape[-len(kernel) :],
    )


def _swapped(weight: Any, bias: Any = None, *, group: int) -> tuple[Any, Any]:
    return swap_channels(weight, group), bias


def swap_channels(weight: Any, group: int) -> Any:
    """Convert [m, n / group, *kernel] to [n, m / group, *kernel], or back."""
    blocks = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    return blocks.swapaxes(1, 2).reshape(-1, weight.shape[0] // group, *weight.shape[2:])
