"""Sources of labelled images: one module for each layout of data."""

from onnx_expand.experiment.data.sources.arrays import npz
from onnx_expand.experiment.data.sources.base import Request, SourceData, Subset
from onnx_expand.experiment.data.sources.cifar import cifar, is_cifar
from onnx_expand.experiment.data.sources.custom import call
from onnx_expand.experiment.data.sources.digits import digits
from onnx_expand.experiment.data.sources.folders import folder
from onnx_expand.experiment.data.sources.masks import is_masks, masks
from onnx_expand.experiment.data.sources.voc import is_voc, voc

__all__ = [
    "Request",
    "SourceData",
    "Subset",
    "call",
    "cifar",
    "digits",
    "folder",
    "is_cifar",
    "is_masks",
    "is_voc",
    "masks",
    "npz",
    "voc",
]
