"""Test images for display, with the predictions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import OnnxExpandError
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.runtimes import OnnxRuntime

__all__ = ["Gallery"]

_COUNT = 48
_WIDEST = 96  # pixels


@dataclass(frozen=True)
class Gallery:
    """Some test images.

    Attributes:
        images: Bytes [N, H, W, 3].
        truth: The class of each image; empty if the labels are not classes.
        predicted: The predicted class of each; empty if the model does not run here.
    """

    images: npt.NDArray[np.uint8]
    truth: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Dataset, model: ir.Model, count: int = _COUNT) -> Gallery | None:
        """Select evenly spaced test images; return None if the samples are not images.

        Args:
            data: The data.
            model: The model, whose single input takes the images as the data provides them.
            count: The maximum number of images.
        """
        total = len(data.test)
        picks = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
        try:
            batch = data.test.fetch(picks, None)
        except OnnxExpandError:
            return None  # an unreadable test image must not end a run at this point
        x = batch.inputs.numpy()
        readable = [i for i in range(len(x)) if int(picks[i]) not in batch.unreadable]
        if x.ndim != 4 or x.shape[1] not in {1, 3} or not readable or x.dtype.kind != "f":
            return None
        x = x[readable]
        truth: Sequence[int] = ()
        if data.kind == "classify":
            truth = batch.targets.numpy()[readable].tolist()
        predicted = _predicted(model, x, len(data.classes)) if truth else []
        return cls(_visible(x, data), _named(truth, data), _named(predicted, data))


def _named(labels: Sequence[int], data: Dataset) -> tuple[str, ...]:
    known = data.classes
    return tuple(known[i] if 0 <= i < len(known) else str(i) for i in labels)


def _predicted(model: ir.Model, x: npt.NDArray[Any], classes: int) -> list[int]:
    """Return the predicted class of each image, or none if the model does not run here."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1 or not inputs[0].name:
        return []
    dtype = inputs[0].dtype
    feed = x if dtype is None else x.astype(dtype.numpy())
    try:
        session = OnnxRuntime().session(model, "the trained model")
        extents = [] if inputs[0].shape is None else [*inputs[0].shape]
        first = extents[0] if extents else None
        step = first if isinstance(first, int) and first > 0 else len(feed)
        parts = []
        for start in range(0, len(feed) - step + 1, step):
            found = session.run({inputs[0].name: feed[start : start + step]})
            parts.append(np.asarray(next(iter(found.values()))))
    except OnnxExpandError:
        return []
    scores: npt.NDArray[Any] = np.concatenate(parts) if parts else np.zeros(0)
    if scores.ndim != 2 or len(scores) != len(x) or (classes and scores.shape[1] < 2):
        return []
    labels: list[int] = scores.argmax(axis=1).tolist()
    return labels


def _visible(x: npt.NDArray[Any], data: Dataset) -> npt.NDArray[np.uint8]:
    """Convert images [N, C, H, W] to bytes [N, H, W, 3] of limited width."""
    if data.normalization.mean:
        shape = (1, -1, 1, 1)
        x = x * np.reshape(data.normalization.std, shape) + np.reshape(
            data.normalization.mean, shape
        )
    else:
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            x = (x - low) / max(high - low, 1e-9)
    step = -(-max(x.shape[2:]) // _WIDEST)
    x = np.rint(255 * np.clip(x[:, :, ::step, ::step], 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(
        np.broadcast_to(x, (len(x), 3, *x.shape[2:])).transpose(0, 2, 3, 1)
    )
