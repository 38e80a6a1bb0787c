"""How well conditioned a unit is: what its form does to the gradient of the layer it replaces.

A step of gradient descent on the factors moves the composed kernel W by sum_i J_i J_i^T G, where G
is the gradient at W and J_i the derivative of W by layer i. The ratio of the extreme eigenvalues
of this operator is how much faster the unit learns in one direction than in another; 1 is what a
single layer has.
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
    norm,
    product,
)

__all__ = ["Path", "condition"]

_STEPS = 32
_WORK = 2e10  # products to spend on one unit
_DEAD = 1e-10


@dataclass(frozen=True)
class Path:
    """One branch.

    Attributes:
        kernels: [g, n, m, *taps] each, first to last.
        trained: For each, whether training moves it.
        place: The taps of the whole kernel at which the composition lies.
    """

    kernels: tuple[Array, ...]
    trained: tuple[bool, ...]
    place: tuple[slice, ...]


def condition(paths: Sequence[Path], shape: Sequence[int], rng: np.random.Generator) -> float:
    """The condition number of what a unit makes of gradients, estimated from below.

    Lanczos' method with full orthogonalization; exact where its steps reach the dimension.

    Args:
        paths: The branches.
        shape: [g, n, m, *taps], the shape of the whole kernel.
        rng: Decides the start.

    Returns:
        At least 1; infinity if some directions cannot be learned at all.
    """
    movers = [mover for path in paths for mover in _movers(path)]
    size = int(np.prod(shape))
    work = sum(_work(path) for path in paths)
    steps = int(np.clip(_WORK // max(1, work), 6, _STEPS))
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
    """For each trained layer of a branch the kernels before and after it."""
    return [
        (path.place, product(path.kernels[:i]), product(path.kernels[i + 1 :]))
        for i, trained in enumerate(path.trained)
        if trained
    ]


def _moved(gradient: Array, before: Array | None, after: Array | None) -> Array:
    """J J^T of one layer."""
    if after is not None:
        gradient = adjoint_first(after, gradient)
    if before is not None:
        gradient = compose(adjoint_second(before, gradient), before)
    return gradient if after is None else compose(after, gradient)


def _work(path: Path) -> int:
    """Products of one application, roughly."""
    taps = max((int(np.prod(k.shape[3:])) for k in path.kernels), default=1)
    ends = path.kernels[-1].shape[1] + path.kernels[0].shape[2] if path.kernels else 0
    return sum(2 * k.size * taps * ends // max(k.shape[1:3]) for k in path.kernels)


def _normalized(kernel: Array) -> Array:
    return kernel / (norm(kernel) or 1.0)
