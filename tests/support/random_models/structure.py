"""Weights with structure: ones, equal rows, zeros, permutations, powers of two."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["structured"]

Array = npt.NDArray[Any]
_FORMS = (
    *("ones", "ones", "constant", "rows", "zeros", "permutation", "powers", "positive"),
    *("negative", "normal"),
)


def structured(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw weights in which other laws hold than in random ones.

    Sums over any axis may be equal, factors may commute, rows may repeat, products may be exact.

    Args:
        shape: The shape of the weights.
        rng: The source of randomness.
    """
    fan_in = max(1, int(np.prod(shape[1:])))
    form = _FORMS[int(rng.integers(len(_FORMS)))]
    found: Any = rng.standard_normal(shape) / np.sqrt(fan_in)
    if form == "ones":
        found = np.ones(shape)
    elif form == "constant":
        found = np.full(shape, rng.choice([0.5, -1.5, 2.0, 1 / 3]))
    elif form == "rows":
        rows = shape[:1] + (1,) * len(shape[1:])
        found = np.ones(shape) * rng.choice([0.5, -1.0, 2.0, 0.0], rows)
    elif form == "zeros":
        found = np.where(rng.random(shape) < 0.6, 0, found)
    elif form == "permutation" and len(shape) > 1 and shape[0] == shape[1]:
        centre = tuple(extent // 2 for extent in shape[2:])
        found = np.zeros(shape)
        found[(np.arange(shape[0]), rng.permutation(shape[0]), *centre)] = 1
    elif form == "powers":
        found = 2.0 ** rng.integers(-3, 3, shape) * rng.choice([-1, 1], shape)
    elif form == "positive":
        found = np.abs(found) + 0.1
    elif form == "negative":
        found = -np.ones(shape)
    # Divided by their number, equal weights are a mean.
    is_mean = form in {"ones", "constant", "rows", "powers"} and rng.random() < 0.6
    return np.asarray(found, float) / (fan_in if is_mean else 1)
