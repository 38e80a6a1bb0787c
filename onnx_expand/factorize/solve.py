"""Fit chains of kernels that compose to a given one.

For kernels of few taps, layers that shift their input surround one that reads all shifts
(`corners`). If the widths do not suffice for that, the layers are random. In both cases noise and
rotations involve every unit, and one layer near the middle is solved for by conjugate gradients
through the convolutions. The remaining residual is reduced by solving for each layer in turn.
Where this would take long, the shifts stay as they are, channels that they leave and the layer
between them are random, and that layer is corrected in closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_expand.factorize.corners import Shifted, filled_up, selector, shifted_chain, shifts
from onnx_expand.factorize.kernels import (
    SMALLEST,
    Array,
    adjoint_first,
    adjoint_second,
    compose,
    composed_shape,
    effort,
    least_squares,
    norm,
    product,
    relative,
    rotation,
)
from onnx_expand.factorize.tucker import fit_tucker

__all__ = ["Fit", "Rounded", "fit_chain"]

Rounded = Callable[[Array], Array]
"""A function that rounds values to the type in which they will be stored, returned in float64."""

_NOISE = 0.3
_STEPS = 400
_PASSES = 6
_SWEEPS = 30
# A sweep that leaves more than this fraction of the residual is the last: where any residual is
# acceptable, and where only an exact solution is.
_STALLED, _HOPELESS = 0.98, 0.5
_WORK = 3e11  # multiplications to spend on solving for one layer, and the same on sweeps
_EXTRA = 4e10  # multiplications to spend on involving every unit where there is a closed form
_FEWEST, _USUAL = 4, 80  # steps: the minimum at any cost, and the number for a good start
_ENOUGH = 1e-9  # a residual that is negligible in every type in which networks are stored
_CLOSE = 1e-9  # below this, solving once more for the same layer suffices


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
        return Fit(*fit_tucker(widths, wanted, rng, rounded))
    gain = scale ** (1 / len(taps)) if scale else 1.0
    exact = shifted_chain(widths, taps, wanted.shape)
    if exact is None:
        kernels = _stirred(_random(widths, taps, unit.shape[0], rng), rng)
        steps = None
        if not most and not _may_be_exact(widths, taps):  # solving once shows what it misses
            steps = int(np.clip(_EXTRA // _effort(kernels), _FEWEST, _USUAL))
        return _solved([rounded(k * gain) for k in kernels], wanted, rounded, most, steps=steps)
    chain = list(exact.kernels)
    chain[exact.middle] = exact.solution(unit)
    steps = int(_EXTRA // _effort(chain))
    if steps >= _USUAL:
        kernels = [rounded(k * gain) for k in _stirred(chain, rng)]
        fit = _solved(kernels, wanted, rounded, most, steps=min(steps, _STEPS))
        if fit.residual <= max(most, _ENOUGH):
            return fit
    return _corrected(exact, wanted, rng, rounded)


def _may_be_exact(widths: Sequence[int], taps: Sequence[tuple[int, ...]]) -> bool:
    """Return whether some layer has enough freedom to make any kernel, the others being given.

    Between fixed kernels, any part of the chain with this layer makes compositions of no more
    dimensions than the part has elements.
    """
    count = len(taps)

    def elements(first: int, last: int) -> int:
        spans = [1 + sum(t - 1 for t in sizes) for sizes in zip(*taps[first:last], strict=True)]
        return int(widths[first] * widths[last] * math.prod(spans))

    return any(
        min(elements(j, k) for j in range(i + 1) for k in range(i + 1, count + 1))
        == elements(0, count)
        for i in range(count)
    )


def _corrected(chain: Shifted, wanted: Array, rng: np.random.Generator, rounded: Rounded) -> Fit:
    """Fill what the shifts leave with random values, for which the middle layer compensates."""
    kernels = [chain.filled(i, rng) for i in range(len(chain.kernels))]
    kernels[chain.middle] = middle = chain.solution(wanted)
    gains = [norm(k) / np.sqrt(min(k.shape[1:3])) or 1.0 for k in kernels]
    mean = np.mean(np.log2(gains))
    # Powers of two, with which a shift of one stays one after rounding.
    factors = [2.0 ** round(mean - np.log2(gain)) for gain in gains]
    factors[chain.middle] = 1.0
    kernels = [rounded(k * f) for k, f in zip(kernels, factors, strict=True)]
    factor = float(np.prod(factors))
    drawn = rng.standard_normal(middle.shape)
    kernels[chain.middle] = drawn * (_NOISE * norm(middle) / (factor * (norm(drawn) or 1.0)))
    residual = np.inf
    for _ in range(_PASSES):  # after the first pass only rounding errors remain
        whole = product(kernels)
        assert whole is not None
        rest = wanted - whole
        before, residual = residual, relative(rest, wanted)
        if residual <= SMALLEST or residual > _STALLED * before:
            break
        kernels[chain.middle] = kernels[chain.middle] + chain.solution(rest / factor)
    kernels[chain.middle] = rounded(kernels[chain.middle])
    return Fit(tuple(kernels), residual)


def _random(
    widths: Sequence[int], taps: Sequence[tuple[int, ...]], g: int, rng: np.random.Generator
) -> list[Array]:
    """Return normal random kernels whose composition has a norm of about one."""
    kernels = [
        rng.standard_normal((g, n, m, *t)) / np.sqrt(m * np.prod(t))
        for t, (m, n) in zip(taps, itertools.pairwise(widths), strict=True)
    ]
    # Corner shifts at the ends, where they fit, make the problem between far better conditioned.
    first, last, none = shifts(taps[0]), shifts(taps[-1]), [(0,) * len(taps[0])]
    if widths[1] >= len(first) * widths[0]:
        kernel = selector(widths[0], taps[0], none, first, g, 1)
        kernels[0] = filled_up(kernel, widths[1], widths[0])
    if widths[-2] >= len(last) * widths[-1] and len(kernels) > 2:
        kernel = selector(widths[-1], taps[-1], none, last, g, 2)
        kernels[-1] = filled_up(kernel, widths[-1], widths[-2])
    whole = product(kernels)
    assert whole is not None
    gain = (1 / norm(whole)) ** (1 / len(kernels))
    return [kernel * gain for kernel in kernels]


def _stirred(kernels: Sequence[Array], rng: np.random.Generator) -> list[Array]:
    """Return kernels of equal gain, with noise and random rotations of the inner channels."""
    gains = [norm(k) / np.sqrt(min(k.shape[1:3])) or 1.0 for k in kernels]
    mean = float(np.exp(np.mean(np.log(gains))))
    found = []
    for kernel, gain in zip(kernels, gains, strict=True):
        kernel = kernel * (mean / gain)
        drawn = rng.standard_normal(kernel.shape)
        found.append(kernel + drawn * (_NOISE * norm(kernel) / (norm(drawn) or 1.0)))
    for i in range(len(found) - 1):
        turn = rotation(found[i].shape[0], found[i].shape[1], rng)
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
    goal = max(most, SMALLEST)
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

    Each step composes it with the kernels before and after it, and applies the adjoint.
    """
    middle = _widest(kernels)
    total = 0.0
    if before := composed_shape(kernels[:middle]):
        total += effort(kernels[middle].shape, before)
    if after := composed_shape(kernels[middle + 1 :]):
        total += effort(after, composed_shape(kernels[: middle + 1]))
    return 2 * total


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
    goal = SMALLEST / 2 * norm(wanted)
    kernel = kernels[index] + least_squares(apply, adjoint, rest, goal=goal, steps=steps)
    better = wanted - apply(kernel)
    if norm(better) > norm(rest):
        return kernels[index], relative(rest, wanted)
    return kernel, relative(better, wanted)
