"""A few blocks each of networks whose structure folding must respect, with normalizations.

Each has bottlenecks, separable convolutions or branches that are linear neighbours, some of which
cost less apart than merged. They are built with the layers of `models`, with random weights and
statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from models.layers import Network, Value
from tests.support.graphs import retrained

__all__ = ["ZOO", "Member", "Zoo"]


class Zoo(Network):
    """A network under construction, with layers that only the zoo needs."""

    def silu(self, name: str, x: Value) -> Value:
        """Append x * sigmoid(x)."""
        return self.multiply(f"{name}.mul", x, self.sigmoid(f"{name}.sigmoid", x))

    def gelu(self, name: str, x: Value) -> Value:
        """Append a GELU by Erf, as exported: x / sqrt 2, erf, + 1, * x, / 2."""
        y = self.constant("Div", f"{name}.div", x, np.array(math.sqrt(2)))
        y = self._node("Erf", f"{name}.erf", [y], x.shape[1:])
        y = self.constant("Add", f"{name}.add", y, np.array(1.0))
        y = self.multiply(f"{name}.mul", x, y)
        return self.constant("Mul", f"{name}.half", y, np.array(0.5))

    def constant(self, op: str, name: str, x: Value, array: np.ndarray[Any, Any]) -> Value:
        """Append an elementwise operator with a constant that preserves the shape."""
        constant = gs.Constant(f"{name}.weight", array.astype(np.float32))
        return self._node(op, name, [x, constant], x.shape[1:])

    def average_pool(self, name: str, x: Value, kernel: int, stride: int, padding: int) -> Value:
        """Append an average pooling that counts the zeros of the padding."""
        extents = [(extent + 2 * padding - kernel) // stride + 1 for extent in x.shape[2:]]
        attrs = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [padding] * 4,
            "count_include_pad": 1,
        }
        return self._node("AveragePool", name, [x], [x.shape[1], *extents], attrs)

    def transpose(self, name: str, x: Value, perm: Sequence[int]) -> Value:
        """Append a Transpose; the batch stays first."""
        shape = [x.shape[axis] for axis in perm[1:]]
        return self._node("Transpose", name, [x], shape, {"perm": list(perm)})

    def layer_norm(self, name: str, x: Value) -> Value:
        """Append a normalization over the last axis."""
        ones, zeros = np.ones(x.shape[-1], np.float32), np.zeros(x.shape[-1], np.float32)
        parameters = [gs.Constant(f"{name}.weight", ones), gs.Constant(f"{name}.bias", zeros)]
        attrs = {"axis": -1, "epsilon": 1e-6}
        return self._node("LayerNormalization", name, [x, *parameters], x.shape[1:], attrs)

    def linear(self, name: str, x: Value, features: int) -> Value:
        """Append a matrix on the last axis and a bias, as MatMul and Add."""
        weight = gs.Constant(f"{name}.weight", np.ones((x.shape[-1], features), np.float32))
        shape = [*x.shape[1:-1], features]
        y = self._node("MatMul", name, [x, weight], shape)
        return self.constant("Add", f"{name}.add", y, np.zeros(features))

    def conv_bn(self, name: str, x: Value, channels: int, kernel: int, **options: Any) -> Value:
        """Append a convolution that keeps the size at stride 1, and batch normalization."""
        options = {"padding": kernel // 2, "bias": False, **options}
        return self.batch_norm(f"{name}.bn", self.conv(name, x, channels, kernel, **options))

    def squeeze(self, name: str, x: Value, channels: int) -> Value:
        """Append squeeze and excitation: each channel is scaled by a function of all means."""
        y = self.global_average_pool(f"{name}.pool", x)
        y = self.silu(f"{name}.act", self.conv(f"{name}.reduce", y, channels, 1))
        y = self.sigmoid(f"{name}.gate", self.conv(f"{name}.expand", y, x.shape[1], 1))
        return self.multiply(f"{name}.scale", x, y)


@dataclass(frozen=True)
class Member:
    """A network of the zoo.

    Attributes:
        build: Builds it.
        left: The number of each op in the folded network, for ops that could be merged; ops that
            are not listed are not counted.
        cheaper: Whether folding saves multiply-accumulates; otherwise they stay the same.
    """

    build: Callable[[], onnx.ModelProto]
    left: dict[str, int]
    cheaper: bool = False


ZOO: dict[str, Member] = {}


def _member(
    name: str, *, cheaper: bool = False, size: int = 16, **left: int
) -> Callable[[Callable[[Zoo], Value]], Callable[[Zoo], Value]]:
    def register(function: Callable[[Zoo], Value]) -> Callable[[Zoo], Value]:
        def build() -> onnx.ModelProto:
            net = Zoo(name, size, seed=0, opset=17)
            return retrained(net.finish(function(net)), len(ZOO))

        counted = {"BatchNormalization": 0, "Mul": 0, "Add": 0, **left}
        ZOO[name] = Member(build, counted, cheaper)
        return function

    return register


@_member("mnasnet", Conv=9, Add=1)
def _mnasnet(net: Zoo) -> Value:
    """A separable block and two inverted bottlenecks, one with a shortcut."""
    x = net.relu("stem.relu", net.conv_bn("stem", net.input, 8, 3, stride=2))
    x = net.relu("dw.relu", net.conv_bn("dw", x, 8, 3, group=8))
    x = net.conv_bn("pw", x, 4, 1)
    for index, (kernel, stride) in enumerate([(3, 2), (5, 1)]):
        y = net.relu(f"{index}.relu1", net.conv_bn(f"{index}.expand", x, 12, 1))
        y = net.conv_bn(f"{index}.dw", y, 12, kernel, stride=stride, group=12)
        y = net.conv_bn(f"{index}.project", net.relu(f"{index}.relu2", y), 4, 1)
        x = net.add(f"{index}.add", x, y) if stride == 1 else y
    return x


@_member("efficientnet", Conv=11, Mul=9, Add=1)
def _efficientnet(net: Zoo) -> Value:
    """Inverted bottlenecks with squeeze and excitation."""
    x = net.silu("stem.act", net.conv_bn("stem", net.input, 8, 3, stride=2))
    for index, stride in enumerate([2, 1]):
        y = net.silu(f"{index}.act1", net.conv_bn(f"{index}.expand", x, 16, 1))
        y = net.conv_bn(f"{index}.dw", y, 16, 5, stride=stride, group=16)
        y = net.squeeze(f"{index}.se", net.silu(f"{index}.act2", y), 4)
        y = net.conv_bn(f"{index}.project", y, 8, 1)
        x = net.add(f"{index}.add", x, y) if stride == 1 else y
    return x


@_member("mixnet", Conv=6, Concat=1, Split=1)
def _mixnet(net: Zoo) -> Value:
    """Depthwise kernels of several sizes on parts of the channels, normalized together."""
    x = net.relu("stem.relu", net.conv_bn("stem", net.input, 12, 3, stride=2))
    x = net.relu("expand.relu", net.conv_bn("expand", x, 12, 1))
    parts = [
        net.conv(f"mix.{k}", part, 4, k, padding=k // 2, group=4, bias=False)
        for k, part in zip((3, 5, 7), net.split("mix.split", x, [4, 4, 4]), strict=True)
    ]
    x = net.relu("mix.relu", net.batch_norm("mix.bn", net.concat("mix.cat", parts)))
    return net.conv_bn("project", x, 8, 1)


@_member("ghostnet", Conv=8, Concat=2, Add=1)
def _ghostnet(net: Zoo) -> Value:
    """Ghost modules: half of the channels, and a cheap depthwise layer of them."""
    x = net.relu("stem.relu", net.conv_bn("stem", net.input, 8, 3, stride=2))
    y = net.relu("1.relu", net.conv_bn("1.primary", x, 8, 1))
    cheap = net.relu("1.cheap.relu", net.conv_bn("1.cheap", y, 8, 3, group=8))
    y = net.concat("1.cat", [y, cheap])
    y = net.conv_bn("dw", y, 16, 3, stride=2, group=16)
    y = net.conv_bn("2.primary", y, 4, 1)
    y = net.concat("2.cat", [y, net.conv_bn("2.cheap", y, 4, 3, group=4)])
    shortcut = net.conv_bn("shortcut.dw", x, 8, 3, stride=2, group=8)
    return net.add("add", y, net.conv_bn("shortcut.pw", shortcut, 8, 1))


@_member("xception", Conv=6, Add=1)
def _xception(net: Zoo) -> Value:
    """Separable convolutions without a node between their two layers."""
    x = net.relu("stem.relu", net.conv_bn("stem", net.input, 8, 3, stride=2))
    shortcut = net.conv_bn("shortcut", x, 16, 1, stride=2)
    for index, channels in enumerate([16, 16], start=1):
        x = net.conv(f"{index}.dw", x, x.shape[1], 3, padding=1, group=x.shape[1], bias=False)
        x = net.conv_bn(f"{index}.pw", x, channels, 1)
        x = net.relu(f"{index}.relu", x) if index == 1 else x
    return net.add("add", net.max_pool("pool", x, 3, stride=2, padding=1), shortcut)


@_member("shufflenet", Conv=7, Concat=1, Add=1, AveragePool=1)
def _shufflenet(net: Zoo) -> Value:
    """Grouped 1x1 convolutions with a shuffle between them, with both kinds of shortcut."""
    x = net.relu("stem.relu", net.conv_bn("stem", net.input, 12, 3, stride=2))
    for index, stride in enumerate([2, 1]):
        y = net.relu(f"{index}.relu1", net.conv_bn(f"{index}.reduce", x, 6, 1, group=3))
        y = net.shuffle(f"{index}.shuffle", y, 3)
        y = net.conv_bn(f"{index}.dw", y, 6, 3, stride=stride, group=6)
        y = net.conv_bn(f"{index}.expand", y, 12 if stride == 2 else 24, 1, group=3)
        if stride == 2:
            x = net.concat(f"{index}.cat", [net.average_pool(f"{index}.pool", x, 3, 2, 1), y])
        else:
            x = net.add(f"{index}.add", x, y)
        x = net.relu(f"{index}.relu2", x)
    return x


@_member("convnext", Conv=3, MatMul=1, Mul=2, Div=1, Add=3, LayerNormalization=2)
def _convnext(net: Zoo) -> Value:
    """A block with a layer scale, which is merged into the second matrix, as is the bias.

    They become a 1x1 convolution after the change of layout. The activation, which runtimes fuse,
    the first bias and the shortcut stay.
    """
    x = net.conv("stem", net.input, 8, 4, stride=4)
    x = net.layer_norm("stem.norm", net.transpose("stem.last", x, [0, 2, 3, 1]))
    x = net.transpose("stem.first", x, [0, 3, 1, 2])
    y = net.conv("dw", x, 8, 7, padding=3, group=8)
    y = net.layer_norm("norm", net.transpose("last", y, [0, 2, 3, 1]))
    y = net.linear("project", net.gelu("gelu", net.linear("expand", y, 32)), 8)
    y = net.constant("Mul", "scale", y, np.ones(8))
    return net.add("add", x, net.transpose("first", y, [0, 3, 1, 2]))


@_member("repvgg", cheaper=True, Conv=3)
def _repvgg(net: Zoo) -> Value:
    """Blocks of three branches, each of which becomes one convolution."""
    x = net.input
    for index, (channels, stride) in enumerate([(8, 2), (8, 1), (12, 2)]):
        y = net.conv_bn(f"{index}.dense", x, channels, 3, stride=stride)
        z = net.conv_bn(f"{index}.point", x, channels, 1, stride=stride)
        y = net.add(f"{index}.add1", y, z)
        if x.shape[1] == channels and stride == 1:
            y = net.add(f"{index}.add2", y, net.batch_norm(f"{index}.identity", x))
        x = net.relu(f"{index}.relu", y)
    return x


@_member("mobileone", cheaper=True, Conv=5)
def _mobileone(net: Zoo) -> Value:
    """Several parallel copies of each layer, depthwise and 1x1."""
    x = net.relu("stem.relu", net.conv_bn("stem", net.input, 8, 3, stride=2))
    for index, (channels, stride) in enumerate([(8, 1), (12, 2)]):
        own = x.shape[1]
        y = net.conv_bn(f"{index}.scale", x, own, 1, stride=stride, group=own)
        for copy in range(3):
            z = net.conv_bn(f"{index}.dw{copy}", x, own, 3, stride=stride, group=own)
            y = net.add(f"{index}.dw{copy}.add", y, z)
        if stride == 1:
            y = net.add(f"{index}.dw.add", y, net.batch_norm(f"{index}.dw.identity", x))
        x = net.relu(f"{index}.dw.relu", y)
        y = net.conv_bn(f"{index}.pw0", x, channels, 1)
        for copy in range(1, 3):
            z = net.conv_bn(f"{index}.pw{copy}", x, channels, 1)
            y = net.add(f"{index}.pw{copy}.add", y, z)
        if channels == own:
            y = net.add(f"{index}.pw.add", y, net.batch_norm(f"{index}.pw.identity", x))
        x = net.relu(f"{index}.pw.relu", y)
    return x
