"""Labelled images, in the shape that a model takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.train import sources

__all__ = ["Dataset", "ImageInput", "image_input", "load_data"]

Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Labelled images for training, and others for testing.

    Attributes:
        x_train: Images, float32 [N, C, H, W].
        y_train: Their labels, int64 [N].
        x_test: Images that are not trained on.
        y_test: Their labels.
        classes: The names of the labels.
        description: One line for people.
    """

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    classes: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class ImageInput:
    """What a classifier takes and gives.

    Attributes:
        channels: Channels of the images.
        size: Height and width; None where the model takes any.
        classes: How many classes it has, if its output says so.
    """

    channels: int
    size: tuple[int | None, int | None]
    classes: int | None


def image_input(model: ir.Model) -> ImageInput:
    """What images a model takes, read off its inputs and outputs.

    Raises:
        UnsupportedError: It does not take one tensor [N, C, H, W] with a known C.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    if len(inputs) != 1 or not graph.outputs:
        raise UnsupportedError(f"training needs a model of one input; this has {len(inputs)}")
    shape = inputs[0].shape
    extents = [d if isinstance(d, int) and d > 0 else None for d in shape or ()]
    if len(extents) != 4 or extents[1] is None:
        raise UnsupportedError(
            f"input '{inputs[0].name}' is {'untyped' if shape is None else str(shape)}; training "
            "needs images [N, C, H, W] with a known number of channels"
        )
    result = graph.outputs[0].shape
    classes = result[1] if result is not None and len(result) >= 2 else None
    return ImageInput(
        extents[1], (extents[2], extents[3]), classes if isinstance(classes, int) else None
    )


def load_data(
    spec: str | os.PathLike[str],
    *,
    channels: int,
    size: tuple[int | None, int | None] = (None, None),
    classes: int | None = None,
) -> Dataset:
    """Load labelled images.

    What is test data is fixed: it is what the source declares, or else every fifth image of each
    class. Pixels are normalised for each channel by the training images' mean and deviation,
    except floating-point numbers in an .npz, which are taken as they are.

    Args:
        spec: `digits`: the 1,797 images of 8x8 that come with scikit-learn, enlarged to `size`.
            A directory: one sub-directory of image files for each class, or `train/` and `test/`
            (or `val/`) with such sub-directories; images are resized to `size`.
            A .npz file: arrays `x` [N, C, H, W] or [N, H, W] and `y` [N], or `x_train`,
            `y_train`, `x_test`, `y_test`.
        channels: The channels that the model takes. Grey images are repeated.
        size: The height and width that it takes; None for the data's own.
        classes: How many classes it knows, if that is known.

    Raises:
        ModelError: The data does not exist, cannot be read, or does not fit the model.
        UnsupportedError: scikit-learn or Pillow, which the source needs, is not installed.
    """
    label = os.fspath(spec)
    path = Path(spec)
    if label == "digits":
        raw = sources.digits(size)
    elif path.is_dir():
        raw = sources.folder(path, channels, size)
    elif path.is_file():
        raw = sources.npz(path)
    else:
        raise ModelError(f"{label}: no such file or directory; give digits, a directory or .npz")
    return _fit(raw, label, channels, size, classes)


def _fit(
    raw: sources.Raw,
    label: str,
    channels: int,
    size: tuple[int | None, int | None],
    classes: int | None,
) -> Dataset:
    """The images as the model takes them.

    Raises:
        ModelError: They do not fit it.
    """
    parts = [_channels(x, label, channels) for x in (raw.x_train, raw.x_test)]
    for x, y, name in zip(parts, (raw.y_train, raw.y_test), ("training", "test"), strict=True):
        wanted = tuple(n if n is not None else x.shape[2 + i] for i, n in enumerate(size))
        if x.shape[2:] != wanted:
            raise ModelError(
                f"{label}: {name} images are {_by(x.shape[2:])}, the model takes {_by(wanted)}"
            )
        if len(y) < (2 if name == "training" else 1):
            raise ModelError(f"{label}: too few {name} images: {len(y)}")
        limit = classes if classes is not None else len(raw.classes)
        if y.min() < 0 or y.max() >= limit:
            bad = int(y.min()) if y.min() < 0 else int(y.max())
            raise ModelError(f"{label}: label {bad} is not in 0..{limit - 1}, the model's classes")
    x_train, x_test = _normalise(*parts) if raw.pixels else parts
    height, width = x_train.shape[2:]
    return Dataset(
        np.ascontiguousarray(x_train, dtype=np.float32),
        raw.y_train.astype(np.int64),
        np.ascontiguousarray(x_test, dtype=np.float32),
        raw.y_test.astype(np.int64),
        raw.classes,
        f"{label}: {len(raw.y_train):,} training and {len(raw.y_test):,} test images of "
        f"{channels}x{height}x{width}, {len(raw.classes)} classes",
    )


def _channels(x: Images, label: str, channels: int) -> Images:
    if x.shape[1] == channels:
        return x
    if x.shape[1] != 1:
        raise ModelError(
            f"{label}: images have {x.shape[1]} channels, the model takes {channels}; the order "
            "of axes is [N, C, H, W]"
        )
    return np.repeat(x, channels, axis=1)


def _normalise(x_train: Images, x_test: Images) -> tuple[Images, Images]:
    mean = x_train.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = x_train.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1.0)
    first: Images = ((x_train - mean) / deviation).astype(np.float32)
    second: Images = ((x_test - mean) / deviation).astype(np.float32)
    return first, second


def _by(size: tuple[int, ...]) -> str:
    return "x".join(str(extent) for extent in size)
