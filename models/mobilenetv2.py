"""MobileNetV2 (Sandler et al., CVPR 2018), laid out and named as torchvision does."""

from __future__ import annotations

from typing import Annotated

import onnx

from onnx_expand.errors import UsageError

from .initial import HE_OUT, NORMAL
from .layers import Network, Value, check_range
from .registry import Batch, Classes, Opset, Seed, Size, network

__all__ = ["build"]

_STEM = 32
_HEAD = 1280
# Table 2 of the paper: expansion of the width inside a block, output channels, number of blocks,
# stride of the first of them.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_WIDEST = 100


@network("mobilenetv2")
def build(
    *,
    size: Size = 224,
    classes: Classes = 1000,
    width: Annotated[float, "factor on the number of channels"] = 1.0,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """MobileNetV2 as in torchvision: inverted residual blocks of depthwise convolutions.

    With 1000 classes and width 1 it has 3,504,872 parameters, torchvision's published count.
    Weights start as torchvision's and the ExpandNets authors' do. Inference-form batch
    normalization with fresh statistics does not rescale anything, so the signal of a fresh network
    fades from block to block and hardly reaches the logits until it has been trained.

    Returns:
        A model from `input` [batch, 3, size, size] to the logits `output` [batch, classes].

    Raises:
        UsageError: A value is out of range.
    """
    check_range("classes", classes, 1)
    if not 0 < width <= _WIDEST:
        raise UsageError(f"width is {width}; it must be above 0 and at most {_WIDEST}")
    net = Network(
        "mobilenetv2",
        size,
        batch=batch,
        seed=seed,
        opset=opset,
        conv_initial=HE_OUT,
        dense_initial=NORMAL,
    )
    x = _conv_bn_relu6(net, "features.0", net.input, _rounded(_STEM * width), 3, stride=2)
    index = 1
    for expansion, channels, blocks, stride in _GROUPS:
        for block in range(blocks):
            x = _inverted_residual(
                net,
                f"features.{index}",
                x,
                _rounded(channels * width),
                expansion=expansion,
                stride=stride if block == 0 else 1,
            )
            index += 1
    # A narrow network keeps the full width of its last features.
    x = _conv_bn_relu6(net, f"features.{index}", x, _rounded(_HEAD * max(1.0, width)), 1)
    x = net.global_average_pool("avgpool", x)
    x = net.flatten("flatten", x)
    return net.finish(net.gemm("classifier.1", x, classes))


def _inverted_residual(
    net: Network, name: str, x: Value, channels: int, *, expansion: int, stride: int
) -> Value:
    source = x
    inner = x.shape[1] * expansion
    layer = 0
    if expansion != 1:
        x = _conv_bn_relu6(net, f"{name}.conv.{layer}", x, inner, 1)
        layer += 1
    x = _conv_bn_relu6(net, f"{name}.conv.{layer}", x, inner, 3, stride=stride, group=inner)
    x = net.conv(f"{name}.conv.{layer + 1}", x, channels, 1, bias=False)
    x = net.batch_norm(f"{name}.conv.{layer + 2}", x)
    if stride == 1 and source.shape[1] == channels:
        x = net.add(f"{name}.add", source, x)
    return x


def _conv_bn_relu6(
    net: Network,
    name: str,
    x: Value,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    group: int = 1,
) -> Value:
    x = net.conv(
        f"{name}.0",
        x,
        channels,
        kernel,
        stride=stride,
        padding=(kernel - 1) // 2,
        group=group,
        bias=False,
    )
    return net.relu6(f"{name}.2", net.batch_norm(f"{name}.1", x))


def _rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of the divisor, but no less than it, nor than 90 % of the channels."""
    nearest = max(divisor, int(channels / divisor + 0.5) * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor
