"""What expanding today's compact networks does: `python -m benchmarks.modern`.

The networks have the layers and widths of timm's MobileNetV3-Small, EfficientNet-Lite0 and
ConvNeXt-Atto, and blocks like MobileViT's; weights are random, for nothing here depends on them.
Parameters and products are of the whole network. Steps are SGD's with momentum, one thread: CPU
time, the least of all rounds, which run compact and expanded in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import onnx
import torch

import onnx_expand
from benchmarks.sketch import Sketch
from benchmarks.train import Trainee
from onnx_expand.train import to_torch
from onnx_expand.train.composed import composed

__all__ = ["NETWORKS", "convnext", "efficientnet_lite", "mobilenetv3", "mobilevit"]

_STRATEGIES = ("ck", "cl", "ck+cl", "ck+cl+fc")


class _Net(Sketch):
    """A network in the making, whose values know their channels."""

    def conv(self, x: str, m: int, n: int, k: int, stride: int = 1, group: int = 1) -> str:
        """A convolution that keeps the size but for its stride, with normalization."""
        pads = [(k - 1) // 2] * 4
        weight = self.weight(n, m // group, k, k)
        y = self.add("Conv", x, weight, pads=pads, strides=[stride] * 2, group=group)
        ones = [self.constant(torch.ones(n).numpy()) for _ in range(2)]
        zeros = [self.constant(torch.zeros(n).numpy()) for _ in range(2)]
        return str(self.add("BatchNormalization", y, ones[0], zeros[0], zeros[1], ones[1]))

    def plain(self, x: str, m: int, n: int, k: int = 1, stride: int = 1) -> str:
        """A convolution with a bias, without pads."""
        parameters = self.weight(n, m, k, k), self.weight(n)
        return str(self.add("Conv", x, *parameters, strides=[stride] * 2))

    def norm(self, x: str, n: int) -> str:
        """Layer normalization of channels."""
        scale, shift = self.constant(torch.ones(n).numpy()), self.constant(torch.zeros(n).numpy())
        rows = self.add("Transpose", x, perm=[0, 2, 3, 1])
        rows = self.add("LayerNormalization", rows, scale, shift)
        return str(self.add("Transpose", rows, perm=[0, 3, 1, 2]))

    def relu6(self, x: str) -> str:
        """A ReLU up to 6."""
        low, high = self.weight(), self.weight()
        self.constants[-2:] = [
            onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value])
            for name, value in ((low, 0.0), (high, 6.0))
        ]
        return str(self.add("Clip", x, low, high))

    def squeezed(self, x: str, n: int) -> str:
        """Squeeze and excitation by a quarter, in multiples of 8."""
        inner = max(8, (n // 4 + 4) // 8 * 8)
        y = self.add("Relu", self.plain(self.add("GlobalAveragePool", x), n, inner))
        return str(self.add("Mul", x, self.add("HardSigmoid", self.plain(y, inner, n))))

    def classified(self, x: str, m: int, inner: int, size: int) -> onnx.ModelProto:
        """Pooling, a hidden layer where it has a width, and a thousand classes."""
        y = self.add("Flatten", self.add("GlobalAveragePool", x))
        if inner:
            y = self.add(
                "HardSwish", self.add("Gemm", y, self.weight(m, inner), self.weight(inner))
            )
        y = self.add("Gemm", y, self.weight(inner or m, 1000), self.weight(1000))
        return self.model({"x": ["N", 3, size, size]}, {y: ["N", 1000]}, opset=20)


def mobilenetv3(size: int = 64) -> onnx.ModelProto:
    """MobileNetV3-Small (Howard et al. 2019, table 2)."""
    net, m = _Net(), 16
    x = net.add("HardSwish", net.conv("x", 3, m, 3, 2))
    rows = (
        (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
        (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1),
        (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
        (5, 576, 96, 1, 1, 1),
    )  # fmt: skip
    for k, inner, n, squeeze, hard, stride in rows:
        bent = "HardSwish" if hard else "Relu"
        y = x if inner == m else net.add(bent, net.conv(x, m, inner, 1))
        y = net.add(bent, net.conv(y, inner, inner, k, stride, inner))
        y = net.conv(net.squeezed(y, inner) if squeeze else y, inner, n, 1)
        x, m = (net.add("Add", x, y) if stride == 1 and m == n else y), n
    return net.classified(net.add("HardSwish", net.conv(x, m, 576, 1)), 576, 1024, size)


def efficientnet_lite(size: int = 64) -> onnx.ModelProto:
    """EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeezing."""
    net, m = _Net(), 32
    x = net.relu6(net.conv("x", 3, m, 3, 2))
    rows = (
        (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 2, 3), (5, 6, 112, 1, 3),
        (5, 6, 192, 2, 4), (3, 6, 320, 1, 1),
    )  # fmt: skip
    for k, factor, n, first, blocks in rows:
        for block in range(blocks):
            stride, inner = (first if block == 0 else 1), factor * m
            y = x if factor == 1 else net.relu6(net.conv(x, m, inner, 1))
            y = net.relu6(net.conv(y, inner, inner, k, stride, inner))
            y = net.conv(y, inner, n, 1)
            x, m = (net.add("Add", x, y) if stride == 1 and m == n else y), n
    return net.classified(net.relu6(net.conv(x, m, 1280, 1)), 1280, 0, size)


def convnext(size: int = 64) -> onnx.ModelProto:
    """ConvNeXt-Atto, its pointwise layers as convolutions."""
    net, m = _Net(), 40
    x = net.norm(net.plain("x", 3, m, 4, 4), m)
    for stage, blocks in enumerate((2, 2, 6, 2)):
        if stage:
            x, m = net.plain(net.norm(x, m), m, 2 * m, 2, 2), 2 * m
        for _ in range(blocks):
            weight, bias = net.weight(m, 1, 7, 7), net.weight(m)
            y = net.norm(net.add("Conv", x, weight, bias, pads=[3] * 4, group=m), m)
            y = net.plain(net.add("Gelu", net.plain(y, m, 4 * m)), 4 * m, m)
            x = net.add("Add", x, net.add("Mul", y, net.weight(m, 1, 1)))
    return net.classified(net.norm(x, m), m, 0, size)


def mobilevit(size: int = 64) -> onnx.ModelProto:
    """Inverted residuals and blocks of attention over all positions, as wide as MobileViT-XXS."""
    net, m = _Net(), 16
    x = net.add("HardSwish", net.conv("x", 3, m, 3, 2))
    for n, stride, width in ((16, 1, 0), (24, 2, 0), (24, 1, 0), (48, 2, 64), (64, 2, 80)):
        y = net.add("HardSwish", net.conv(x, m, 2 * m, 1))
        y = net.add("HardSwish", net.conv(y, 2 * m, 2 * m, 3, stride, 2 * m))
        y = net.conv(y, 2 * m, n, 1)
        x, m = (net.add("Add", x, y) if stride == 1 and m == n else y), n
        if width:
            x = _attended(net, x, m, width)
    return net.classified(net.add("HardSwish", net.conv(x, m, 320, 1)), 320, 0, size)


def _attended(net: _Net, x: str, m: int, width: int) -> str:
    """A 3x3 convolution, attention of one head and two dense layers, and 3x3 over both."""
    y = net.add("Conv", net.add("HardSwish", net.conv(x, m, m, 3)), net.weight(width, m, 1, 1))
    shape = net.add("Shape", y)
    flat = net.add("Reshape", y, net.constant([0, width, -1]))
    rows = net.add("Transpose", flat, perm=[0, 2, 1])
    q, k, v = (net.add("MatMul", rows, net.weight(width, width)) for _ in range(3))
    scores = net.add("Softmax", net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 1])))
    mixed = net.add("MatMul", net.add("MatMul", scores, v), net.weight(width, width))
    rows = net.add("Add", rows, mixed)
    inner = net.add("HardSwish", net.add("MatMul", rows, net.weight(width, 2 * width)))
    rows = net.add("Add", rows, net.add("MatMul", inner, net.weight(2 * width, width)))
    y = net.add("Reshape", net.add("Transpose", rows, perm=[0, 2, 1]), shape)
    y = net.add("HardSwish", net.conv(y, width, m, 1))
    both = net.add("Concat", x, y, axis=1)
    return str(net.add("HardSwish", net.conv(both, 2 * m, m, 3)))


NETWORKS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "MobileNetV3-Small": mobilenetv3,
    "EfficientNet-Lite0": efficientnet_lite,
    "ConvNeXt-Atto": convnext,
    "MobileViT-like": mobilevit,
}


def rows(name: str, size: int, batch: int, rounds: int) -> list[str]:
    """The lines of one network: compact, and expanded by each strategy that does something."""
    model = NETWORKS[name](size)
    compact = onnx_expand.inspect(model)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    trainees = [Trainee(to_torch(model), x)]
    cells: list[list[str]] = []
    for strategy in _STRATEGIES:
        expanded, report = onnx_expand.expand(model, strategy=strategy, report=True)
        if not report.expanded:
            continue
        costs = onnx_expand.inspect(expanded)
        trainees.append(Trainee(composed(to_torch(expanded, execution="layerwise"), "auto"), x))
        cells.append(
            [
                f"{name}, `{strategy}`",
                str(len(report.expanded)),
                f"{costs.parameters / compact.parameters:.2f}",
                _ratio(costs.macs, compact.macs),
            ]
        )
    least = [float("inf")] * len(trainees)
    for trainee in trainees:
        trainee.step()
    for _ in range(rounds):
        for place, trainee in enumerate(trainees):
            least[place] = min(least[place], trainee.step()[1])
    macs = "" if compact.macs is None else f"{compact.macs / 1e6:.1f} M products"
    title = f"{name}: {compact.parameters:,} parameters, {macs}, {1e3 * least[0]:.0f} ms a step"
    lines = [f"| {title} | | | | |"]
    for row, time in zip(cells, least[1:], strict=True):
        lines.append("| " + " | ".join([*row, f"{time / least[0]:.2f}"]) + " |")
    return lines


def _ratio(own: int | None, base: int | None) -> str:
    return "" if not own or not base else f"{own / base:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments: Any = parser.parse_args()
    torch.set_num_threads(1)
    print("| | layers expanded | parameters | products, layer by layer | step, `auto` |")
    print("|---|---|---|---|---|")
    for name in NETWORKS:
        for line in rows(name, arguments.size, arguments.batch, arguments.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
