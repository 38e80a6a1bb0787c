"""Training runs: data, augmentation, tasks, teachers, the loop, comparisons and studies."""

from onnx_expand.experiment.compare import Comparison
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.loading import ImageInput, image_input, load_data
from onnx_expand.experiment.report import Report
from onnx_expand.experiment.run import Experiment, Watcher
from onnx_expand.experiment.training.checkpoint import Checkpoints
from onnx_expand.experiment.training.distill import Distiller
from onnx_expand.experiment.training.history import DivergedError, EpochResult, History, Progress
from onnx_expand.experiment.training.loop import evaluate, train
from onnx_expand.recipes import DataOptions, DistillOptions, TrainOptions, recipe

__all__ = [
    "Checkpoints",
    "Comparison",
    "DataOptions",
    "Dataset",
    "DistillOptions",
    "Distiller",
    "DivergedError",
    "EpochResult",
    "Experiment",
    "History",
    "ImageInput",
    "Progress",
    "Report",
    "TrainOptions",
    "Watcher",
    "evaluate",
    "image_input",
    "load_data",
    "recipe",
    "train",
]
