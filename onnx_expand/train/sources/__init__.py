"""Where labelled images come from: one file for each layout of data."""

from onnx_expand.train.sources.arrays import npz
from onnx_expand.train.sources.base import Found, Part, Request
from onnx_expand.train.sources.cifar import cifar, is_cifar
from onnx_expand.train.sources.custom import call
from onnx_expand.train.sources.digits import digits
from onnx_expand.train.sources.folders import folder
from onnx_expand.train.sources.masks import is_masks, masks
from onnx_expand.train.sources.voc import is_voc, voc

__all__ = [
    "Found",
    "Part",
    "Request",
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
