"""Resize and Upsample, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.train.host import integers, numbers
from onnx_expand.train.registry import op

Setting = list[int | float] | torch.Tensor

_COORDINATES = {
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_crop_and_resize",
}
_POLICIES = {"stretch": None, "not_larger": min, "not_smaller": max}


@op("Upsample", since=7, static=(1,))
@op("Resize", since=10, static=(1,))
def upsample(x: torch.Tensor, scales: Setting, *, mode: str = "nearest") -> torch.Tensor:
    """Resample x at multiples of 1 / scale, as before opset 11."""
    return resize(
        x,
        None,
        scales,
        coordinate_transformation_mode="asymmetric",
        mode=mode,
        nearest_mode="floor",
    )


@op(
    "Resize",
    since=11,
    static=(1, 2, 3),
    allowed={
        "coordinate_transformation_mode": _COORDINATES,
        "keep_aspect_ratio_policy": _POLICIES,
    },
)
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
    """Resample some axes of x, by scales or to sizes.

    Raises:
        UnsupportedError: The input to interpolate has an integer type.
    """
    if mode != "nearest" and not x.is_floating_point():
        raise UnsupportedError(
            f"Resize: {mode} interpolation of {x.dtype} is rounded as each runtime sees fit; "
            "cast to float32 before it"
        )
    where = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    factors = [float(s) for s in numbers(scales)] if scales is not None else []
    extents = integers(sizes) if sizes is not None else []
    choose = _POLICIES[keep_aspect_ratio_policy]
    if extents and choose is not None:
        lengths = [x.shape[axis] for axis in where]
        factor = choose(n / length for n, length in zip(extents, lengths, strict=True))
        extents = [math.floor(factor * length + 0.5) for length in lengths]
        factors = [factor] * len(where)  # one scale for all axes, although extents are rounded
    cropped = coordinate_transformation_mode == "tf_crop_and_resize"
    ends = [float(r) for r in numbers(roi)] if cropped and roi is not None else []
    for position, axis in enumerate(where):
        length = x.shape[axis]
        out = extents[position] if extents else math.floor(length * factors[position])
        scale = factors[position] if factors else out / length
        if out == length and scale == 1 and not cropped:
            continue
        if cropped:
            crop = ends[position], ends[position + len(where)]
            places = _cropped(length, out, *crop, x.device)
        else:
            places = _coordinates(length, out, scale, coordinate_transformation_mode, x.device)
        if mode == "nearest":
            y = x.index_select(axis, _nearest(places, nearest_mode).clamp(0, length - 1))
        else:
            a = cubic_coeff_a if mode == "cubic" else None
            width = min(scale, 1.0) if antialias else 1.0
            y = _interpolate(x, axis, places, a, width, bool(exclude_outside))
        if cropped:
            outside = (places < 0) | (places > length - 1)
            shape = [-1 if i == axis else 1 for i in range(x.ndim)]
            y = torch.where(outside.reshape(shape), extrapolation_value, y)
        x = y
    return x


def _cropped(
    length: int, out: int, first: float, last: float, device: torch.device
) -> torch.Tensor:
    """Return positions between two fractions of an axis, [out]."""
    index = torch.arange(out, dtype=torch.float64, device=device)
    span = (last - first) * (length - 1)
    places = index * span / (out - 1) if out > 1 else index + span / 2
    return places + first * (length - 1)


def _coordinates(
    length: int, out: int, scale: float, transform: str, device: torch.device
) -> torch.Tensor:
    """Return the input position of each output position, float64 [out].

    They are rounded to float32 as in onnxruntime, which decides the nearest neighbour.
    """
    single = torch.float32
    index = torch.arange(out, dtype=single, device=device)
    factor, size = (torch.tensor(float(n), dtype=single, device=device) for n in (scale, length))
    if transform == "asymmetric":
        places = index / factor
    elif transform == "align_corners":
        places = index * (length - 1) / (out - 1) if out > 1 else index * 0
    elif transform == "pytorch_half_pixel" and out <= 1:
        places = index * 0
    elif transform == "half_pixel_symmetric":
        # Keeps the center in place if length * scale is not an integer.
        ends = torch.tensor(float(out), dtype=single, device=device) / (factor * size)
        start = (size / 2 * (1 - ends)).double()
        places = (start + (index.double() + 0.5) / factor.double() - 0.5).to(single)
    else:
        places = (index + 0.5) / factor - 0.5
    return places.double()


# The distance to the midpoint of two neighbours within which a position counts as the midpoint.
_MIDDLE = 1e-6


def _nearest(places: torch.Tensor, mode: str) -> torch.Tensor:
    if mode == "floor":
        rounded = places.floor()
    elif mode == "ceil":
        rounded = places.ceil()
    elif mode == "round_prefer_ceil":
        rounded = (places + (0.5 + _MIDDLE)).floor()
    else:
        rounded = (places - (0.5 + _MIDDLE)).ceil()
    return rounded.to(torch.int64)


def _interpolate(
    x: torch.Tensor,
    axis: int,
    places: torch.Tensor,
    a: float | None,
    width: float,
    exclude_outside: bool,
) -> torch.Tensor:
    """Compute weighted sums of neighbours, by a triangle or the cubic kernel of coefficient a.

    Kernels are stretched by 1 / width, which averages when downscaling (antialiasing).
    """
    low = places.ceil() - 1  # the previous neighbour, never the position itself
    rest = places - low
    reach = 1 if a is None else 2
    first = math.floor(-reach / width) + 1
    offsets = range(first, 2 - first)
    distances = [((offset - rest) * width).abs() for offset in offsets]
    weights = [(1 - d).clamp(min=0) if a is None else _cubic(d, a) for d in distances]
    taps = [low.to(torch.int64) + offset for offset in offsets]
    length = x.shape[axis]
    if exclude_outside:
        weights = [w * ((t >= 0) & (t < length)) for w, t in zip(weights, taps, strict=True)]
    if exclude_outside or width < 1:
        whole = torch.stack(weights).sum(dim=0)
        weights = [w / whole for w in weights]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    total: torch.Tensor | None = None
    for tap, weight in zip(taps, weights, strict=True):
        part = x.index_select(axis, tap.clamp(0, length - 1)) * weight.to(x.dtype).reshape(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


def _cubic(d: torch.Tensor, a: float) -> torch.Tensor:
    """Evaluate Keys's cubic convolution kernel at distances from its center."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
