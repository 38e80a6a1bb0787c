"""Scenes of distorted digits, with a box around each or a class for each pixel."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import UsageError
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.samples import ArraySamples
from onnx_expand.experiment.distorted import distorted_digits

__all__ = ["digits_with_boxes", "digits_with_masks"]

Array: TypeAlias = npt.NDArray[np.generic]

# A scene is a grid of this many fields each way, with this many digits in different fields.
_FIELDS, _DIGITS = 3, 3
_INK = 64
_CLASSES = tuple(map(str, range(10)))
_SMALLEST = 8


def digits_with_boxes(size: tuple[int | None, int | None] = (96, 96)) -> Dataset:
    """Generate scenes of three digits for detection, with three equal channels.

    It is data for `--data`: `onnx_expand.experiment.scenes:digits_with_boxes`. No digit is in both
    parts.

    Args:
        size: Height and width of the images; None is 96.

    Raises:
        UnsupportedError: scikit-learn is not installed.
        UsageError: The images are too small.
    """
    parts = []
    for x, boxes, _ in _scenes((size[0] or 96, size[1] or 96)):
        parts.append(ArraySamples(np.repeat(x, 3, axis=1), boxes))
    train, test = parts
    described = f"{len(train):,} training and {len(test):,} test scenes of three distorted digits"
    return Dataset(train, test, _CLASSES, described, "detect")


def digits_with_masks(size: tuple[int | None, int | None] = (48, 48)) -> dict[str, Array]:
    """Generate scenes of three digits for segmentation, where class 10 is the background.

    It is data for `--data`: `onnx_expand.experiment.scenes:digits_with_masks`.

    Args:
        size: Height and width of the images; None is 48.

    Returns:
        uint8 images `x_train`, `x_test` [N, 1, H, W], int64 masks `y_train`, `y_test` [N, H, W].

    Raises:
        UnsupportedError: scikit-learn is not installed.
        UsageError: The images are too small.
    """
    found: dict[str, Array] = {}
    parts = zip(("train", "test"), _scenes((size[0] or 48, size[1] or 48)), strict=True)
    for name, (x, _, masks) in parts:
        found[f"x_{name}"], found[f"y_{name}"] = x, masks
    return found


def _scenes(extents: tuple[int, int]) -> list[tuple[Array, Array, Array]]:
    """Return images [N, 1, H, W], boxes [N, 3, 6] and masks [N, H, W] for training and testing."""
    field = (extents[0] // _FIELDS, extents[1] // _FIELDS)
    if min(field) < _SMALLEST:
        raise UsageError(f"size is {extents}; scenes need {_FIELDS * _SMALLEST} pixels each way")
    digits = distorted_digits(field, copies=(1, 1))
    random = np.random.default_rng(0)
    return [
        _composed(digits[f"x_{part}"], digits[f"y_{part}"], extents, random)
        for part in ("train", "test")
    ]


def _composed(
    x: npt.NDArray[np.generic],
    y: npt.NDArray[np.generic],
    extents: tuple[int, int],
    random: np.random.Generator,
) -> tuple[Array, Array, Array]:
    count, (high, wide) = len(x) // _DIGITS, x.shape[2:]
    images = np.zeros((count, 1, *extents), dtype=np.uint8)
    masks = np.full((count, *extents), len(_CLASSES), dtype=np.int64)
    boxes = np.full((count, _DIGITS, 6), -1, dtype=np.float32)
    for scene in range(count):
        for place, cell in enumerate(random.permutation(_FIELDS**2)[:_DIGITS]):
            digit, label = x[_DIGITS * scene + place, 0], y[_DIGITS * scene + place]
            top, left = int(cell) // _FIELDS * high, int(cell) % _FIELDS * wide
            here = np.s_[scene, ..., top : top + high, left : left + wide]
            images[here] = digit
            ink = np.asarray(digit > _INK)
            rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
            if len(rows):
                masks[here][ink] = label
                ends = (
                    left + columns[0],
                    top + rows[0],
                    left + columns[-1] + 1,
                    top + rows[-1] + 1,
                )
                boxes[scene, place] = (label, *np.divide(ends, extents[::-1] * 2), 0)
    return images, boxes, masks
