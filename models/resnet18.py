"""ResNet-18 (He et al., CVPR 2016), laid out and named as torchvision does."""

from __future__ import annotations

from typing import Annotated

import onnx

from onnx_expand.errors import UsageError

from .initial import HE_OUT
from .layers import Network, Value, check_range
from .registry import Batch, Classes, Opset, Seed, Size, network

__all__ = ["build"]

_CHANNELS = (64, 128, 256, 512)
_BLOCKS = 2


@network("resnet18")
def build(
    *,
    size: Size = 224,
    classes: Classes = 1000,
    stem: Annotated[str, "imagenet: 7x7, stride 2, pooling; cifar: 3x3"] = "imagenet",
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """ResNet-18: eight residual blocks of two 3x3 convolutions; the paper's teacher for CIFAR.

    With 1000 classes it has 11,689,512 parameters, torchvision's published count. With the stem
    for CIFAR and 10 classes it has 11,173,962, the count usually given for ResNet-18 on CIFAR.
    Weights start as torchvision's do: He et al. by fan-out, the classifier as PyTorch's default.

    Returns:
        A model from `input` [batch, 3, size, size] to the logits `output` [batch, classes].

    Raises:
        UsageError: A value is out of range.
    """
    check_range("classes", classes, 1)
    if stem not in {"imagenet", "cifar"}:
        raise UsageError(f"stem is '{stem}'; give imagenet or cifar")
    net = Network("resnet18", size, batch=batch, seed=seed, opset=opset, conv_initial=HE_OUT)
    large = stem == "imagenet"
    kernel, stride = (7, 2) if large else (3, 1)
    x = _conv_bn(net, "", 1, net.input, _CHANNELS[0], kernel, stride)
    x = net.relu("relu", x)
    if large:
        x = net.max_pool("maxpool", x, 3, stride=2, padding=1)
    for layer, channels in enumerate(_CHANNELS, start=1):
        for block in range(_BLOCKS):
            stride = 2 if layer > 1 and block == 0 else 1
            x = _block(net, f"layer{layer}.{block}.", x, channels, stride)
    x = net.global_average_pool("avgpool", x)
    x = net.flatten("flatten", x)
    return net.finish(net.gemm("fc", x, classes))


def _block(net: Network, name: str, x: Value, channels: int, stride: int) -> Value:
    shortcut = x
    x = net.relu(f"{name}relu1", _conv_bn(net, name, 1, x, channels, 3, stride))
    x = _conv_bn(net, name, 2, x, channels, 3, 1)
    if shortcut.shape[1] != channels:
        own = f"{name}downsample"
        shortcut = net.conv(f"{own}.0", shortcut, channels, 1, stride=stride, bias=False)
        shortcut = net.batch_norm(f"{own}.1", shortcut)
    return net.relu(f"{name}relu2", net.add(f"{name}add", x, shortcut))


def _conv_bn(
    net: Network, name: str, index: int, x: Value, channels: int, kernel: int, stride: int
) -> Value:
    padding = kernel // 2
    x = net.conv(
        f"{name}conv{index}", x, channels, kernel, stride=stride, padding=padding, bias=False
    )
    return net.batch_norm(f"{name}bn{index}", x)
