"""Chains of kernels as plain arrays, composed and differentiated tap by tap.

A kernel is [g, n, m, *taps]: for each of g groups, n outputs of m inputs. Strides, dilations and
pads are irrelevant here: along a chain in which only the last kernel has a stride, taps compose by
full convolution. A composition is linear in each of its factors, and the adjoints here are those
of these linear maps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "SMALLEST",
    "Array",
    "adjoint_first",
    "adjoint_second",
    "blocks",
    "compose",
    "composed_shape",
    "effort",
    "least_squares",
    "norm",
    "product",
    "relative",
    "rotation",
    "unblocked",
]

Array = npt.NDArray[np.float64]
SMALLEST = 16 * float(np.finfo(np.float64).eps)
"""A relative residual that is rounding noise."""


def blocks(weight: Array, group: int) -> Array:
    """Reshape [n, m / group, *taps] to [group, n / group, m / group, *taps]."""
    return weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])


def unblocked(kernel: Array) -> Array:
    """Invert `blocks`."""
    return kernel.reshape(-1, *kernel.shape[2:])


def compose(second: Array, first: Array) -> Array:
    """Compose `second` after `first`: [g, n, p, *t], [g, p, m, *u] to [g, n, m, *(t + u - 1)]."""
    (g, n, p), (m,) = second.shape[:3], first.shape[2:3]
    taps, inner = second.shape[3:], first.shape[3:]
    extents = [a + b - 1 for a, b in zip(taps, inner, strict=True)]
    if min(math.prod(taps), math.prod(inner)) >= _MANY:
        return _by_frequency(second, first, extents, extents)
    out = np.zeros((g, n, m, *extents))
    if np.prod(taps) <= np.prod(inner):
        flat = first.reshape(g, p, -1)
        for tap in np.ndindex(*taps):
            part = _tap(second, tap) @ flat
            out[_window(tap, inner)] += part.reshape(g, n, m, *inner)
        return out
    flat = np.ascontiguousarray(np.moveaxis(second.reshape(g, n, p, -1), 3, 2)).reshape(g, -1, p)
    for tap in np.ndindex(*inner):
        part = np.moveaxis((flat @ _tap(first, tap)).reshape(g, n, -1, m), 2, 3)
        out[_window(tap, taps)] += part.reshape(g, n, m, *taps)
    return out


def adjoint_first(second: Array, gradient: Array) -> Array:
    """Apply the adjoint of `first -> compose(second, first)` to a gradient of the composition."""
    (g, n, p), m = second.shape[:3], gradient.shape[2]
    taps = second.shape[3:]
    inner = [a - b + 1 for a, b in zip(gradient.shape[3:], taps, strict=True)]
    if min(math.prod(taps), math.prod(inner)) >= _MANY:
        flipped = _flipped(second.swapaxes(1, 2))
        return _by_frequency(flipped, gradient, inner, gradient.shape[3:], taps)
    out = np.zeros((g, p, m, *inner))
    for tap in np.ndindex(*taps):
        part = gradient[_window(tap, inner)].reshape(g, n, -1)
        out += (_tap(second, tap).swapaxes(1, 2) @ part).reshape(out.shape)
    return out


def adjoint_second(first: Array, gradient: Array) -> Array:
    """Apply the adjoint of `second -> compose(second, first)` to a gradient of the composition."""
    g, n = gradient.shape[:2]
    p, inner = first.shape[1], first.shape[3:]
    taps = [a - b + 1 for a, b in zip(gradient.shape[3:], inner, strict=True)]
    if min(math.prod(taps), math.prod(inner)) >= _MANY:
        flipped = _flipped(first.swapaxes(1, 2))
        return _by_frequency(gradient, flipped, taps, gradient.shape[3:], inner)
    flat = first.reshape(g, p, -1).swapaxes(1, 2)
    out = np.zeros((g, n, p, *taps))
    for tap in np.ndindex(*taps):
        out[(..., *tap)] = gradient[_window(tap, inner)].reshape(g, n, -1) @ flat
    return out


def effort(second: Sequence[int], first: Sequence[int]) -> float:
    """Estimate the time of composing kernels of these shapes, as a number of multiplications.

    The adjoints take as long.
    """
    (g, n, p), (m,) = second[:3], first[2:3]
    taps, inner = math.prod(second[3:]), math.prod(first[3:])
    if min(taps, inner) < _MANY:
        return float(g * n * p * m * taps * inner + _CALL * min(taps, inner))
    bins = math.prod(a + b - 1 for a, b in zip(second[3:], first[3:], strict=True))
    return float(g * bins * (4 * n * p * m + _TRANSFORM * (n * p + p * m + n * m)))


def composed_shape(chain: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape of the composition of a chain; empty for an empty one."""
    if not chain:
        return ()
    extents = zip(*(kernel.shape[3:] for kernel in chain), strict=True)
    spans = (1 + sum(size - 1 for size in sizes) for sizes in extents)
    return (chain[0].shape[0], chain[-1].shape[1], chain[0].shape[2], *spans)


def product(chain: Sequence[Array]) -> Array | None:
    """Compose a chain, first kernel first; None for an empty one."""
    return functools.reduce(lambda a, b: compose(b, a), chain) if chain else None


def norm(kernel: Array) -> float:
    """Return the square root of the sum of squares."""
    return float(np.linalg.norm(kernel.ravel()))


def relative(rest: Array, wanted: Array) -> float:
    """Return the norm of a remainder over that of what was wanted, or its own if that is zero."""
    scale = norm(wanted)
    return norm(rest) / scale if scale else norm(rest)


def rotation(g: int, width: int, rng: np.random.Generator) -> Array:
    """Return [g, width, width], random orthogonal matrices."""
    q, r = np.linalg.qr(rng.standard_normal((g, width, width)))
    return np.asarray(q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :])


def least_squares(
    apply: Callable[[Array], Array],
    adjoint: Callable[[Array], Array],
    wanted: Array,
    *,
    goal: float,
    steps: int,
) -> Array:
    """Solve `apply(x) = wanted` in the least-squares sense, with the smallest x.

    Conjugate gradients on the normal equations (CGLS, Björck 1996, sec. 7.4), started from zero.

    Args:
        apply: A linear map.
        adjoint: Its adjoint.
        wanted: The right-hand side.
        goal: The norm of the residual at which to stop.
        steps: The maximum number of steps.
    """
    rest = wanted.copy()
    slope = adjoint(rest)
    x, direction, power = np.zeros_like(slope), slope, float(np.vdot(slope, slope))
    gain = 0.0  # the largest observed gain of the map
    for _ in range(steps):
        image = apply(direction)
        energy, length = float(np.vdot(image, image)), float(np.vdot(direction, direction))
        if not energy or not length:
            break
        gain = max(gain, energy / length)
        left = float(np.vdot(rest, rest))
        if left <= goal**2 or power <= _FLAT * gain * left:
            break
        pace = power / energy
        x = x + pace * direction
        rest = rest - pace * image
        slope = adjoint(rest)
        last, power = power, float(np.vdot(slope, slope))
        direction = slope + (power / last) * direction
    return x


# A squared slope below this fraction of its possible value is rounding noise; steps along it
# diverge.
_FLAT = 1e-12**2


# From this many taps of both kernels on, Fourier transforms are faster than one product per tap.
_MANY = 24
# The time of a call, and of transforming a number, as multiplications in a product of matrices.
_CALL, _TRANSFORM = 2e5, 60
_BLOCK = 1 << 22  # elements that are transformed at a time


def _by_frequency(
    second: Array,
    first: Array,
    extents: Sequence[int],
    period: Sequence[int],
    skipped: Sequence[int] = (),
) -> Array:
    """Compose `second` after `first` by Fourier transforms, in blocks of outputs.

    Args:
        second: [g, n, p, *t].
        first: [g, p, m, *u].
        extents: The extents of the result.
        period: A transform length whose wrap-around does not reach the wanted part of the result.
        skipped: If given, the result begins at the last of this many taps.
    """
    axes = tuple(range(3, second.ndim))
    lengths = [_smooth(size) for size in period]
    begins = [size - 1 for size in skipped] or [0] * len(lengths)
    window = tuple(slice(b, b + size) for b, size in zip(begins, extents, strict=True))
    right = _transformed(first, lengths, axes)
    (g, n), m = second.shape[:2], first.shape[2]
    out = np.empty((g, n, m, *extents))
    rows = max(1, _BLOCK // (math.prod(lengths) * g * max(second.shape[2], m)))
    bins = [*lengths[:-1], lengths[-1] // 2 + 1]
    for i in range(0, n, rows):
        product = _transformed(second[:, i : i + rows], lengths, axes) @ right
        product = np.moveaxis(product, 0, -1).reshape(g, -1, m, *bins)
        whole = np.fft.irfftn(product, lengths, axes)
        index: tuple[Any, ...] = (..., *window)
        out[:, i : i + rows] = whole[index]
    return out


def _transformed(
    kernel: Array, lengths: Sequence[int], axes: tuple[int, ...]
) -> npt.NDArray[np.complex128]:
    """Transform [g, n, m, *taps] to [frequencies, g, n, m]."""
    bins = np.fft.rfftn(kernel, lengths, axes)
    flat = bins.reshape(*bins.shape[:3], -1)
    return np.ascontiguousarray(np.moveaxis(flat, -1, 0))


def _flipped(kernel: Array) -> Array:
    """Reverse the taps of a kernel on each axis."""
    return np.flip(kernel, tuple(range(3, kernel.ndim)))


def _smooth(least: int) -> int:
    """Return the least number from `least` on without prime factors above 5 (fast transforms)."""
    size = least
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _tap(kernel: Array, tap: Sequence[int]) -> Array:
    """Return one tap of a kernel, [g, n, m], contiguous, since BLAS needs dense data."""
    index: tuple[Any, ...] = (..., *tap)
    return np.ascontiguousarray(kernel[index])


def _window(tap: Sequence[int], extents: Sequence[int]) -> tuple[slice, ...]:
    spans = (slice(t, t + size) for t, size in zip(tap, extents, strict=True))
    return (slice(None),) * 3 + tuple(spans)
