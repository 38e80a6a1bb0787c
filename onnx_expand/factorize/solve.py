"""Fit chains of kernels that compose to a given one.

For 1x1, kernel, 1x1, and for matrices, the outer factors F1 and F3 are orthogonal, and a random
middle factor F2o is moved by the least amount that makes the composition right,

    F2 = F2o + pinv(F3) (W - F3 F2o F1) pinv(F1),

which is exact if no inner width is below the adjacent outer one. Otherwise the outer factors span
the leading singular directions (Tucker's decomposition), which is optimal up to a small factor.

For kernels of 3 taps, kernels with a single 1 in a corner shift the input by 0 or 2; four of them
per channel leave a kernel that is smaller by two rows and columns, with overlaps divided evenly.
If the widths do not suffice, the layers are random. In both cases noise and rotations involve
every unit, and one layer near the middle is solved for by conjugate gradients through the
convolutions. The remaining residual is reduced by solving for each layer in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_expand.factorize.corners import corners, filled_up, selector, shifts
from onnx_expand.factorize.kernels import (
    Array,
    adjoint_first,
    adjoint_second,
    compose,
    least_squares,
    norm,
    product,
)

__all__ = ["Fit", "Rounded", "fit_chain"]

Rounded = Callable[[Array], Array]
"""A function that rounds values to the type in which they will be stored, returned in float64."""

_NOISE = 0.3
_STEPS = 400
_SWEEPS = 30
# A sweep that leaves more than this fraction of the residual is the last: where any residual is
# acceptable, and where only an exact solution is.
_STALLED, _HOPELESS = 0.98, 0.5
_WORK = 3e11  # multiplications to spend on solving for one layer, and the same on sweeps
_FEWEST, _USUAL = 4, 80  # steps: the minimum at any cost, and the number for a good start
_CALL, _CALLS = 2e5, 24  # multiplications per call overhead, and the most calls for taps
_ENOUGH = 1e-9  # a residual that is negligible in every type in which networks are stored
_CLOSE = 1e-9  # below this, solving once more for the same layer suffices
_SMALLEST = 16 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Fit:
    """Kernels that compose to a given one, at least approximately.

    Attributes:
        kernels: The kernels, first to last, rounded.
        residual: The norm of the difference over the norm of the wanted kernel, before the layer
            that was solved for last was rounded.
    """

    kernels: tuple[Array, ...]
    residual: float


def fit_chain(
    widths: Sequence[int],
    taps: Sequence[tuple[int, ...]],
    wanted: Array,
    rng: np.random.Generator,
    rounded: Rounded,
    *,
    most: float = 0.0,
) -> Fit:
    """Fit a chain of kernels to a given composition.

    Args:
        widths: Channels per group before, between and after the kernels.
        taps: The extents of each kernel.
        wanted: [g, n, m, *taps], the composition.
        rng: The source of randomness for free parameters.
        rounded: Rounds to the type of the values. The layer that is solved for compensates for the
            rounding of all others.
        most: An acceptable relative residual; the search ends early if it cannot be reached.
    """
    scale = norm(wanted)
    unit = wanted / scale if scale else wanted
    if len(taps) <= 3 and all(set(t) <= {1} for i, t in enumerate(taps) if i != 1):
        return _fit_tucker(widths, wanted, rng, rounded)
    gain = scale ** (1 / len(taps)) if scale else 1.0
    exact = corners(widths, taps, unit)
    if exact is None:
        kernels = _stirred(_random(widths, taps, unit.shape[0], rng), rng)
        return _solved([rounded(k * gain) for k in kernels], wanted, rounded, most)
    fit = None
    if _effort(exact) * _USUAL <= _WORK:
        kernels = [rounded(k * gain) for k in _stirred(exact, rng)]
        steps = int(np.clip(_WORK // _effort(kernels), _USUAL, _STEPS))
        fit = _solved(kernels, wanted, rounded, most, steps=steps)
    if fit is None or fit.residual > max(most, _ENOUGH):
        # Without noise the corners are exact up to rounding, which a few steps correct.
        kernels = [rounded(k * gain) for k in _stirred(exact, rng, noise=0.0)]
        steps = int(np.clip(_WORK / 3 // _effort(kernels), 2, _USUAL))
        fit = _solved(kernels, wanted, rounded, most, steps=steps)
    return fit


# -- 1x1, kernel, 1x1 -------------------------------------------------------------------------


def _fit_tucker(
    widths: Sequence[int], wanted: Array, rng: np.random.Generator, rounded: Rounded
) -> Fit:
    (g, n, m), taps = wanted.shape[:3], wanted.shape[3:]
    ones = (1,) * len(taps)
    gain = _gain(wanted)
    rows = np.moveaxis(wanted, 2, 1).reshape(g, m, -1)
    first = gain * _outer(rows, widths[1], rng).swapaxes(1, 2)  # [g, p, m]
    first = rounded(first.reshape(g, widths[1], m, *ones))
    last = None
    q = n
    if len(widths) == 4:
        q = widths[2]
        last = gain * _outer(wanted.reshape(g, n, -1), q, rng)  # [g, n, q]
        last = rounded(last.reshape(g, n, q, *ones))
    right = _inverse(first.reshape(g, -1, m).swapaxes(1, 2)).swapaxes(1, 2)
    left = None if last is None else _inverse(last.reshape(g, n, -1))

    def moved(kernel: Array) -> Array:
        """pinv(F3) kernel pinv(F1)."""
        flat = np.moveaxis(kernel.reshape(g, n, m, -1), 2, 3).reshape(g, -1, m) @ right
        inner = np.moveaxis(flat.reshape(g, n, -1, widths[1]), 2, 3)
        if left is not None:
            inner = left @ inner.reshape(g, n, -1)
        return inner.reshape(g, q, widths[1], *taps)

    def composed(middle: Array) -> Array:
        chain = [first, middle] if last is None else [first, middle, last]
        whole = product(chain)
        assert whole is not None
        return whole

    start = rng.standard_normal((g, q, widths[1], *taps))
    share = norm(moved(wanted)) or norm(start) / np.sqrt(start[0, :, 0].size)
    middle = start * (share / norm(start))
    residual = np.inf
    for _ in range(3):  # after the first pass only rounding errors remain
        rest = wanted - composed(middle)
        before, residual = residual, _relative(rest, wanted)
        if residual <= _SMALLEST or residual > _STALLED * before:
            break
        middle = middle + moved(rest)
    kernels = (first, rounded(middle), *(() if last is None else (last,)))
    return Fit(kernels, residual)


def _gain(wanted: Array) -> float:
    """Return a gain of the outer factors for which all factors learn at about the same rate.

    With orthogonal factors of gain a, the middle one scales a gradient by a^4 and each outer one
    by up to (s / a)^2, where s is the largest singular value; they are equal for a = s^(1/3).
    """
    g, n = wanted.shape[:2]
    rows = wanted.reshape(g, n, -1)
    largest = np.linalg.eigvalsh(rows @ rows.swapaxes(1, 2)).max()
    return float(largest ** (1 / 6)) if largest > 0 else 1.0


def _inverse(wide: Array) -> Array:
    """Return the pseudo-inverse of wide or tall matrices that are nearly orthogonal."""
    tall = wide.swapaxes(1, 2)
    if wide.shape[1] <= wide.shape[2]:
        return np.asarray(tall @ np.linalg.inv(wide @ tall))
    return np.asarray(np.linalg.inv(tall @ wide) @ tall)


def _outer(rows: Array, width: int, rng: np.random.Generator) -> Array:
    """Return [g, m, width] with orthonormal rows, or columns spanning the leading directions."""
    g, m = rows.shape[:2]
    if width >= m:
        return np.linalg.qr(rng.standard_normal((g, width, m)))[0].swapaxes(1, 2)
    leading = np.linalg.svd(rows, full_matrices=False)[0][:, :, :width]
    if leading.shape[2] < width:  # fewer directions than columns: any directions complete them
        more = rng.standard_normal((g, m, width - leading.shape[2]))
        leading = np.linalg.qr(np.concatenate([leading, more], axis=2))[0]
    return leading @ _rotation(g, width, rng)


def _rotation(g: int, width: int, rng: np.random.Generator) -> Array:
    """Return [g, width, width], random orthogonal matrices."""
    q, r = np.linalg.qr(rng.standard_normal((g, width, width)))
    return np.asarray(q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :])


# -- Kernels of few taps ----------------------------------------------------------------------


def _random(
    widths: Sequence[int], taps: Sequence[tuple[int, ...]], g: int, rng: np.random.Generator
) -> list[Array]:
    """Return normal random kernels whose composition has a norm of about one."""
    kernels = [
        rng.standard_normal((g, n, m, *t)) / np.sqrt(m * np.prod(t))
        for t, (m, n) in zip(taps, itertools.pairwise(widths), strict=True)
    ]
    # Corner shifts at the ends, where they fit, make the problem between far better conditioned.
    first, last = shifts(taps[0]), shifts(taps[-1])
    if widths[1] >= len(first) * widths[0]:
        kernel = selector(widths[0], taps[0], first, g, 1)
        kernels[0] = filled_up(kernel, widths[1], widths[0])
    if widths[-2] >= len(last) * widths[-1] and len(kernels) > 2:
        kernel = selector(widths[-1], taps[-1], last, g, 2)
        kernels[-1] = filled_up(kernel, widths[-1], widths[-2])
    whole = product(kernels)
    assert whole is not None
    gain = (1 / norm(whole)) ** (1 / len(kernels))
    return [kernel * gain for kernel in kernels]


def _stirred(
    kernels: Sequence[Array], rng: np.random.Generator, noise: float = _NOISE
) -> list[Array]:
    """Return kernels of equal gain, with noise and random rotations of the inner channels."""
    gains = [norm(k) / np.sqrt(min(k.shape[1:3])) or 1.0 for k in kernels]
    mean = float(np.exp(np.mean(np.log(gains))))
    found = []
    for kernel, gain in zip(kernels, gains, strict=True):
        kernel = kernel * (mean / gain)
        if noise:
            drawn = rng.standard_normal(kernel.shape)
            kernel = kernel + drawn * (noise * norm(kernel) / (norm(drawn) or 1.0))
        found.append(kernel)
    for i in range(len(found) - 1):
        turn = _rotation(found[i].shape[0], found[i].shape[1], rng)
        shape = (*turn.shape, *(1,) * (found[i].ndim - 3))
        found[i] = compose(turn.reshape(shape), found[i])
        found[i + 1] = compose(found[i + 1], turn.swapaxes(1, 2).reshape(shape))
    return found


def _solved(
    kernels: list[Array],
    wanted: Array,
    rounded: Rounded,
    most: float,
    steps: int | None = None,
) -> Fit:
    """Solve for a layer near the middle, then if necessary for all in turn.

    The last solved layer compensates for the rounding of all others. If `steps` is given, only the
    middle layer is solved for, with this many steps.
    """
    middle = _widest(kernels)
    sweeps = 0
    if steps is None:
        effort = _effort(kernels)
        steps = int(np.clip(_WORK // effort, _FEWEST, _STEPS))
        # A sweep solves as many times as there are layers.
        sweeps = int(np.clip(_WORK // (steps * len(kernels) * effort), 0, _SWEEPS))
    kernels[middle], residual = _moved(kernels, middle, wanted, steps)
    goal = max(most, _SMALLEST)
    for _ in range(sweeps):
        if residual <= goal:
            break
        before = residual
        for i in range(len(kernels)):
            if i != middle and residual > _CLOSE:
                kernel, residual = _moved(kernels, i, wanted, steps)
                kernels[i] = rounded(kernel)
        kernels[middle], residual = _moved(kernels, middle, wanted, steps)
        if residual > before * (_STALLED if most else _HOPELESS):
            break
    kernels[middle] = rounded(kernels[middle])
    return Fit(tuple(kernels), residual)


def _effort(kernels: Sequence[Array]) -> float:
    """Estimate the multiplications of one step of solving for a layer near the middle.

    Each step composes it with the kernels before and after it, and applies the adjoint. A call per
    tap costs as much as some multiplications, however small the matrices are.
    """
    middle = _widest(kernels)
    parts = (kernels[:middle], kernels[middle + 1 :])
    (g, n, m), own = kernels[middle].shape[:3], kernels[middle].shape[3:]
    ends = (kernels[0].shape[2], kernels[-1].shape[1])
    spans = [
        tuple(1 + sum(k.shape[3 + axis] - 1 for k in part) for axis in range(len(own)))
        for part in parts
    ]
    between = [a + b - 1 for a, b in zip(own, spans[0], strict=True)]
    before, after = (float(np.prod(span)) for span in spans)
    taps, inner = float(np.prod(own)), float(np.prod(between))
    # Long kernels are composed by Fourier transforms.
    pairs = [min(a * b, 8 * (a + b)) for a, b in ((taps, before), (inner, after))]
    products = g * n * ends[0] * (m * pairs[0] + ends[1] * pairs[1])
    calls = min(taps, before, _CALLS) + min(inner, after, _CALLS)
    return float(2 * (products + _CALL * calls))


def _widest(kernels: Sequence[Array]) -> int:
    """Return the index of the largest kernel, the one nearest the middle if several are equal."""
    half = (len(kernels) - 1) / 2
    return max(range(len(kernels)), key=lambda i: (kernels[i].size, -abs(i - half), i))


def _moved(kernels: Sequence[Array], index: int, wanted: Array, steps: int) -> tuple[Array, float]:
    """Return one layer after the least change that minimizes the residual, and the residual."""
    before, after = product(kernels[:index]), product(kernels[index + 1 :])

    def apply(kernel: Array) -> Array:
        kernel = kernel if before is None else compose(kernel, before)
        return kernel if after is None else compose(after, kernel)

    def adjoint(gradient: Array) -> Array:
        gradient = gradient if after is None else adjoint_first(after, gradient)
        return gradient if before is None else adjoint_second(before, gradient)

    rest = wanted - apply(kernels[index])
    goal = _SMALLEST / 2 * norm(wanted)
    kernel = kernels[index] + least_squares(apply, adjoint, rest, goal=goal, steps=steps)
    better = wanted - apply(kernel)
    if norm(better) > norm(rest):
        return kernels[index], _relative(rest, wanted)
    return kernel, _relative(better, wanted)


def _relative(rest: Array, wanted: Array) -> float:
    scale = norm(wanted)
    return norm(rest) / scale if scale else norm(rest)
