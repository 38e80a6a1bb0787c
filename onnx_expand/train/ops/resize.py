"""Resize and Upsample, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from onnx_expand.train.host import integers, numbers
from onnx_expand.train.registry import Attributes, op

Setting = list[int | float] | torch.Tensor

_COORDINATES = {
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
}


def _check(attributes: Attributes) -> str:
    transform = attributes.get("coordinate_transformation_mode", "half_pixel")
    if transform not in _COORDINATES:
        return f"coordinate_transformation_mode '{transform}'"
    if attributes.get("antialias", 0):
        return "antialias=1"
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return f"keep_aspect_ratio_policy '{attributes['keep_aspect_ratio_policy']}'"
    return ""


@op("Upsample", since=7, static=(1,))
@op("Resize", since=10, static=(1,))
def upsample(x: torch.Tensor, scales: Setting, *, mode: str = "nearest") -> torch.Tensor:
    """x, resampled at the multiples of 1 / scale: the meaning before opset 11."""
    return resize(
        x,
        None,
        scales,
        coordinate_transformation_mode="asymmetric",
        mode=mode,
        nearest_mode="floor",
    )


@op("Resize", since=11, static=(1, 2, 3), check=_check)
def resize(
    x: torch.Tensor,
    roi: Setting | None = None,
    scales: Setting | None = None,
    sizes: Setting | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> torch.Tensor:
    """X with some axes resampled, by scales or to sizes."""
    where = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    factors = [float(s) for s in numbers(scales)] if scales is not None else []
    extents = integers(sizes) if sizes is not None else []
    for position, axis in enumerate(where):
        length = x.shape[axis]
        out = extents[position] if extents else math.floor(length * factors[position])
        scale = factors[position] if factors else out / length
        if out == length and scale == 1:
            continue
        places = _coordinates(length, out, scale, coordinate_transformation_mode, x.device)
        if mode == "nearest":
            x = x.index_select(axis, _nearest(places, nearest_mode).clamp(0, length - 1))
        else:
            a = cubic_coeff_a if mode == "cubic" else None
            x = _interpolate(x, axis, places, a, bool(exclude_outside))
    return x


def _coordinates(
    length: int, out: int, scale: float, transform: str, device: torch.device
) -> torch.Tensor:
    """Where in the input each position of the output lies, [out]."""
    index = torch.arange(out, dtype=torch.float64, device=device)
    if transform == "asymmetric":
        return index / scale
    if transform == "align_corners":
        return index * ((length - 1) / (out - 1)) if out > 1 else index * 0
    if transform == "pytorch_half_pixel" and out <= 1:
        return index * 0
    places = (index + 0.5) / scale - 0.5
    if transform == "half_pixel_symmetric":
        # Keeps the middle in place where length * scale is not whole.
        places = places + length / 2 * (1 - out / (scale * length))
    return places


def _nearest(places: torch.Tensor, mode: str) -> torch.Tensor:
    if mode == "floor":
        rounded = places.floor()
    elif mode == "ceil":
        rounded = places.ceil()
    elif mode == "round_prefer_ceil":
        rounded = (places + 0.5).floor()
    else:
        rounded = (places - 0.5).ceil()
    return rounded.to(torch.int64)


def _interpolate(
    x: torch.Tensor, axis: int, places: torch.Tensor, a: float | None, exclude_outside: bool
) -> torch.Tensor:
    """Sums of two neighbours, or of four with the cubic kernel of coefficient a."""
    low = places.floor()
    rest = places - low
    weights = [1 - rest, rest] if a is None else _cubic(rest, a)
    first = 0 if a is None else -1
    taps = [low.to(torch.int64) + first + offset for offset in range(len(weights))]
    length = x.shape[axis]
    if exclude_outside:
        weights = [w * ((t >= 0) & (t < length)) for w, t in zip(weights, taps, strict=True)]
        whole = torch.stack(weights).sum(dim=0)
        weights = [w / whole for w in weights]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    parts = [
        x.index_select(axis, tap.clamp(0, length - 1)) * weight.to(x.dtype).reshape(shape)
        for tap, weight in zip(taps, weights, strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


def _cubic(rest: torch.Tensor, a: float) -> list[torch.Tensor]:
    """Keys's cubic convolution kernel at the four neighbours of each place."""

    def near(d: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: torch.Tensor) -> torch.Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(rest + 1), near(rest), near(1 - rest), far(2 - rest)]
