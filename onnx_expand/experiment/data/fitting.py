"""Convert the data of a source to the form that a model takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import ModelError, UsageError
from onnx_expand.experiment.data import sources
from onnx_expand.experiment.data.augment import Augment
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.samples import ArraySamples, Normalization, PictureSamples
from onnx_expand.experiment.data.sources.custom import find_function
from onnx_expand.experiment.data.targets import Boxes, Labels, Masks, Pictures, UnreadableError
from onnx_expand.experiment.data.user_augment import UserAugment

__all__ = ["by", "fit"]

# image files from which mean and deviation are estimated
_MEASURED = 2048


def fit(found: sources.SourceData, label: str, request: sources.Request) -> Dataset:
    """Convert the data to the form that the model takes.

    Raises:
        ModelError: It does not fit the model.
    """
    augment = Augment.parse(request.options.augment)
    if augment.jitter and not found.pixels:
        raise UsageError(f"{label}: jitter needs brightnesses, not numbers of any range")
    if not (augment.none or request.channels):
        raise UsageError(f"{label}: augment needs images; the model takes none")
    if found.kind == "numbers" and np.asarray(found.train.y).ndim > 2 and not augment.none:
        raise UsageError(
            f"{label}: augment moves images, masks and boxes, and not targets of "
            f"{list(np.asarray(found.train.y).shape)}; change both in a dataset of your own"
        )
    own = request.options.transform
    if own is not None:
        if not request.channels:
            raise UsageError(f"{label}: transform '{own}' needs images; the model takes none")
        find_function(own, "transform")
        augment = replace(augment, own=UserAugment(own))
    if isinstance(found.train.x, Pictures):
        train, test = _pictures(found, request)
    else:
        train, test = _arrays(found, label, request)
    _check_labels(train, test, found, label, request)
    for samples, name in ((train, "training"), (test, "test")):
        if len(samples) < (2 if name == "training" else 1):
            raise ModelError(f"{label}: too few {name} images: {len(samples)}")
    images = (found.pixels or request.options.mean) and request.channels
    normalization = _normalization(train, label, request) if images else Normalization()
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


def _arrays(found: sources.SourceData, label: str, request: sources.Request) -> tuple[Any, Any]:
    result = []
    for part, name in ((found.train, "training"), (found.test, "test")):
        x = np.asarray(part.x)
        y = np.asarray(part.y)
        if not request.channels:
            kind = np.float32 if x.dtype.kind == "f" else np.int64
            result.append(ArraySamples(x.astype(kind), y))
            continue
        if x.ndim == 3:
            x = x[:, None]
        if x.ndim != 4:
            raise ModelError(
                f"{label}: 'x' is {x.dtype} {list(x.shape)}; it must be numbers [N, C, H, W] or "
                "[N, H, W]"
            )
        x = _channels(x, label, request.channels)
        wanted = tuple(n if n is not None else x.shape[2 + i] for i, n in enumerate(request.size))
        if x.shape[2:] != wanted:
            raise ModelError(
                f"{label}: {name} images are {by(x.shape[2:])}, the model takes {by(wanted)}"
            )
        if x.dtype != np.uint8:
            x = (x / _white(x, label) if x.dtype.kind in "iu" else x).astype(np.float32)
        beyond = request.options.ignore_label
        result.append(ArraySamples(x, y, augment=Augment(True), beyond=beyond))
    return result[0], result[1]


def _white(x: npt.NDArray[Any], label: str) -> float:
    """Return the integer that represents the brightness 1."""
    if x.dtype == np.uint16:
        return 65535.0
    if x.min() < 0 or x.max() > 255:
        raise ModelError(
            f"{label}: images of {x.dtype} go from {x.min()} to {x.max()}; brightnesses are "
            "integers from 0 to 255, uint16 to 65535, or floating-point numbers of any range"
        )
    return 255.0


def _pictures(found: sources.SourceData, request: sources.Request) -> tuple[Any, Any]:
    size = request.size
    if None in size:
        # If the model takes any size, the first image determines it.
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
        batch = train.fetch(np.unique(picks), None)
        if not batch.count:
            raise ModelError(f"{label}: none of {len(picks)} training images can be read")
        x = batch.inputs.numpy()
    center = x.mean(axis=(0, 2, 3), dtype=np.float64)
    deviation = x.std(axis=(0, 2, 3), dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)
    return Normalization(tuple(map(float, center)), tuple(map(float, scale)))


def _check_labels(
    train: Known, test: Known, found: sources.SourceData, label: str, request: sources.Request
) -> None:
    if found.kind in {"detect", "numbers"}:
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
    found: sources.SourceData, label: str, train: Known, test: Known, request: sources.Request
) -> str:
    if isinstance(train, PictureSamples):
        shape: tuple[int, ...] = (request.channels, *train.extents)
    else:
        shape = train.x.shape[1:]
    count = len(found.classes) or request.classes
    known = f", {count} classes" if count else ""
    out = f"; {len(found.left_out)} images or boxes left out" if found.left_out else ""
    what = {"segment": "images and masks", "detect": "images with boxes"}
    if found.kind == "numbers":
        each = np.asarray(found.train.y).shape[1:]
        known = f", {by(each)} numbers each" if each else ", a number each"
    named = what.get(found.kind, "images")
    return (
        f"{label}: {len(train):,} training and {len(test):,} test {named} of "
        f"{by(shape)}{known}{out}"
    )


def _anchors(train: Known, request: sources.Request) -> tuple[tuple[float, float], ...]:
    """Return the given anchors; without any, the task finds them."""
    numbers = request.options.anchors
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def by(size: tuple[int | None, ...]) -> str:
    """Format extents as in 3x3."""
    return "x".join("any" if extent is None else str(extent) for extent in size)
