"""Local and global pooling."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.algebra.windows import Windows
from onnx_expand.train.ops.windows import pad_spatial, spatial_rank_problem
from onnx_expand.train.registry import op

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _torch_pads(geometry: Windows, ceil_mode: int) -> bool:
    """Return whether torch's pooling accepts this geometry."""
    half = all(2 * p <= k for p, k in zip(geometry.begin, geometry.kernel, strict=True))
    return geometry.symmetric and half and not ceil_mode


@op("MaxPool", check=spatial_rank_problem)
def max_pool(
    x: torch.Tensor,
    *,
    outputs: int,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Compute the maximum of each window, and its flat index in x."""
    size = x.shape[2:]
    geometry = Windows.of(size, kernel_shape, strides, dilations, pads, auto_pad)
    padding: Sequence[int] = geometry.begin
    before: Sequence[int] = [0] * len(size)  # positions added before the input
    if not _torch_pads(geometry, ceil_mode):
        end = geometry.fit(size, geometry.counts(size, ceil_mode=bool(ceil_mode)))
        x = pad_spatial(x, geometry.begin, end, _lowest(x.dtype))
        before, padding = geometry.begin, [0] * len(end)
    run = _MAX[len(geometry.kernel)]
    settings = (geometry.kernel, geometry.strides, padding, geometry.dilations)
    if outputs == 1:
        return (run(x, *settings),)
    y, places = run(x, *settings, return_indices=True)
    return y, _counted(places, x.shape[2:], before, size, bool(storage_order))


def _counted(
    places: torch.Tensor,
    padded: Sequence[int],
    before: Sequence[int],
    size: Sequence[int],
    column_major: bool,
) -> torch.Tensor:
    """Convert indices in a padded channel to ONNX's, which count all channels and samples."""
    along = []
    for length, first in zip(reversed(padded), reversed(before), strict=True):
        along.append(places % length - first)
        places = places // length
    axes = list(zip(reversed(along), size, strict=True))
    total = torch.zeros_like(places)
    for index, length in reversed(axes) if column_major else axes:
        total = total * length + index
    channels = torch.arange(places.shape[0] * places.shape[1], device=places.device)
    shape = (*places.shape[:2], *[1] * len(size))
    return total + channels.reshape(shape) * math.prod(size)


@op("AveragePool", check=spatial_rank_problem)
def average_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Compute the mean of each window."""
    size = x.shape[2:]
    geometry = Windows.of(size, kernel_shape, strides, dilations, pads, auto_pad)
    if _torch_pads(geometry, ceil_mode) and set(geometry.dilations) == {1}:
        result: torch.Tensor = _AVERAGE[len(size)](
            x,
            geometry.kernel,
            geometry.strides,
            geometry.begin,
            count_include_pad=bool(count_include_pad),
        )
        return result
    counts = geometry.counts(size, ceil_mode=bool(ceil_mode))
    ends = geometry.fit(size, counts)
    begins, beyond, ones = geometry.begin, ends, x.new_ones((1, 1, *size))
    if count_include_pad:
        # The declared padding counts; positions that ceil_mode adds after it do not.
        ones = pad_spatial(ones, begins, geometry.end, 1.0)
        begins = (0,) * len(size)
        beyond = [end - declared for end, declared in zip(ends, geometry.end, strict=True)]
    total = _window_sums(pad_spatial(x, geometry.begin, ends), geometry, counts)
    return total / _window_sums(pad_spatial(ones, begins, beyond), geometry, counts)


def _window_sums(x: torch.Tensor, geometry: Windows, counts: Sequence[int]) -> torch.Tensor:
    """Sum each window of a padded input by slices."""
    parts = [x[seen] for _, seen in geometry.taps(counts)]
    return functools.reduce(torch.add, parts)


def _lowest(dtype: torch.dtype) -> float:
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


@op("GlobalAveragePool")
def global_average_pool(x: torch.Tensor) -> torch.Tensor:
    """Compute the mean of each channel, [N, C, 1, ...]."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(x: torch.Tensor) -> torch.Tensor:
    """Compute the maximum of each channel, [N, C, 1, ...]."""
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)
