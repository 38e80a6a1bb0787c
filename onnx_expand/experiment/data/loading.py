"""Load labelled data in the form that a model takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import ModelError, UnsupportedError, UsageError
from onnx_expand.experiment.data import sources
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.fitting import by, fit
from onnx_expand.experiment.data.samples import ItemSamples
from onnx_expand.experiment.data.sources.arrays import from_arrays
from onnx_expand.recipes import DataOptions

__all__ = ["ImageInput", "image_input", "load_data"]

Size: TypeAlias = "tuple[int | None, int | None]"


@dataclass(frozen=True)
class ImageInput:
    """The inputs and outputs of a model.

    Attributes:
        channels: Channels of the images; 0 for a model of other inputs.
        size: Height and width; None where the model takes any.
        classes: The number of classes, if the output declares it.
    """

    channels: int
    size: Size
    classes: int | None


def image_input(model: ir.Model) -> ImageInput:
    """Read the image input of a model from its declared inputs and outputs.

    Raises:
        UnsupportedError: Its input is not one tensor [N, C, H, W] with a known C.
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
    size: Size = (None, None),
    classes: int | None = None,
    options: DataOptions | None = None,
    numbers: bool = False,
) -> Dataset:
    """Load labelled data.

    The test data is fixed: it is declared by the source, or is every fifth sample of each class.
    Brightnesses are normalized per channel by the training images' mean and deviation unless the
    options specify others; floating-point values in an .npz file are used as they are.

    Args:
        spec: `digits`: the 1,797 images of 8x8 of scikit-learn, enlarged to `size`.
            A directory of images with a sub-directory for each class, or `train/` and `test/` (or
            `val/`) with such; with `images/` and `masks/`; or of PASCAL VOC or Cityscapes.
            CIFAR-10 or CIFAR-100, as published or unpacked.
            A .npz file: arrays `x` [N, C, H, W] and `y` [N], or `x_train`, `y_train`, `x_test`,
            `y_test`.
            `package.module:function` that returns the data.
        channels: The channels that the model takes; grey images are repeated. With 0 the model
            takes other inputs, and arrays are passed to it unchanged.
        size: The height and width that it takes; None for the data's own.
        classes: The number of classes of the model, if known.
        options: The settings; by default `DataOptions()`.
        numbers: Whether the targets of arrays may be any values [N, ...], for a custom loss.

    Raises:
        ModelError: The data does not exist, cannot be read, or does not fit the model.
        UnsupportedError: scikit-learn or Pillow, which the source needs, is not installed.
        UsageError: An option has an invalid value.
    """
    options = options or DataOptions()
    if options.image_size:
        asked = (options.image_size[0], options.image_size[1])
        if any(own not in {None, want} for own, want in zip(size, asked, strict=True)):
            raise UsageError(f"image_size is {by(asked)}, the model takes {size}")
        size = asked
    request = sources.Request(channels, size, classes, options, numbers)
    label = os.fspath(spec)
    found = _find(label, request)
    if isinstance(found, Dataset):
        return found
    return fit(found, label, request)


def _find(label: str, request: sources.Request) -> sources.SourceData | Dataset:
    """Load the data of a source."""
    path = Path(label)
    kind = request.options.layout
    if label == "digits":
        return sources.digits(request)
    if not path.exists() and ":" in label:
        return _called(label, request)
    if not path.exists():
        raise ModelError(
            f"{label}: no such file or directory; give digits, a directory, an .npz file or "
            "package.module:function"
        )
    if kind == "cifar" or (kind == "auto" and sources.is_cifar(path)):
        return sources.cifar(path)
    if path.is_file():
        return sources.npz(path, request)
    if kind == "npz":
        raise ModelError(f"{label}: is a directory, not an .npz file")
    if kind == "voc" or (kind == "auto" and sources.is_voc(path)):
        return sources.voc(path, request)
    if kind == "masks" or (kind == "auto" and sources.is_masks(path)):
        return sources.masks(path, request)
    return sources.folder(path, request)


def _called(label: str, request: sources.Request) -> sources.SourceData | Dataset:
    """Convert the result of a user's function."""
    result = sources.call(label, request)
    if isinstance(result, Dataset):
        return result
    if isinstance(result, Mapping):
        return from_arrays({k: np.asarray(v) for k, v in result.items()}, label, request)
    if isinstance(result, tuple | list) and len(result) == 2:
        train, test = (ItemSamples(part, label) for part in result)
        if not (len(train) and len(test)):
            raise ModelError(
                f"{label}: {len(train)} training and {len(test)} test samples are too few"
            )
        text = f"{label}: {len(train):,} training and {len(test):,} test samples"
        return Dataset(train, test, (), text)
    raise UsageError(
        f"data '{label}' returned a {type(result).__name__}; it must return a Dataset, a mapping "
        "of arrays, four arrays, or two torch datasets"
    )
