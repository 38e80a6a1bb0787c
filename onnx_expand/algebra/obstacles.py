"""Refusals of compositions: different ranks, channels that do not match, inexact borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_expand.errors import Reason, Refusal

if TYPE_CHECKING:
    from onnx_expand.algebra.geometry import Geometry

__all__ = ["border", "mismatch", "ranks_differ"]


def mismatch(first: Geometry, second: Geometry) -> Refusal | None:
    """Return why two maps do not compose, whatever the padding of the second is; else None."""
    if first.rank != second.rank and 0 not in (first.rank, second.rank):
        return ranks_differ(first, second)
    if first.out_channels != second.in_channels:
        return Refusal(
            Reason.GEOMETRY,
            f"the first map has {first.out_channels} output channels, the second "
            f"{second.in_channels} input channels",
            {"out_channels": first.out_channels, "in_channels": second.in_channels},
        )
    if not first.is_pointwise and not second.is_pointwise:
        floating = first.floating() or second.floating()
        if floating is not None:
            return floating
    if first.transposed and not second.is_pointwise:
        return Refusal(
            Reason.GEOMETRY, "a transposed convolution composes with pointwise maps only"
        )
    if second.transposed and not first.is_pointwise:
        return Refusal(
            Reason.GEOMETRY, "only pointwise maps compose with a transposed convolution"
        )
    if second.floats and not second.transposed and first.bias:
        return Refusal(
            Reason.BORDER,
            f"the first layer adds a bias before {second.auto_pad} may pad with zeros",
            {"bias": True},
            "this is exact only without the bias",
        )
    if second.transposed and first.bias:
        return Refusal(
            Reason.BORDER,
            "a bias before a transposed convolution is added once per tap that reaches a "
            "position, and the number of taps varies",
            {"bias": True},
        )
    return None


def border(first: Geometry, second: Geometry) -> Refusal | None:
    """Return why the zero padding of the second map is inexact after the first; None if exact.

    A merged convolution would read, in place of these zeros, what the first map computes beyond
    its output: its bias, or windows that still overlap the input. These are zero if the first map
    has no bias and its own padding is wide enough: `pad + stride >= reach` at the begin,
    `pad + 1 >= reach` at the end.
    """
    rank = second.rank
    first = first.at_rank(rank) if rank else first
    for axis in range(rank):
        sides = (
            ("begin", second.begins[axis], first.begins[axis] + first.strides[axis]),
            ("end", second.ends[axis], first.ends[axis] + 1),
        )
        for side, padding, covered in sides:
            if padding <= 0 or (covered >= first.reach[axis] and not first.bias):
                continue
            if covered >= first.reach[axis]:
                cause, way = "a bias", "fold with --border ones, map or pad"
            else:
                cause = f"windows of {first.reach[axis]} that still overlap the input"
                way = "exact only with all padding in the first layer"
            return Refusal(
                Reason.BORDER,
                f"the second layer pads axis {axis} with {padding} zeros at its {side}, where "
                f"the first one continues with {cause}",
                {
                    "axis": axis,
                    "side": side,
                    "padding": padding,
                    "reach": first.reach[axis],
                    "covered": covered,
                    "bias": first.bias,
                },
                way,
            )
    return None


def ranks_differ(a: Geometry, b: Geometry) -> Refusal:
    """Return the refusal of a composition or sum of maps of different ranks."""
    return Refusal(
        Reason.GEOMETRY,
        f"kernels of {a.rank} and {b.rank} spatial axes do not combine",
        {"ranks": [a.rank, b.rank]},
    )
