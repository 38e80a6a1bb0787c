"""Forms: the kinds of node that can represent an affine convolution."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.writable import Writable
from onnx_expand.lift import Axes

__all__ = ["Form", "form_of", "from_behind", "ops_of"]


class Form(Enum):
    """A kind of node that can represent an affine convolution."""

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
    """Return the cheapest form that can represent a map and whose ops may be written.

    Args:
        geometry: The geometry of the map.
        axes: Its channel axes in input and output, None if all channels are treated alike.
        rank: The rank of the mapped tensors, if known.
        writable: The ops that may be written.
        scales: Whether a per-channel map also scales.
        multiplies: Whether a map from one channel to several is written as a matrix, not as a
            broadcast.
    """
    if min(geometry.pads, default=0) < 0:
        return Refusal(Reason.UNSUPPORTED, "a Conv node cannot crop its input (negative pads)")
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
    """Return whether a map expands one channel to several on the same axis."""
    spreads = geometry.in_channels == 1 < geometry.out_channels and geometry.is_pointwise
    return spreads and axes is not None and axes[0] == axes[1]


def _forms(geometry: Geometry, axes: Axes | None, rank: int | None) -> Iterator[Form]:
    """Yield the forms that can represent a map, the cheapest first."""
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
    """Return the op types of the nodes of a form."""
    if form is Form.ELEMENTWISE:
        return (*(("Mul",) if scales else ()), *(("Add",) if bias else ()))
    return (form.value, "Add") if form is Form.MATMUL and bias else (form.value,)


def from_behind(axis: int, rank: int | None) -> int | None:
    """Return an axis counted from the back; None if this needs a rank that is unknown."""
    if axis < 0:
        return axis
    return None if rank is None else axis - rank
