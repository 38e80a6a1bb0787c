"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.algebra.windows import Windows
from onnx_expand.train.ops.windows import pad_spatial, spatial_rank_problem
from onnx_expand.train.registry import op

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@op("Conv", weights=(1, 2), check=spatial_rank_problem)
def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Convolve [N, m, ...] with [n, m / group, ...]."""
    kernel = weight.shape[2:]
    geometry = Windows.of(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    padding: Sequence[int] = geometry.begin
    if not geometry.symmetric:
        x, padding = pad_spatial(x, geometry.begin, geometry.end), [0] * len(kernel)
    result: torch.Tensor = _CONV[len(kernel)](
        x, weight, bias, geometry.strides, padding, geometry.dilations, group
    )
    return result


@op("ConvTranspose", weights=(1, 2), check=spatial_rank_problem)
def conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Apply the transposed convolution of [m, n / group, ...] to [N, m, ...]."""
    kernel = weight.shape[2:]
    rank = len(kernel)
    extra = list(output_padding or [0] * rank)
    explicit = auto_pad == "NOTSET"
    geometry = Windows.of(x.shape[2:], kernel, strides, dilations, pads)
    begin: Sequence[int] = geometry.begin
    end: Sequence[int] = geometry.end
    if output_shape is not None or not (explicit or auto_pad == "VALID"):
        begin, end = _wanted(x.shape[2:], geometry, extra, output_shape, auto_pad)
    whole = _TRANSPOSE[rank](x, weight, None, geometry.strides, 0, 0, group, geometry.dilations)
    # torch crops only symmetrically, so the output is cropped here, before adding the bias.
    trims = [added - crop for added, crop in zip(extra, end, strict=True)]
    result = pad_spatial(whole, [-crop for crop in begin], trims)
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def _wanted(
    size: Sequence[int],
    geometry: Windows,
    extra: Sequence[int],
    output_shape: Sequence[int] | None,
    auto_pad: str,
) -> tuple[list[int], list[int]]:
    """Return the amounts to crop on each side for the wanted output extents."""
    steps = geometry.strides
    wanted = [n * s for n, s in zip(size, steps, strict=True)]
    if output_shape is not None:
        wanted = list(output_shape)[-len(steps) :]
    begin, end = [], []
    for axis, extent in enumerate(geometry.extents):
        full = (size[axis] - 1) * steps[axis] + extra[axis] + extent
        total = full - wanted[axis]
        # An output that is too short is extended at its end.
        small, large = (total // 2, total - total // 2) if total > 0 else (0, total)
        lower = auto_pad == "SAME_LOWER" and total > 0
        begin.append(large if lower else small)
        end.append(small if lower else large)
    return begin, end
