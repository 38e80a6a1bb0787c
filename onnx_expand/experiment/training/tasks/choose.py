"""Select the task for options and data."""

from __future__ import annotations

from onnx_expand.errors import UsageError
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.sources.custom import find_function
from onnx_expand.experiment.training.tasks.base import Task
from onnx_expand.experiment.training.tasks.classify import Classify
from onnx_expand.experiment.training.tasks.custom import CustomLoss
from onnx_expand.experiment.training.tasks.detect import Detect
from onnx_expand.experiment.training.tasks.segment import Segment
from onnx_expand.recipes import TrainOptions

__all__ = ["choose"]


def choose(options: TrainOptions, data: Dataset) -> Task:
    """Return the task for some data.

    Raises:
        UsageError: The data is labelled for another task, or the loss is not a function.
    """
    if options.loss is not None:
        return CustomLoss(find_function(options.loss, "loss"), options.loss)
    name = data.kind if options.task == "auto" else options.task
    if name != data.kind and data.classes:
        raise UsageError(f"task is {name}, but the data is labelled to {data.kind}")
    if name == "numbers":
        raise UsageError("the targets are numbers, not classes; specify the loss with --loss")
    if name == "segment":
        return Segment(options.label_smoothing, data.ignore_label)
    if name == "detect":
        return Detect(data.anchors, len(data.classes), data.train)
    return Classify(options.label_smoothing)
