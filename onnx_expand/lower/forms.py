"""Forms: the kinds of node that hold an affine convolution, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.writable import Writable
from onnx_expand.lift import Axes

__all__ = ["Form", "form_of", "from_behind", "ops_of"]


class Form(Enum):
    """The kinds of node that an affine convolution can be written as."""

    CONV = "Conv"
    CONV_TRANSPOSE = "ConvTranspose"
    GEMM = "Gemm"
    MATMUL = "MatMul"
    ELEMENTWISE = "Mul, Add"


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
        ops = ops_of(form, geometry.bias, scales=scales)
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
    if axes[0] == axes[1] and from_behind(axes[0], rank) in {-1, -2}:
        yield Form.MATMUL
    elif axes == (1, 1) and rank in {4, 5}:
        yield Form.CONV


def ops_of(form: Form, bias: bool, *, scales: bool = True) -> tuple[str, ...]:
    """The ops of the nodes that a form comes to."""
    if form is Form.ELEMENTWISE:
        return (*(("Mul",) if scales else ()), *(("Add",) if bias else ()))
    return (form.value, "Add") if form is Form.MATMUL and bias else (form.value,)


def from_behind(axis: int, rank: int | None) -> int | None:
    """An axis counted from the back; None where that takes a rank that is not known."""
    if axis < 0:
        return axis
    return None if rank is None else axis - rank
