"""What keeps two maps from being one: ranks, channels, borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_expand.errors import Reason, Refusal

if TYPE_CHECKING:
    from onnx_expand.algebra.geometry import Geometry

__all__ = ["border", "mismatch", "ranks_differ"]


def mismatch(first: Geometry, second: Geometry) -> Refusal | None:
    """Why one map after another is not one convolution, whatever the second pads with."""
    if first.rank != second.rank and 0 not in (first.rank, second.rank):
        return ranks_differ(first, second)
    if first.out_channels != second.in_channels:
        return Refusal(
            Reason.GEOMETRY,
            f"{first.out_channels} channels come out and {second.in_channels} go in",
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
            Reason.GEOMETRY, "pointwise maps alone compose with a transposed convolution"
        )
    if second.floats and not second.transposed and first.bias:
        return Refusal(
            Reason.BORDER,
            f"a bias meets the zeros that {second.auto_pad} may pad with",
            {"bias": True},
            "exact only without bias",
        )
    if second.transposed and first.bias:
        return Refusal(
            Reason.BORDER,
            "a bias before a transposed convolution counts once for each tap that reaches a "
            "position, and their number varies",
            {"bias": True},
        )
    return None


def border(first: Geometry, second: Geometry) -> Refusal | None:
    """Why the zeros that one map pads with are not the values of the one before it there.

    Beyond its output the first map continues with its bias, or with windows that still touch the
    input. It continues with zeros when it has no bias and its own padding keeps the next
    window off the input: `pad + stride >= reach` before, `pad + 1 >= reach` behind.
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
                cause = f"windows of {first.reach[axis]} that still reach the input"
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
    """Why maps of so many spatial axes are not one."""
    return Refusal(
        Reason.GEOMETRY,
        f"kernels of {a.rank} and {b.rank} spatial axes do not meet",
        {"ranks": [a.rank, b.rank]},
    )
