"""Compose consecutive steps to one map: its geometry and its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.frames import Frame
from onnx_expand.linear.chains.steps import Step

__all__ = ["aligned", "chain_affine", "chain_geometry", "next_geometry", "shift_before"]


def aligned(steps: Sequence[Step]) -> list[Step] | None:
    """Return consecutive steps on common axes; None if their channels do not match.

    Steps that treat all channels alike get the axes of their neighbours.
    """
    found = list(steps)
    known = next((i for i, s in enumerate(found) if s.axes is not None), None)
    if known is None:
        return found
    axes = found[known].axes
    assert axes is not None
    axis, channels = axes[0], found[known].channels[0]
    for i in reversed(range(known)):  # the channel axis of the first step is unknown so far
        view = found[i].view
        if view is None:
            continue
        view = view.onto(axis, channels)
        if view is None or view.axes is None:
            return None
        axis, channels = view.axes[0], view.channels[0]
        if view.channels[0] != view.channels[1]:
            found[i] = replace(found[i], view=view, axes=view.axes)
    for i, step in enumerate(found):
        step = step.on(axis, channels)
        if step.axes is None or (step.axes[0] != axis or step.channels[0] != channels):
            return None
        found[i], axis, channels = step, step.axes[1], step.channels[1]
    return found


def chain_geometry(steps: Sequence[Step]) -> Geometry | Refusal | None:
    """Compose the geometries of steps; None for no step."""
    total: Geometry | None = None
    for i, step in enumerate(steps):
        joined = next_geometry(steps[:i], total, step)
        if isinstance(joined, Refusal):
            return joined
        total = joined
    return total


def next_geometry(
    before: Sequence[Step], geometry: Geometry | None, step: Step
) -> Geometry | Refusal:
    """Compose a geometry with the geometry of one more step."""
    if geometry is None:
        return step.geometry
    if step.frame is None:
        following = step.geometry
        return following if isinstance(following, Refusal) else geometry.then(following)
    refusal = _fill_differs(before, step.frame)
    if refusal is not None:
        return refusal
    joined = replace(geometry, bias=False).then(_padding(step.frame).geometry)
    return joined if isinstance(joined, Refusal) else replace(joined, bias=geometry.bias)


def chain_affine(steps: Sequence[Step]) -> AffineConv:
    """Compose the values of steps.

    Raises:
        RefusedError: There is no such map, or its values are not finite.
    """
    parts: list[AffineConv] = []
    for step in steps:
        if step.frame is None or not parts:
            parts.append(step.load())
            continue
        whole = compose_chain(parts, owned=True)
        padded = _padding(step.frame) @ replace(whole, bias=None)
        parts = [replace(padded, bias=whole.bias)]
    return compose_chain(parts, owned=True)


def shift_before(affine: AffineConv) -> npt.NDArray[np.float64] | None:
    """Return what to add before a pointwise map instead of its bias after it.

    `A x + b = A (x + t)` for `t = b / a` if each row of A has one nonzero element a in a column of
    its own, that is, A scales, selects and permutes channels.

    Args:
        affine: The map, in as many groups as its zeros allow.

    Returns:
        One value for each input channel; None if there is no such t.
    """
    bias, channels = affine.bias, affine.geometry.in_channels
    if bias is None:
        return None
    if affine.geometry.is_per_channel:
        scale = affine.weight.reshape(-1)
        if ((scale == 0) & (bias != 0)).any():
            return None
        return np.divide(bias, scale, out=np.zeros_like(bias), where=scale != 0)
    if bias.size * channels > _DENSE:
        return None
    dense = affine.embedded(replace(affine.geometry, group=1))
    matrix = dense.weight.reshape(bias.size, channels)
    used = matrix != 0
    if (used.sum(axis=0) > 1).any() or (used.sum(axis=1) > 1).any():
        return None
    if (bias[~used.any(axis=1)] != 0).any():
        return None
    shift = np.zeros(channels)
    rows, columns = np.nonzero(used)
    shift[columns] = bias[rows] / matrix[rows, columns]
    return shift


_DENSE = 1 << 20  # elements of the largest matrix that is tested for only moving channels


def _padding(frame: Frame) -> AffineConv:
    """Return the padding of a frame whose constants continue the map before it."""
    return replace(AffineConv.identity(frame.fill.size, len(frame.pads) // 2), pads=frame.pads)


def _fill_differs(before: Sequence[Step], frame: Frame) -> Refusal | None:
    """Return why the constants of a frame are not what the steps compute beyond their border.

    The graph computes the constants in its own type; they count as equal if rounding explains the
    difference.
    """
    try:
        bias = chain_affine(before).bias
    except RefusedError as error:
        return error.refusal
    own = np.zeros_like(frame.fill) if bias is None else bias
    largest = max(1.0, float(np.max(np.abs(own), initial=0.0)))
    difference = float(np.max(np.abs(own - frame.fill), initial=0.0))
    if difference <= _FILL_ROUNDING * largest:
        return None
    return Refusal(
        Reason.BORDER,
        "the border is filled with other values than the nodes before it compute there",
        {"border_error": difference},
    )


# Eight ulps of float32: a shift is a difference of a few rounded products.
_FILL_ROUNDING = 8 * float(np.finfo(np.float32).eps)
