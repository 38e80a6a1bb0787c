"""ShuffleNetV2 (Ma et al., ECCV 2018), laid out and named as torchvision does."""

from __future__ import annotations

from typing import Annotated

import onnx

from onnx_expand.errors import UsageError

from .layers import Network, Value, check_range
from .registry import Batch, Classes, Opset, Seed, Size, network

__all__ = ["build"]

_STEM = 24
_UNITS = (4, 8, 4)
# Table 5 of the paper: channels of the three stages and of the last convolution, by width.
_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


@network("shufflenetv2")
def build(
    *,
    size: Size = 224,
    classes: Classes = 1000,
    width: Annotated[float, "0.5, 1, 1.5 or 2: a column of the paper's table 5"] = 0.5,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """ShuffleNetV2: half of the channels pass each unit untouched, then all are shuffled.

    With 1000 classes it has 1,366,792 parameters at width 0.5 (which the ExpandNets paper uses),
    2,278,604 at 1, 3,503,624 at 1.5 and 7,393,996 at 2: torchvision's published counts. Weights
    start as PyTorch's default, as torchvision's do.

    Returns:
        A model from `input` [batch, 3, size, size] to the logits `output` [batch, classes].

    Raises:
        UsageError: A value is out of range.
    """
    check_range("classes", classes, 1)
    if width not in _CHANNELS:
        raise UsageError(f"width is {width}; it must be one of 0.5, 1, 1.5 and 2")
    net = Network("shufflenetv2", size, batch=batch, seed=seed, opset=opset)
    *stages, last = _CHANNELS[width]
    x = _conv_bn(net, "conv1.0", net.input, _STEM, 3, stride=2)
    x = net.max_pool("maxpool", net.relu("conv1.2", x), 3, stride=2, padding=1)
    for stage, (channels, units) in enumerate(zip(stages, _UNITS, strict=True), start=2):
        x = _halving_unit(net, f"stage{stage}.0", x, channels)
        for unit in range(1, units):
            x = _unit(net, f"stage{stage}.{unit}", x)
    x = net.relu("conv5.2", _conv_bn(net, "conv5.0", x, last, 1))
    x = net.global_average_pool("avgpool", x)
    x = net.flatten("flatten", x)
    return net.finish(net.gemm("fc", x, classes))


def _unit(net: Network, name: str, x: Value) -> Value:
    half = x.shape[1] // 2
    kept, worked = net.split(f"{name}.chunk", x, [half, half])
    worked = _branch(net, f"{name}.branch2", worked, half, stride=1)
    return net.shuffle(f"{name}.shuffle", net.concat(f"{name}.cat", [kept, worked]), 2)


def _halving_unit(net: Network, name: str, x: Value, channels: int) -> Value:
    half, own = channels // 2, f"{name}.branch1"
    y = _conv_bn(net, f"{own}.0", x, x.shape[1], 3, stride=2, group=x.shape[1])
    y = net.relu(f"{own}.4", _conv_bn(net, f"{own}.2", y, half, 1))
    z = _branch(net, f"{name}.branch2", x, half, stride=2)
    return net.shuffle(f"{name}.shuffle", net.concat(f"{name}.cat", [y, z]), 2)


def _branch(net: Network, name: str, x: Value, channels: int, *, stride: int) -> Value:
    x = net.relu(f"{name}.2", _conv_bn(net, f"{name}.0", x, channels, 1))
    x = _conv_bn(net, f"{name}.3", x, channels, 3, stride=stride, group=channels)
    return net.relu(f"{name}.7", _conv_bn(net, f"{name}.5", x, channels, 1))


def _conv_bn(
    net: Network,
    name: str,
    x: Value,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    group: int = 1,
) -> Value:
    """A convolution, and the normalization that has the next number."""
    x = net.conv(
        name, x, channels, kernel, stride=stride, padding=kernel // 2, group=group, bias=False
    )
    parent, _, index = name.rpartition(".")
    return net.batch_norm(f"{parent}.{int(index) + 1}", x)
