"""The conditioning of a unit: how its parameterization transforms the gradient of the layer.

A step of gradient descent on the factors moves the composed kernel W by sum_i J_i J_i^T G, where G
is the gradient at W and J_i the derivative of W by layer i. The ratio of the extreme eigenvalues
of this operator is the ratio of the fastest to the slowest learning direction; it is 1 for a
single layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_expand.factorize.kernels import (
    Array,
    adjoint_first,
    adjoint_second,
    compose,
    composed_shape,
    effort,
    norm,
    product,
)

__all__ = ["Path", "condition"]

_STEPS = 32
_FEWEST = 6
_POWER = 12  # iterations of the power method
_WORK = 2e10  # multiplications to spend on one unit, and the most for the fewest steps
_MOST = 6e10
_DEAD = 1e-10


@dataclass(frozen=True)
class Path:
    """One branch.

    Attributes:
        kernels: [g, n, m, *taps] each, first to last.
        trained: For each kernel, whether it is trained.
        place: The taps of the whole kernel that the composition covers.
    """

    kernels: tuple[Array, ...]
    trained: tuple[bool, ...]
    place: tuple[slice, ...]


def condition(
    paths: Sequence[Path], shape: Sequence[int], rng: np.random.Generator
) -> float | None:
    """Compute the condition number of the operator that a unit applies to gradients.

    Lanczos' method with full orthogonalization estimates it from below, exactly if the number of
    steps reaches the dimension. For large layers between pointwise ones, an upper bound is
    returned instead: the middle layer moves W by at least the smallest eigenvalues of F3 F3^T and
    F1^T F1, and all layers together move it by at most the sum of their norms.

    Args:
        paths: The branches.
        shape: [g, n, m, *taps], the shape of the whole kernel.
        rng: The source of the starting vector.

    Returns:
        At least 1; infinity if some directions cannot be learned at all; None if the estimate
        would take long.
    """
    size = int(np.prod(shape))
    work = sum(map(_work, paths))
    if work * _FEWEST > _WORK and len(paths) == 1 and _is_tucker(paths[0]):
        return _bound(paths[0], rng)
    if work * _FEWEST > _MOST:
        return None
    movers = [mover for path in paths for mover in _movers(path)]
    steps = int(np.clip(_WORK // max(1, work), _FEWEST, _STEPS))
    basis = [_normalized(rng.standard_normal(shape))]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, size)):
        image = np.zeros(shape)
        for place, before, after in movers:
            index = (slice(None),) * 3 + place
            image[index] += _moved(basis[-1][index], before, after)
        diagonal.append(float(np.vdot(image, basis[-1])))
        for _again in range(2):
            for vector in basis:
                image -= float(np.vdot(vector, image)) * vector
        length = norm(image)
        if length <= _DEAD * max(diagonal):
            break
        beside.append(length)
        basis.append(image / length)
    count = len(diagonal)
    off = np.diag(beside[: count - 1], 1)
    values = np.linalg.eigvalsh(np.diag(diagonal) + off + off.T)
    largest, smallest = float(values[-1]), float(values[0])
    return largest / smallest if smallest > _DEAD * largest else float("inf")


_Mover = tuple[tuple[slice, ...], "Array | None", "Array | None"]


def _movers(path: Path) -> list[_Mover]:
    """Return the composed kernels before and after each trained layer of a branch."""
    return [
        (path.place, product(path.kernels[:i]), product(path.kernels[i + 1 :]))
        for i, trained in enumerate(path.trained)
        if trained
    ]


def _moved(gradient: Array, before: Array | None, after: Array | None) -> Array:
    """Apply J J^T of one layer to a gradient."""
    if after is not None:
        gradient = adjoint_first(after, gradient)
    if before is not None:
        gradient = compose(adjoint_second(before, gradient), before)
    return gradient if after is None else compose(after, gradient)


def _work(path: Path) -> float:
    """Estimate the multiplications of one application, which passes all neighbours twice."""
    total = 0.0
    for i, trained in enumerate(path.trained):
        before, after = composed_shape(path.kernels[:i]), composed_shape(path.kernels[i + 1 :])
        inner = composed_shape(path.kernels[: i + 1])
        if trained and after:
            total += effort(after, inner)
        if trained and before:
            total += effort(path.kernels[i].shape, before)
    return 2 * total


def _is_tucker(path: Path) -> bool:
    """Return whether only the second of two or three kernels has several taps."""
    kernels = path.kernels
    ends = [k for i, k in enumerate(kernels) if i != 1]
    plain = all(np.prod(k.shape[3:]) == 1 for k in ends)
    return len(kernels) in {2, 3} and plain and all(path.trained)


def _bound(path: Path, rng: np.random.Generator) -> float:
    """Return an upper bound of the condition number of a layer between pointwise ones."""
    first = path.kernels[0].reshape(path.kernels[0].shape[:3])
    middle = path.kernels[1]
    grams = [first.swapaxes(1, 2) @ first]
    last = None
    if len(path.kernels) == 3:
        last = path.kernels[2].reshape(path.kernels[2].shape[:3])
        grams.append(last @ last.swapaxes(1, 2))
    values = [np.linalg.eigvalsh(gram) for gram in grams]
    own = [np.prod([v[:, end] for v in values], axis=0) for end in (0, -1)]
    (g, q, p), taps = middle.shape[:3], int(np.prod(middle.shape[3:]))
    outwards = middle.reshape(g, q, p, taps)
    inwards = np.moveaxis(outwards, 2, 1)
    after = _gain(outwards, last, rng)
    before = _gain(inwards, first.swapaxes(1, 2), rng) if last is not None else values[0][:, -1]
    if last is None:  # two layers: each one moves through the other
        own = [values[0][:, 0], values[0][:, -1]]
        before = np.zeros(g)
    largest = float((own[1] + after + before).max())
    smallest = float(own[0].min())
    return largest / smallest if smallest > _DEAD * largest else float("inf")


def _gain(kernel: Array, outer: Array | None, rng: np.random.Generator) -> Array:
    """Return [g], the largest |outer kernel v|^2 over unit vectors v, summed over the taps."""
    g, q, p, taps = kernel.shape
    flat = np.ascontiguousarray(np.moveaxis(kernel, 3, 2)).reshape(g, q * taps, p)
    vector = rng.standard_normal((g, p, 1))
    found = np.ones(g)
    for _ in range(_POWER):
        vector = vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), _TINY)
        image = (flat @ vector).reshape(g, q, taps)
        if outer is not None:
            seen = outer @ image
            found = np.sum(seen**2, axis=(1, 2))
            image = outer.swapaxes(1, 2) @ seen
        else:
            found = np.sum(image**2, axis=(1, 2))
        vector = flat.swapaxes(1, 2) @ image.reshape(g, q * taps, 1)
    return np.asarray(found)


_TINY = float(np.finfo(np.float64).tiny)


def _normalized(kernel: Array) -> Array:
    return kernel / (norm(kernel) or 1.0)
