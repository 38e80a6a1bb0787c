"""YOLO-LITE (Huang, Pedoeem, Chen, 2018): its trial 3, the published detector."""

from __future__ import annotations

from typing import Annotated

import onnx

from .initial import DARKNET
from .layers import Network, Value, check_range
from .registry import Batch, Opset, Seed, Size, network

__all__ = ["build"]

_BACKBONE = (16, 32, 64, 128, 128)
_HEAD = 256
_SLOPE = 0.1
_COORDINATES = 5
"""Of a box: x, y, width, height and whether there is an object."""


@network("yololite")
def build(
    *,
    size: Size = 224,
    classes: Annotated[int, "number of kinds of objects"] = 20,
    anchors: Annotated[int, "boxes at each place"] = 5,
    norm: Annotated[bool, "batch normalization after the 3x3 convolutions"] = False,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """YOLO-LITE: five 3x3 convolutions with max-pooling, and a head of a 3x3 and a 1x1.

    It has 572,317 parameters for the 20 classes of VOC and 649,417 for the 80 of COCO, and 572,941
    trainable ones for VOC with normalization: the sizes of the authors' weight files (2,289,284,
    2,597,684 and 2,296,772 bytes: a header of 16 bytes, then float32; the last one with the
    running statistics too). Weights start as in Darknet, the authors' framework.

    Returns:
        A model from `input` [batch, 3, size, size] to `output`
        [batch, anchors * (5 + classes), size / 32, size / 32], before the decoding of boxes.

    Raises:
        UsageError: A value is out of range, or the image is too small.
    """
    check_range("classes", classes, 1)
    check_range("anchors", anchors, 1)
    net = Network("yololite", size, batch=batch, seed=seed, opset=opset, conv_initial=DARKNET)
    x = net.input
    for index, channels in enumerate(_BACKBONE, start=1):
        x = _conv_leaky(net, index, x, channels, norm)
        x = net.max_pool(f"pool{index}", x, 2)
    x = _conv_leaky(net, len(_BACKBONE) + 1, x, _HEAD, norm)
    boxes = anchors * (_COORDINATES + classes)
    return net.finish(net.conv(f"conv{len(_BACKBONE) + 2}", x, boxes, 1))


def _conv_leaky(net: Network, index: int, x: Value, channels: int, norm: bool) -> Value:
    x = net.conv(f"conv{index}", x, channels, 3, padding=1, bias=not norm)
    if norm:
        x = net.batch_norm(f"bn{index}", x)
    return net.leaky_relu(f"leaky{index}", x, _SLOPE)
