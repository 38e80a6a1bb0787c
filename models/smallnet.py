"""SmallNet: the CIFAR network of the ExpandNets paper (Guo, Alvarez, Salzmann, NeurIPS 2020)."""

from __future__ import annotations

from typing import Annotated

import onnx

from onnx_expand.errors import UsageError

from .layers import Network, check_range
from .registry import Batch, Classes, Opset, Seed, Size, network

__all__ = ["build"]

_CHANNELS = (8, 16, 32, 64)
_HIDDEN = 64


@network("smallnet")
def build(
    *,
    kernel: Annotated[int, "size of every convolution's kernel, odd"] = 7,
    stages: Annotated[int, "number of convolutions, 3 or 4"] = 3,
    classes: Classes = 10,
    size: Size = 32,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """SmallNet of the ExpandNets paper: 3 or 4 large-kernel convolutions and two dense layers.

    Each stage is convolution, batch normalization, ReLU and 2x2 max-pooling; the channels are
    8, 16, 32 and 64. With kernel 7 and 10 classes it has 66,186 parameters in 3 stages and
    150,346 in 4: the counts of the paper's tables 9 and 6. Weights start as PyTorch's default,
    as in the authors' code.

    Returns:
        A model from `input` [batch, 3, size, size] to the logits `output` [batch, classes].

    Raises:
        UsageError: A value is out of range, or the image is too small for the stages.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise UsageError(f"kernel is {kernel}; it must be odd and at least 1")
    if stages not in (3, 4):
        raise UsageError(f"stages is {stages}; it must be 3 or 4")
    check_range("classes", classes, 1)
    net = Network("smallnet", size, batch=batch, seed=seed, opset=opset)
    # The paper pads to keep the size, except in its network of 3x3 kernels.
    padding = 0 if kernel == 3 else (kernel - 1) // 2
    x = net.input
    for index, channels in enumerate(_CHANNELS[:stages], start=1):
        x = net.conv(f"conv{index}", x, channels, kernel, padding=padding)
        x = net.batch_norm(f"bn{index}", x)
        x = net.relu(f"relu{index}", x)
        x = net.max_pool(f"pool{index}", x, 2)
    x = net.flatten("flatten", x)
    x = net.gemm("fc1", x, _HIDDEN)
    x = net.relu("relu_fc1", x)
    return net.finish(net.gemm("fc2", x, classes))
