"""Compare two results, in units of the distance that rounding explains."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.documents import table

__all__ = [
    "FACTOR",
    "Figure",
    "Place",
    "Tolerance",
    "compare",
    "distance",
    "largest",
    "missing",
    "trusted",
]

Array = npt.NDArray[Any]

FACTOR = 10.0
"""The allowed distance of B from A's float64 results, as a multiple of the floor.

Measured over 15,400 comparisons of exact rewrites, in both directions: batch normalization folded,
expanded convolutions and dense layers merged and split, residuals, 1 to 60 layers, float32 and
float16. 99 % stayed below 3 floors and 99.9 % below 6. Only two networks of 60 layers without a
nonlinearity exceeded 8, at 14 and 19 floors, where rounding errors had grown a hundredfold.
"""

_UNITS = 2.0  # in eps times the largest value: the least floor, for exact results
_DISTRUST = 100.0


@dataclass(frozen=True)
class Tolerance:
    """The criterion of equality.

    Attributes:
        factor: The allowed distance in floors, if neither `rtol` nor `atol` is given.
        rtol: Replaces the floor by |a - b| <= atol + rtol * |a|.
        atol: As `rtol`.
    """

    factor: float = FACTOR
    rtol: float | None = None
    atol: float | None = None

    @property
    def fixed(self) -> bool:
        """Whether the tolerance is given rather than measured."""
        return self.rtol is not None or self.atol is not None


@dataclass(frozen=True)
class Place:
    """The values that are compared: one output, on one input, on one provider."""

    output: str
    sample: str
    provider: str


@dataclass(frozen=True)
class Figure:
    """The comparison of one output of both models on one input.

    Attributes:
        place: The output, input and provider.
        max_error: The largest distance from A in float64 or from A itself, depending on the basis.
        relative_error: `max_error` over the largest value of the output.
        floor: The effect of rounding on A.
        tolerance: The allowed `max_error`.
        ratio: `max_error` over `tolerance`; at most 1 if equal.
        scale: The largest value of the output.
        index: The index of the largest error, or of the first difference; None without elements.
        ulp: The largest distance from A's result in ulps of A's values.
        cosine: The cosine of the angle between the two results; None if one of them is zero.
        border: The largest error at the first and last positions of the spatial axes, and at all
            other positions; None for an output without spatial axes.
        non_finite: The number of NaNs and infinities that both have at the same positions.
        problem: The difference, empty if there is none.
        excuse: Why a ratio above 1 is not a difference; empty if the ratio is at most 1.
    """

    place: Place
    max_error: float = 0.0
    relative_error: float = 0.0
    floor: float = 0.0
    tolerance: float = 0.0
    ratio: float = 0.0
    scale: float = 0.0
    index: tuple[int, ...] | None = None
    non_finite: int = 0
    problem: str = ""
    ulp: float = 0.0
    cosine: float | None = None
    border: tuple[float, float] | None = None
    excuse: str = ""

    @property
    def equal(self) -> bool:
        """Whether the two results agree."""
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        """Return the figure as strict JSON types, with non-finite values as strings."""
        own = table(self)
        border = own.pop("border") or (None, None)
        place = own.pop("place")
        return {**place, **own, "border_error": border[0], "interior_error": border[1]}


def distance(left: Array, right: Array) -> float:
    """Return the largest distance of two arrays of equal shape, where both are finite."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    both = np.isfinite(left) & np.isfinite(right)
    gap = np.subtract(left, right, out=np.zeros(left.shape), where=both)
    return float(np.max(np.abs(gap), initial=0.0))


def largest(array: Array) -> float:
    """Return the largest finite absolute value of an array; 0 for types without rounding."""
    if array.dtype.kind != "f":
        return 0.0
    return float(np.max(np.abs(array), where=np.isfinite(array), initial=0.0))


def trusted(a: Array, truth: Array, noise: float, eps: float) -> bool:
    """Return whether rounding can explain A's distance from float64.

    A much larger distance means that the two compute different functions: the reference may
    implement an operator wrongly, or the model may round on purpose, as quantized models do.
    Treating it as rounding would make the tolerance meaninglessly large.
    """
    if a.dtype.kind != "f":
        return True
    if a.shape != truth.shape:
        return False
    error = distance(a, truth)
    return error <= max(_DISTRUST * noise, _DISTRUST * _UNITS * eps * largest(truth), _tiny(a))


def compare(
    place: Place,
    a: Array,
    b: Array,
    truth: Array | None,
    noise: float,
    eps: float,
    tolerance: Tolerance,
) -> Figure:
    """Compare one output of two models.

    Args:
        place: The output, input and provider.
        a: A's result.
        b: B's result.
        truth: A's result in float64, if there is one.
        noise: The change of A's result when its inputs change by one ulp.
        eps: The machine epsilon of the coarsest type to which A rounds.
        tolerance: The criterion of equality.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        problem = f"{a.dtype}{list(a.shape)} in A, {b.dtype}{list(b.shape)} in B"
        return Figure(place, math.inf, ratio=math.inf, problem=problem)
    if a.size == 0:
        return Figure(place)
    if a.dtype.kind != "f":
        return _exact(place, a, b)
    # Infinities of equal sign are equal, and so are NaNs.
    odd = ~np.isfinite(a) | ~np.isfinite(b)
    wrong = odd & (a != b) & ~(np.isnan(a) & np.isnan(b))
    if wrong.any():
        index = _first(wrong)
        problem = f"{a[index]} in A, {b[index]} in B at {list(index)}"
        return Figure(place, math.inf, math.inf, ratio=math.inf, index=index, problem=problem)
    a64, b64 = np.where(odd, 0.0, a.astype(np.float64)), np.where(odd, 0.0, b.astype(np.float64))
    want = a64
    if truth is not None and not tolerance.fixed:
        want = np.where(np.isfinite(truth) & ~odd, truth, a64)
    error = np.abs(b64 - want)
    scale = float(np.max(np.abs(want)))
    floor = max(noise, float(np.max(np.abs(a64 - want))), _UNITS * eps * scale, _tiny(a))
    if tolerance.fixed:
        floor = 0.0
        allowed = (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * np.abs(a64)
    else:
        allowed = np.full(a.shape, tolerance.factor * floor)
    figure = _figure(place, error, allowed, floor, scale, int(odd.sum()))
    return replace(
        figure, ulp=_ulp(a, a64, b64), cosine=_cosine(a64, b64), border=_by_place(error)
    )


def missing(place: Place, where: str) -> Figure:
    """Return the figure of an output that only one model has, such as a sequence element."""
    return Figure(place, math.inf, math.inf, ratio=math.inf, problem=f"is in {where} only")


def _figure(
    place: Place, error: Array, allowed: Array, floor: float, scale: float, non_finite: int
) -> Figure:
    ratios = np.divide(error, allowed, out=np.full(error.shape, np.inf), where=allowed > 0)
    ratios = np.where(error == 0, 0.0, ratios)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratios)), ratios.shape))
    worst, ratio, tolerance = float(error[at]), float(ratios[at]), float(allowed[at])
    problem = ""
    if ratio > 1:
        problem = f"error {worst:.2g} at {list(at)}, where {tolerance:.2g} is allowed"
    relative = worst / scale if scale else (math.inf if worst else 0.0)
    return Figure(place, worst, relative, floor, tolerance, ratio, scale, at, non_finite, problem)


def _ulp(a: Array, a64: Array, b64: Array) -> float:
    """Return the largest distance in ulps of A's values."""
    kind = np.finfo(a.dtype)
    unit = np.maximum(np.abs(a64), float(kind.tiny)) * float(kind.eps)
    # The ulp of a value is that of the largest power of two not above it.
    unit = np.exp2(np.floor(np.log2(unit)))
    return float(np.max(np.abs(b64 - a64) / unit, initial=0.0))


def _cosine(a: Array, b: Array) -> float | None:
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not size or not math.isfinite(size):
        return None
    return max(-1.0, min(1.0, float(np.vdot(a, b)) / size))


def _by_place(error: Array) -> tuple[float, float] | None:
    """Return the largest error on the rim of the spatial axes, and inside."""
    if error.ndim < 3:
        return None
    inner = (slice(None), slice(None), *(slice(1, -1) for _ in error.shape[2:]))
    within = float(np.max(error[inner], initial=0.0))
    rim = np.ones(error.shape, dtype=bool)
    rim[inner] = False
    return float(np.max(error, where=rim, initial=0.0)), within


def _exact(place: Place, a: Array, b: Array) -> Figure:
    """Compare integers, booleans or strings, which must be equal."""
    differ = a != b
    if not differ.any():
        return Figure(place, index=(0,) * a.ndim)
    index = _first(differ)
    error = 1.0
    if a.dtype.kind in "iu":
        error = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    problem = f"{a[index]} in A, {b[index]} in B at {list(index)}; {differ.sum()} differ"
    return Figure(place, error, ratio=math.inf, index=index, problem=problem)


def _first(mask: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def _tiny(array: Array) -> float:
    # Subnormal values lose precision gradually, and some devices flush them to zero.
    return float(np.finfo(array.dtype).tiny)
