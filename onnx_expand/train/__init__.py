"""Training: torch runs an ONNX graph, changes its weights, and hands them back."""

from onnx_expand.errors import UnsupportedError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise UnsupportedError("training needs torch: pip install 'onnx-expand[train]'") from error

from onnx_expand.recipes import DataOptions, DistillOptions, TrainOptions, recipe
from onnx_expand.train.checkpoint import Checkpoints
from onnx_expand.train.data import ImageInput, image_input, load_data
from onnx_expand.train.dataset import Dataset
from onnx_expand.train.distill import Distiller
from onnx_expand.train.importer import to_torch
from onnx_expand.train.loop import evaluate, train
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.options import DivergedError, EpochResult, History, Progress
from onnx_expand.train.writeback import write_back

__all__ = [
    "Checkpoints",
    "DataOptions",
    "Dataset",
    "DistillOptions",
    "Distiller",
    "DivergedError",
    "EpochResult",
    "History",
    "ImageInput",
    "OnnxModule",
    "Progress",
    "TrainOptions",
    "evaluate",
    "image_input",
    "load_data",
    "recipe",
    "to_torch",
    "train",
    "write_back",
]
