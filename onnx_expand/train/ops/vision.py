"""Operators of detection and warping, which sample at computed positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.algebra.windows import Windows
from onnx_expand.train.host import integers
from onnx_expand.train.ops.windows import pad_spatial
from onnx_expand.train.registry import Attributes, op

Setting = list[int | float] | torch.Tensor


@op("AffineGrid", static=(1,))
def affine_grid(theta: torch.Tensor, size: Setting, *, align_corners: int = 0) -> torch.Tensor:
    """Return the sampling grid of an affine map, for GridSample; theta [N, 2, 3] or [N, 3, 4]."""
    return F.affine_grid(theta, integers(size), align_corners=bool(align_corners))


@op("Col2Im", static=(1, 2))
def col2im(
    x: torch.Tensor,
    image_shape: Setting,
    block_shape: Setting,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Sum overlapping blocks: [N, C blocks, L] to [N, C, image]."""
    size, kernel = integers(image_shape), integers(block_shape)
    geometry = Windows.of(size, kernel, strides, dilations, pads)
    counts = geometry.counts(size)
    padded = [n + b + e for n, b, e in zip(size, geometry.begin, geometry.end, strict=True)]
    blocks = x.reshape(x.shape[0], -1, math.prod(kernel), *counts)
    image = x.new_zeros((x.shape[0], blocks.shape[1], *padded))
    for place, (_, seen) in enumerate(geometry.taps(counts)):
        image[seen] += blocks[:, :, place]
    return pad_spatial(image, [-b for b in geometry.begin], [-e for e in geometry.end])


@op("MaxUnpool", static=(2,))
def max_unpool(
    x: torch.Tensor,
    indices: torch.Tensor,
    output_shape: Setting | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Place values at the flat indices from which MaxPool took them."""
    rank = len(kernel_shape)
    geometry = Windows.of(x.shape[2:], kernel_shape, strides, None, pads)
    shape = [
        (n - 1) * s - b - e + k
        for n, s, b, e, k in zip(
            x.shape[2:], geometry.strides, geometry.begin, geometry.end, kernel_shape, strict=True
        )
    ]
    y = x.new_zeros(x.shape[0] * x.shape[1] * math.prod(shape))
    y = y.scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(*x.shape[:2], *shape)
    if output_shape is None:
        return y
    wanted = integers(output_shape)[2:]
    return pad_spatial(y, [0] * rank, [w - s for w, s in zip(wanted, shape, strict=True)])


@op("RoiAlign", allowed={"mode": {"avg", "max"}})
def roi_align(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch: torch.Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> torch.Tensor:
    """Resample each region [x1, y1, x2, y2] to one size: [regions, C, height, width].

    In mode `max` a bin is the maximum of the weighted corners, as ONNX defines it.
    """
    half = coordinate_transformation_mode == "half_pixel"
    found = []
    for region, image in zip(rois * spatial_scale - 0.5 * half, batch, strict=True):
        ends = []
        for first, last, bins in (
            (region[1], region[3], output_height),
            (region[0], region[2], output_width),
        ):
            span = last - first if half else (last - first).clamp(min=1.0)
            size = span / bins
            samples = sampling_ratio or max(0, math.ceil(float(size)))
            steps = torch.arange(bins * samples, device=x.device, dtype=x.dtype) + 0.5
            ends.append((first + steps * size / max(samples, 1), samples))
        (ys, rows), (xs, columns) = ends
        parts = _corners(x.index_select(0, image.reshape(1))[0], ys, xs)
        shape = (x.shape[1], output_height, rows, output_width, columns)
        if rows * columns == 0:
            found.append(x.new_zeros(x.shape[1], output_height, output_width))
        elif mode == "avg":
            found.append(sum(parts, x.new_zeros(())).reshape(shape).mean(dim=(2, 4)))
        else:
            found.append(torch.stack(parts).amax(dim=0).reshape(shape).amax(dim=(2, 4)))
    if not found:
        return x.new_zeros((0, x.shape[1], output_height, output_width))
    return torch.stack(found)


def _corners(image: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> list[torch.Tensor]:
    """Return the four weighted neighbours of each position of a grid, [C, ys, xs] each."""
    sides = []
    for places, length in ((ys, image.shape[1]), (xs, image.shape[2])):
        inside = ((places >= -1) & (places <= length)).to(image.dtype)
        at = places.clamp(0, length - 1)
        low = at.floor().to(torch.int64)
        rest = (at - low) * inside
        high = (low + 1).clamp(max=length - 1)
        sides.append(((low, inside - rest), (high, rest)))
    return [
        image.index_select(1, row).index_select(2, column) * (by[:, None] * bx[None, :])
        for row, by in sides[0]
        for column, bx in sides[1]
    ]


def _check_deform(attributes: Attributes) -> str:
    kernel = attributes.get("kernel_shape")
    return f"a window over {len(kernel)} axes" if kernel is not None and len(kernel) != 2 else ""


@op("DeformConv", weights=(1, 3), check=_check_deform)
def deform_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    offset: torch.Tensor,
    b: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Convolve with taps that are moved by offsets and weighted by a mask at each position."""
    kernel = list(kernel_shape or w.shape[2:])
    geometry = Windows.of(x.shape[2:], kernel, strides, dilations, pads)
    taps, (batch, channels) = math.prod(kernel), x.shape[:2]
    size = offset.shape[2:]
    moves = offset.reshape(batch * offset_group, *kernel, 2, *size)
    places = []
    for axis in range(2):
        step = torch.arange(size[axis], device=x.device) * geometry.strides[axis]
        tap = torch.arange(kernel[axis], device=x.device) * geometry.dilations[axis]
        place = step.reshape(-1, 1) if axis == 0 else step
        first = tap.reshape([-1, 1, 1, 1] if axis == 0 else [-1, 1, 1])
        places.append(moves[:, :, :, axis] + (place + first - geometry.begin[axis]))
    parts = _sampled(x.reshape(batch * offset_group, -1, *x.shape[2:]), *places)
    if mask is not None:
        parts = parts * mask.reshape(batch * offset_group, 1, *kernel, *size)
    parts = parts.reshape(batch, group, channels // group * taps, -1)
    weight = w.reshape(group, w.shape[0] // group, -1)
    y = torch.matmul(weight, parts).reshape(batch, w.shape[0], *size)
    return y if b is None else y + b.reshape(-1, 1, 1)


def _sampled(x: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """Sample images [B, C, H, W] at [B, ...], with zeros outside; return [B, C, ...]."""
    height, width = x.shape[2:]
    flat = x.flatten(2)
    top, left = ys.floor(), xs.floor()
    total: torch.Tensor | None = None
    for row, column in itertools.product((0, 1), (0, 1)):
        y, z = top + row, left + column
        weight = (1 - (ys - y).abs()) * (1 - (xs - z).abs())
        inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
        index = (y.clamp(0, height - 1) * width + z.clamp(0, width - 1)).to(torch.int64)
        index = index.reshape(index.shape[0], 1, -1).expand(-1, x.shape[1], -1)
        part = flat.gather(2, index).reshape(x.shape[0], x.shape[1], *ys.shape[1:])
        part = part * (weight * inside).unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total
