"""Labelled data, in the shape that a model takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import ModelError, UnsupportedError, UsageError
from onnx_expand.recipes import DataOptions
from onnx_expand.train import sources
from onnx_expand.train.augment import Augment
from onnx_expand.train.samples import (
    ArraySamples,
    ItemSamples,
    Normalization,
    PictureSamples,
    Samples,
)
from onnx_expand.train.sources.arrays import from_arrays
from onnx_expand.train.sources.base import Kind
from onnx_expand.train.targets import Boxes, Labels, Masks, Pictures, UnreadableError

__all__ = ["Dataset", "ImageInput", "image_input", "load_data"]

Size: TypeAlias = "tuple[int | None, int | None]"

# Of many image files, so many tell the mean and deviation.
_MEASURED = 2048


_AS_IS = Normalization()


@dataclass(frozen=True)
class Dataset:
    """Labelled data for training, and other for testing.

    Attributes:
        train: What is trained on.
        test: What is tested on.
        classes: The names of the labels.
        description: One line for people.
        kind: What the data is labelled for.
        normalization: What was done to brightnesses from 0 to 1.
        left_out: The images that cannot be read, as far as that was known on loading.
        anchors: The shapes of boxes, as shares of the image, for detection.
        ignore_label: The label of pixels that count for nothing, for segmentation.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    description: str
    kind: Kind = "classify"
    normalization: Normalization = _AS_IS
    left_out: tuple[str, ...] = ()
    anchors: tuple[tuple[float, float], ...] = ()
    ignore_label: int = 255

    @property
    def x_train(self) -> npt.NDArray[Any]:
        """All training inputs [N, ...], without augmentation."""
        return self.train.stack()[0]

    @property
    def y_train(self) -> npt.NDArray[Any]:
        """Their targets."""
        return self.train.stack()[1]

    @property
    def x_test(self) -> npt.NDArray[Any]:
        """All test inputs."""
        return self.test.stack()[0]

    @property
    def y_test(self) -> npt.NDArray[Any]:
        """Their targets."""
        return self.test.stack()[1]


@dataclass(frozen=True)
class ImageInput:
    """What a model takes and gives.

    Attributes:
        channels: Channels of the images.
        size: Height and width; None where the model takes any.
        classes: How many classes it has, if its output says so.
    """

    channels: int
    size: Size
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
    size: Size = (None, None),
    classes: int | None = None,
    options: DataOptions | None = None,
) -> Dataset:
    """Load labelled data.

    What is test data is fixed: it is what the source declares, or else every fifth sample of each
    class. Brightnesses are normalised for each channel by the training images' mean and deviation
    unless the options give others; floating-point numbers in an .npz are taken as they are.

    Args:
        spec: `digits`: the 1,797 images of 8x8 that come with scikit-learn, enlarged to `size`.
            A directory of images with a sub-directory for each class, or `train/` and `test/` (or
            `val/`) with such; of `images/` and `masks/`; or of PASCAL VOC or Cityscapes.
            CIFAR-10 or CIFAR-100, as they are published or unpacked.
            A .npz file: arrays `x` [N, C, H, W] and `y` [N], or `x_train`, `y_train`, `x_test`,
            `y_test`.
            `package.module:function` that returns the data.
        channels: The channels that the model takes. Grey images are repeated.
        size: The height and width that it takes; None for the data's own.
        classes: How many classes it knows, if that is known.
        options: The settings; the defaults when missing.

    Raises:
        ModelError: The data does not exist, cannot be read, or does not fit the model.
        UnsupportedError: scikit-learn or Pillow, which the source needs, is not installed.
        UsageError: An option has a value that makes no sense.
    """
    options = options or DataOptions()
    if options.image_size:
        asked = (options.image_size[0], options.image_size[1])
        if any(own not in {None, want} for own, want in zip(size, asked, strict=True)):
            raise UsageError(f"image_size is {_by(asked)}, the model takes {size}")
        size = asked
    request = sources.Request(channels, size, classes, options)
    label = os.fspath(spec)
    found = _find(label, request)
    if isinstance(found, Dataset):
        return found
    return _fit(found, label, request)


def _find(label: str, request: sources.Request) -> sources.Found | Dataset:
    """What a source has."""
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
        return sources.npz(path)
    if kind == "npz":
        raise ModelError(f"{label}: is a directory, not an .npz file")
    if kind == "voc" or (kind == "auto" and sources.is_voc(path)):
        return sources.voc(path, request)
    if kind == "masks" or (kind == "auto" and sources.is_masks(path)):
        return sources.masks(path, request)
    return sources.folder(path, request)


def _called(label: str, request: sources.Request) -> sources.Found | Dataset:
    """What a function of one's own gives."""
    result = sources.call(label, request)
    if isinstance(result, Dataset):
        return result
    if isinstance(result, Mapping):
        return from_arrays({k: np.asarray(v) for k, v in result.items()}, label)
    if isinstance(result, tuple | list) and len(result) == 2:
        train, test = (ItemSamples(part) for part in result)
        if len(train) and len(test):
            text = f"{label}: {len(train):,} training and {len(test):,} test samples"
            return Dataset(train, test, (), text)
    raise UsageError(
        f"data '{label}' returned a {type(result).__name__}; wanted are a Dataset, a mapping of "
        "arrays, four arrays, or two datasets of torch's kind"
    )


def _fit(found: sources.Found, label: str, request: sources.Request) -> Dataset:
    """The data as the model takes it.

    Raises:
        ModelError: It does not fit the model.
    """
    augment = Augment.parse(request.options.augment)
    if augment.jitter and not found.pixels:
        raise UsageError(f"{label}: jitter needs brightnesses, not numbers of any range")
    if isinstance(found.train.x, Pictures):
        train, test = _pictures(found, request)
    else:
        train, test = _arrays(found, label, request)
    _check_labels(train, test, found, label, request)
    for samples, name in ((train, "training"), (test, "test")):
        if len(samples) < (2 if name == "training" else 1):
            raise ModelError(f"{label}: too few {name} images: {len(samples)}")
    normalization = _normalization(train, label, request) if found.pixels else Normalization()
    train = replace(train, normalization=normalization, augment=augment)
    test = replace(test, normalization=normalization)
    described = _describe(found, label, train, test, request)
    anchors = _anchors(train, request) if found.kind == "detect" else ()
    return Dataset(
        train,
        test,
        found.classes,
        described,
        found.kind,
        normalization,
        found.left_out,
        anchors,
        request.options.ignore_label,
    )


Known: TypeAlias = "ArraySamples | PictureSamples"


def _arrays(found: sources.Found, label: str, request: sources.Request) -> tuple[Any, Any]:
    result = []
    for part, name in ((found.train, "training"), (found.test, "test")):
        x = np.asarray(part.x)
        if x.ndim == 3:
            x = x[:, None]
        if x.ndim != 4:
            raise ModelError(
                f"{label}: 'x' is {x.dtype} {list(x.shape)}; wanted are numbers [N, C, H, W] or "
                "[N, H, W]"
            )
        x = _channels(x, label, request.channels)
        wanted = tuple(n if n is not None else x.shape[2 + i] for i, n in enumerate(request.size))
        if x.shape[2:] != wanted:
            raise ModelError(
                f"{label}: {name} images are {_by(x.shape[2:])}, the model takes {_by(wanted)}"
            )
        if x.dtype != np.uint8:
            x = (x / 255 if x.dtype.kind in "iu" else x).astype(np.float32)
        result.append(ArraySamples(x, np.asarray(part.y).astype(np.int64), augment=Augment(True)))
    return result[0], result[1]


def _pictures(found: sources.Found, request: sources.Request) -> tuple[Any, Any]:
    size = request.size
    if None in size:
        # Where the model takes any size, the first image decides.
        first = _first(found.train.x)
        size = (size[0] or first[0], size[1] or first[1])
    result = []
    for part in (found.train, found.test):
        assert isinstance(part.x, Pictures)
        assert isinstance(part.y, Labels | Masks | Boxes)
        extents = (int(size[0] or 1), int(size[1] or 1))
        result.append(PictureSamples(part.x, part.y, extents, middle=request.options.center_crop))
    return result[0], result[1]


def _first(pictures: Any) -> tuple[int, int]:
    for index in range(len(pictures)):
        try:
            image = pictures[index]
        except UnreadableError:
            continue
        return int(image.shape[1]), int(image.shape[2])
    raise ModelError("none of the training images can be read")


def _channels(x: npt.NDArray[Any], label: str, channels: int) -> npt.NDArray[Any]:
    if x.shape[1] == channels:
        return x
    if x.shape[1] != 1:
        raise ModelError(
            f"{label}: images have {x.shape[1]} channels, the model takes {channels}; the order "
            "of axes is [N, C, H, W]"
        )
    return np.repeat(x, channels, axis=1)


def _normalization(train: Known, label: str, request: sources.Request) -> Normalization:
    options = request.options
    if options.mean:
        if {len(options.mean), len(options.std)} - {1, request.channels}:
            raise UsageError(
                f"mean and std have {len(options.mean)} and {len(options.std)} numbers, the "
                f"model {request.channels} channels"
            )
        repeat = request.channels
        mean, std = (v * repeat if len(v) == 1 else v for v in (options.mean, options.std))
        return Normalization(mean, std)
    if isinstance(train, ArraySamples):
        x = train.x / np.float32(255) if train.x.dtype == np.uint8 else train.x
    else:
        picks = np.linspace(0, len(train) - 1, min(len(train), _MEASURED)).astype(np.int64)
        x = train.fetch(np.unique(picks), None).inputs.numpy()
    center = x.mean(axis=(0, 2, 3), dtype=np.float64)
    deviation = x.std(axis=(0, 2, 3), dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)
    return Normalization(tuple(map(float, center)), tuple(map(float, scale)))


def _check_labels(
    train: Known, test: Known, found: sources.Found, label: str, request: sources.Request
) -> None:
    if found.kind == "detect":
        return
    limit = request.classes if request.classes is not None else len(found.classes)
    for samples in (train, test):
        y = samples.y if isinstance(samples, ArraySamples) else None
        if isinstance(samples, PictureSamples) and isinstance(samples.targets, Labels):
            y = samples.targets.values
        if y is None or not limit:
            continue
        if found.kind == "segment":
            y = y[y != request.options.ignore_label]
        low, high = int(y.min(initial=0)), int(y.max(initial=0))
        if low < 0 or high >= limit:
            raise ModelError(
                f"{label}: label {low if low < 0 else high} is not in 0..{limit - 1}, the "
                "model's classes"
            )


def _describe(
    found: sources.Found, label: str, train: Known, test: Known, request: sources.Request
) -> str:
    if isinstance(train, PictureSamples):
        shape: tuple[int, ...] = (request.channels, *train.extents)
    else:
        shape = train.x.shape[1:]
    count = len(found.classes) or request.classes
    known = f", {count} classes" if count else ""
    out = f"; {len(found.left_out)} unreadable images left out" if found.left_out else ""
    what = {"classify": "images", "segment": "images and masks", "detect": "images with boxes"}
    return (
        f"{label}: {len(train):,} training and {len(test):,} test {what[found.kind]} of "
        f"{_by(shape)}{known}{out}"
    )


def _anchors(train: Known, request: sources.Request) -> tuple[tuple[float, float], ...]:
    """The anchors that were given; else none, and the task finds them."""
    numbers = request.options.anchors
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _by(size: tuple[int | None, ...]) -> str:
    return "x".join("any" if extent is None else str(extent) for extent in size)
