"""MobileNet (Howard et al., 2017), laid out as in the ExpandNets authors' code."""

from __future__ import annotations

from typing import Annotated

import onnx

from onnx_expand.errors import UsageError

from .layers import Network, Value, check_range
from .registry import Batch, Classes, Opset, Seed, Size, network

__all__ = ["build"]

_STEM = 32
# Table 1 of the paper: output channels and stride of each depthwise separable block.
_BLOCKS = (
    (64, 1),
    *((128, 2), (128, 1)),
    *((256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
_WIDEST = 100


@network("mobilenet")
def build(
    *,
    size: Size = 224,
    classes: Classes = 1000,
    width: Annotated[float, "factor on the number of channels"] = 1.0,
    stride: Annotated[int, "step of the first convolution; 1 for CIFAR"] = 2,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """MobileNet: depthwise separable convolutions, each with batch normalization and ReLU.

    With 1000 classes it has 4,231,976 parameters, and 2,585,560, 1,331,592 and 470,072 at widths
    0.75, 0.5 and 0.25: the counts that Keras (width 1) and the Gluon model zoo print for it, of
    which the paper gives 4.2, 2.6, 1.3 and 0.5 million. Weights start as PyTorch's default, as in
    the ExpandNets authors' code.

    Returns:
        A model from `input` [batch, 3, size, size] to the logits `output` [batch, classes].

    Raises:
        UsageError: A value is out of range.
    """
    check_range("classes", classes, 1)
    check_range("stride", stride, 1, 2)
    if not 0 < width <= _WIDEST:
        raise UsageError(f"width is {width}; it must be above 0 and at most {_WIDEST}")
    net = Network("mobilenet", size, batch=batch, seed=seed, opset=opset)
    x = _conv_bn_relu(net, "model.0", 0, net.input, _scaled(_STEM, width), 3, stride=stride)
    for index, (channels, step) in enumerate(_BLOCKS, start=1):
        name = f"model.{index}"
        x = _conv_bn_relu(net, name, 0, x, x.shape[1], 3, stride=step, group=x.shape[1])
        x = _conv_bn_relu(net, name, 3, x, _scaled(channels, width), 1)
    x = net.global_average_pool("avgpool", x)
    x = net.flatten("flatten", x)
    return net.finish(net.gemm("fc", x, classes))


def _conv_bn_relu(
    net: Network,
    name: str,
    index: int,
    x: Value,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    group: int = 1,
) -> Value:
    """Convolution, normalization and ReLU, numbered from `index` on."""
    x = net.conv(
        f"{name}.{index}",
        x,
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        group=group,
        bias=False,
    )
    x = net.batch_norm(f"{name}.{index + 1}", x)
    return net.relu(f"{name}.{index + 2}", x)


def _scaled(channels: int, width: float) -> int:
    return max(1, int(channels * width))
