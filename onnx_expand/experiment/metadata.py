"""The interpretation of a trained model: order of classes, anchors, normalization.

The data determines all of it, and the model cannot be used without it. Therefore it is reported
and written into the model's metadata, which fold keeps.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.training.loop import rehearse
from onnx_expand.experiment.training.tasks.detect import Detect
from onnx_expand.recipes import TrainOptions
from onnx_expand.train import to_torch

__all__ = ["as_dict", "lines", "with_anchors", "write"]

_PREFIX = "onnx_expand."
_SHOWN = 24


def with_anchors(data: Dataset, model: ir.Model, options: TrainOptions) -> Dataset:
    """Return the data with anchors, found from the training boxes if none are given.

    Raises:
        UnsupportedError: The model does not take the data.
        UsageError: The data is labelled for another task.
    """
    if data.kind != "detect" or data.anchors or options.loss is not None:
        return data
    task = rehearse(to_torch(model), data, options)
    assert isinstance(task, Detect)
    return replace(data, anchors=tuple((width, height) for width, height in task.anchors))


def lines(data: Dataset) -> list[str]:
    """Return the interpretation as lines of text."""
    found = []
    if _named(data):
        shown = ", ".join(f"{n} {name}" for n, name in enumerate(data.classes[:_SHOWN]))
        more = len(data.classes) - _SHOWN
        found.append(f"classes: {shown}" + (f" and {more} more" if more > 0 else ""))
    if data.anchors:
        numbers = ",".join(f"{number:.6g}" for anchor in data.anchors for number in anchor)
        found.append(f"anchors, as shares of the image: --anchors {numbers}")
    return found


def as_dict(data: Dataset) -> dict[str, Any]:
    """Return the interpretation as plain JSON types, without empty entries."""
    found: dict[str, Any] = {}
    if _named(data):
        found["classes"] = list(data.classes)
    if data.anchors:
        found["anchors"] = [list(anchor) for anchor in data.anchors]
    if data.normalization.mean:
        found["mean"], found["std"] = (
            list(values) for values in (data.normalization.mean, data.normalization.std)
        )
    return found


def write(model: ir.Model, data: Dataset) -> None:
    """Write the interpretation into a model's metadata, as JSON under `onnx_expand.*` keys."""
    for name, value in as_dict(data).items():
        model.metadata_props[_PREFIX + name] = json.dumps(value)


def _named(data: Dataset) -> bool:
    """Return whether the classes have names other than their indices."""
    return data.classes != tuple(str(place) for place in range(len(data.classes)))
