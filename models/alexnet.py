"""AlexNet (Krizhevsky, 2014: in one column), laid out and named as torchvision does."""

from __future__ import annotations

from typing import Annotated

import onnx

from .layers import Network, check_range
from .registry import Batch, Classes, Opset, Seed, Size, network

__all__ = ["build"]

# Number in the sequence, channels, kernel, stride, padding, whether max-pooling follows.
_FEATURES = (
    (0, 64, 11, 4, 2, True),
    (3, 192, 5, 1, 2, True),
    (6, 384, 3, 1, 1, False),
    (8, 256, 3, 1, 1, False),
    (10, 256, 3, 1, 1, True),
)


@network("alexnet")
def build(
    *,
    size: Size = 224,
    classes: Classes = 1000,
    last: Annotated[int, "channels of the last convolution"] = 256,
    hidden: Annotated[int, "width of the two hidden dense layers"] = 4096,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """AlexNet: five convolutions of 11x11, 5x5 and 3x3, and three large dense layers.

    With 1000 classes and images of 224 it has 61,100,840 parameters, torchvision's published
    count. The first dense layer reads all that the last pooling gives: images of another size
    change its width, where torchvision would pool to 6x6. Weights start as PyTorch's default, as
    torchvision's do. The ExpandNets paper varies `last`: 128, 256 and 512.

    Returns:
        A model from `input` [batch, 3, size, size] to the logits `output` [batch, classes].

    Raises:
        UsageError: A value is out of range, or the image is too small.
    """
    for name, value in (("classes", classes), ("last", last), ("hidden", hidden)):
        check_range(name, value, 1)
    net = Network("alexnet", size, batch=batch, seed=seed, opset=opset)
    x = net.input
    final = _FEATURES[-1][0]
    for index, width, kernel, stride, padding, pooled in _FEATURES:
        channels = last if index == final else width
        name = f"features.{index}"
        x = net.conv(name, x, channels, kernel, stride=stride, padding=padding)
        x = net.relu(f"features.{index + 1}", x)
        if pooled:
            x = net.max_pool(f"features.{index + 2}", x, 3, stride=2)
    x = net.flatten("flatten", x)
    for index in (0, 3):
        x = net.dropout(f"classifier.{index}", x, 0.5)
        x = net.gemm(f"classifier.{index + 1}", x, hidden)
        x = net.relu(f"classifier.{index + 2}", x)
    return net.finish(net.gemm("classifier.6", x, classes))
