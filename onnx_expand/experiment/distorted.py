"""Distorted handwritten digits: a small built-in dataset that is not too easy."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import UsageError
from onnx_expand.experiment.data.sources.base import every_fifth
from onnx_expand.experiment.data.sources.digits import published_digits

__all__ = ["distorted_digits"]

Images: TypeAlias = npt.NDArray[np.float64]

# The largest rotation in degrees, scale factor, and shift as a share of the image.
_ROTATION, _FACTOR, _SHIFT = 40.0, 2.0, 0.35


def distorted_digits(
    size: tuple[int | None, int | None] = (16, 16),
    *,
    copies: tuple[int, int] = (4, 5),
    seed: int = 0,
) -> dict[str, npt.NDArray[np.generic]]:
    """Generate scikit-learn's 1,797 digits, each randomly rotated, resized and shifted.

    Rotations are uniform up to 40 degrees in both directions, scales log-uniform from half to
    double, and shifts uniform up to 35 % of the image on each axis. Every fifth digit of a class
    is for testing, so that no digit is in both parts, in any copy. It is data for `--data` and
    `load_data`: `onnx_expand.experiment.distorted:distorted_digits`.

    Args:
        size: Height and width of the images; None is 16.
        copies: The number of copies of each digit in the training and in the test part.
        seed: The seed of the distortions.

    Returns:
        uint8 images `x_train`, `x_test` [N, 1, H, W] and int64 labels `y_train`, `y_test` [N]; the
        copies of a digit are adjacent.

    Raises:
        UnsupportedError: scikit-learn is not installed.
        UsageError: A number is invalid.
    """
    extents = (size[0] or 16, size[1] or 16)
    if min(*extents, *copies) < 1:
        raise UsageError(f"size is {extents} and copies {copies}; they must be at least 1")
    x, y = published_digits()
    test = every_fifth(y)
    random = np.random.default_rng(seed)
    parts: dict[str, npt.NDArray[np.generic]] = {}
    for name, chosen, count in (("train", ~test, copies[0]), ("test", test, copies[1])):
        seen = _distorted(np.repeat(x[chosen], count, axis=0), extents, random)
        parts[f"x_{name}"] = np.rint(255 * seen[:, None]).astype(np.uint8)
        parts[f"y_{name}"] = np.repeat(y[chosen], count)
    return parts


def _distorted(x: Images, extents: tuple[int, int], random: np.random.Generator) -> Images:
    """Apply a random similarity to each of the images [N, h, w]; black beyond their border."""
    turn, grow, down, right = random.uniform(-1, 1, (4, len(x), 1, 1))
    angle, scale = np.radians(_ROTATION) * turn, np.exp(math.log(_FACTOR) * grow)
    # The source position of each pixel of the result; both images extend from -1 to 1.
    rows, columns = (((2 * np.arange(n) + 1) / n - 1) for n in extents)
    v = rows[:, None] - 2 * _SHIFT * down
    u = columns[None, :] - 2 * _SHIFT * right
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    return _bilinear(x, cos * v - sin * u, sin * v + cos * u)


def _bilinear(x: Images, v: Images, u: Images) -> Images:
    """Interpolate images [N, h, w] at positions [N, H, W] between -1 and 1; zero beyond."""
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    row = np.clip((v + 1) * height / 2 + 0.5, 0, height + 1 - 1e-9)
    column = np.clip((u + 1) * width / 2 + 0.5, 0, width + 1 - 1e-9)
    top, left = row.astype(np.int64), column.astype(np.int64)
    down, right = row - top, column - left
    image = np.arange(len(x))[:, None, None]
    upper = (1 - right) * padded[image, top, left] + right * padded[image, top, left + 1]
    lower = (1 - right) * padded[image, top + 1, left] + right * padded[image, top + 1, left + 1]
    seen: Images = (1 - down) * upper + down * lower
    return seen
