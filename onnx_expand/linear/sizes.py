"""The input sizes that a merged convolution takes, against those that its parts take.

A Conv ends with an error where its windows do not fit into its input. An AveragePool makes of such
an input one window, or none, and a Slice may leave nothing: a convolution must not take the place
of those where it would refuse a size that they take.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from onnx_expand.errors import Reason, Refusal
from onnx_expand.geometry import Geometry
from onnx_expand.linear.steps import Step
from onnx_expand.linear.terms import Map
from onnx_expand.lower import Form

__all__ = ["misfit"]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_POOLS = {"AveragePool"}
_MOST = 64  # larger kernels are looked at for inputs of up to so many positions


class _PartialError(Exception):
    """A window lies partly outside of what it averages."""


class _FailsError(Exception):
    """A node ends with an error."""


def misfit(
    steps: Sequence[Step], geometry: Geometry, extents: Sequence[Hashable] | None
) -> Refusal | None:
    """Why a convolution does not take every input that some steps take; None if it does.

    Args:
        steps: One after the other, without views.
        geometry: What they are together.
        extents: The spatial extents of their input; None if they are not known.
    """
    if extents is not None and not geometry.rank and 0 in extents:
        return _refused(list(extents).index(0), 0, known=True)
    for axis in range(geometry.rank):
        extent = None if extents is None else extents[axis]
        known = isinstance(extent, int)
        if not known and all(_is_plain(step) for step in steps):
            continue
        sizes = [extent] if isinstance(extent, int) else range(1, min(geometry.reach[axis], _MOST))
        for size in sizes:
            if not _takes(geometry, axis, size) and not _fail(steps, axis, size):
                return _refused(axis, size, known=known)
            if _are_partial(steps, axis, size):
                return _refused(axis, size, known=known)
    return None


def _refused(axis: int, size: int, *, known: bool) -> Refusal:
    reason = Reason.GEOMETRY if known else Reason.UNKNOWN_SHAPE
    hint = "" if known else "give the sizes with --shape where they are larger"
    message = f"a convolution does not take an input of {size} on spatial axis {axis}, as they do"
    return Refusal(reason, message, {"axis": axis, "size": size}, hint)


def _takes(geometry: Geometry, axis: int, size: int) -> bool:
    """Whether a convolution runs on a size."""
    return size > 0 and _extent(geometry, axis, size) > 0


def _extent(geometry: Geometry, axis: int, size: int) -> int:
    return geometry.output_extents([size] * geometry.rank)[axis]


def _fail(steps: Sequence[Step], axis: int, size: int) -> bool:
    try:
        _after(steps, axis, size)
    except _FailsError:
        return True
    except _PartialError:
        return False
    return False


def _are_partial(steps: Sequence[Step], axis: int, size: int) -> bool:
    try:
        _after(steps, axis, size, strict=True)
    except _PartialError:
        return not _fail(steps, axis, size)
    except _FailsError:
        return False
    return False


def _after(steps: Sequence[Step], axis: int, size: int, *, strict: bool = False) -> int:
    """What steps make of an extent, as their nodes do it.

    Raises:
        _FailsError: One of them ends with an error.
        _PartialError: With `strict`, a pooling has a window that does not fit.
    """
    for step in steps:
        if step.branches:
            sizes = [_after(branch, axis, size, strict=strict) for branch in step.branches]
            size = sizes[0]
        elif step.frame is not None:
            rank = len(step.frame.pads) // 2
            size += step.frame.pads[axis] + step.frame.pads[rank + axis]
        elif isinstance(step.geometry, Geometry) and step.geometry.rank:
            size = _one(step, step.geometry, axis, size, strict=strict)
    return size


def _one(step: Step, geometry: Geometry, axis: int, size: int, *, strict: bool) -> int:
    if _op(step) in _POOLS:
        room = size + geometry.begins[axis] + geometry.ends[axis] - geometry.reach[axis]
        if strict and room < 0:
            raise _PartialError
        # onnxruntime rounds towards zero here.
        after = (abs(room) // geometry.strides[axis]) * (1 if room >= 0 else -1) + 1
        if size <= 0 or after < 0:
            raise _FailsError
        return after
    after = _extent(geometry, axis, size)
    if _op(step) in _CONVOLUTIONS and (size <= 0 or after <= 0):
        raise _FailsError
    return after


def _op(step: Step) -> str:
    """The op of a step as it stands."""
    top = step.top
    if isinstance(top, Map) and top.form is not None:
        return "Conv" if top.form in {Form.CONV, Form.CONV_TRANSPOSE} else ""
    return "" if top.node is None else top.node.op_type


def _is_plain(step: Step) -> bool:
    """Whether a step is made of convolutions and of maps of single positions alone."""
    if step.branches:
        return all(_is_plain(s) for branch in step.branches for s in branch)
    if isinstance(step.geometry, Geometry) and step.geometry.is_pointwise and not step.frame:
        return True
    return _op(step) in _CONVOLUTIONS
