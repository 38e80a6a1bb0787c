"""Sampling between positions, and rarely used operators of linear algebra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.algebra.windows import Windows
from onnx_expand.train.ops.windows import pad_spatial
from onnx_expand.train.registry import op, plain

plain(Det=torch.linalg.det)

_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}


@op("GridSample", allowed={"mode": {*_MODES, *_MODES.values()}})
def grid_sample(
    x: torch.Tensor,
    grid: torch.Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample x at fractional positions between -1 and 1."""
    how = _MODES.get(mode, mode)
    return F.grid_sample(
        x, grid, mode=how, padding_mode=padding_mode, align_corners=bool(align_corners)
    )


@op("Hardmax", since=13)
def hardmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """Set the first largest element along an axis to one, others to zero."""
    largest = (x == x.amax(axis, keepdim=True)).to(torch.int64).argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, largest, 1)


@op("LpNormalization")
def lp_normalization(x: torch.Tensor, *, axis: int = -1, p: int = 2) -> torch.Tensor:
    """Divide x by its norm along an axis; zero where the norm is zero."""
    norm = x.norm(p, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, 1, norm))


@op("LpPool", allowed={"ceil_mode": {0}})
def lp_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Sequence[int],
    p: int = 2,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Compute the p-norm of each window."""
    rank = len(kernel_shape)
    geometry = Windows.of(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    powers = pad_spatial(x.abs().pow(p), geometry.begin, geometry.end)
    kernel = x.new_ones(x.shape[1], 1, *kernel_shape)
    run: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    sums: torch.Tensor = run[rank](
        powers, kernel, None, geometry.strides, 0, geometry.dilations, x.shape[1]
    )
    return sums.pow(1 / p)


@op("Compress")
def compress(x: torch.Tensor, condition: torch.Tensor, *, axis: int | None = None) -> torch.Tensor:
    """Return the slices at the indices where a condition is true."""
    where = condition.nonzero().reshape(-1)
    return x.reshape(-1)[where] if axis is None else x.index_select(axis, where)


@op("ReverseSequence")
def reverse_sequence(
    x: torch.Tensor, lengths: torch.Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> torch.Tensor:
    """Reverse the first steps of each sequence, as many as its length."""
    moved = x.movedim((time_axis, batch_axis), (0, 1))
    steps = torch.arange(moved.shape[0], device=x.device).reshape(-1, 1)
    own = lengths.reshape(1, -1)
    index = torch.where(steps < own, own - 1 - steps, steps)
    index = index.reshape(*index.shape, *[1] * (moved.ndim - 2)).expand_as(moved)
    return moved.gather(0, index).movedim((0, 1), (time_axis, batch_axis))
