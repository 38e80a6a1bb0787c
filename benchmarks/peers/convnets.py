"""Networks of convolutions as their training form has them, after published designs.

Widths, depths and blocks are those of the papers; what does not touch a linear layer is left out.
Every normalization has statistics and weights as if it had been trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Bypass",
    "conv_bn",
    "convnext",
    "efficientnet",
    "fastvit",
    "ghostnetv3",
    "mobileone",
    "repvgg",
    "repvit",
    "retrain",
]


def retrain(net: nn.Module, seed: int = 0) -> nn.Module:
    """A network in evaluation mode, its normalizations as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            n = module.num_features
            module.weight.data = torch.rand(n, generator=generator) * 0.5 + 0.75
            module.bias.data = torch.randn(n, generator=generator) * 0.1
            module.running_var = torch.rand(n, generator=generator) * 0.5 + 0.75
            module.running_mean = torch.randn(n, generator=generator) * 0.1
    return net.eval()


class Plus(nn.Module):
    """The sum of what several modules make of one input."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        total = self.parts[0](x)
        for part in list(self.parts)[1:]:
            total = total + part(x)
        return total


class Bypass(nn.Module):
    """A module and a shortcut around it, with a scale for each channel where one is wanted."""

    def __init__(self, inner: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.scale = None if channels is None else nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        y = self.inner(x)
        return x + (y if self.scale is None else self.scale * y)


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, hidden: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """The input, each channel times its gate."""
        y = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.expand(y))


def conv_bn(m: int, n: int, kernel: int = 1, stride: int = 1, group: int = 1) -> nn.Sequential:
    """A convolution without bias and its normalization."""
    conv = nn.Conv2d(m, n, kernel, stride, kernel // 2, groups=group, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n))


def _branches(
    m: int, n: int, kernel: int, stride: int = 1, group: int = 1, copies: int = 1
) -> Plus:
    """MobileOne's training form: copies, a 1x1 and a normalization, added."""
    parts: list[nn.Module] = [nn.BatchNorm2d(m)] if m == n and stride == 1 else []
    if kernel > 1:
        parts.append(conv_bn(m, n, 1, stride, group))
    return Plus([*parts, *(conv_bn(m, n, kernel, stride, group) for _ in range(copies))])


def _head(channels: int, classes: int = 1000) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _stages(depths: Sequence[int], widths: Sequence[int]) -> Iterable[tuple[int, int, bool]]:
    """Per block its channels, those of the next and whether it is the first of its stage."""
    before = widths[0]
    for depth, width in zip(depths, widths, strict=True):
        for index in range(depth):
            yield before, width, index == 0
            before = width


def mobileone() -> nn.Module:
    """MobileOne-S0: depthwise and 1x1 layers, each over-parameterized four times."""
    layers: list[nn.Module] = [_branches(3, 48, 3, 2), nn.ReLU()]
    for m, n, first in _stages((2, 8, 10, 1), (48, 128, 256, 1024)):
        layers += [_branches(m, m, 3, 2 if first else 1, m, 4), nn.ReLU()]
        layers += [_branches(m, n, 1, copies=4), nn.ReLU()]
    return nn.Sequential(*layers, *_head(1024))


def repvgg() -> nn.Module:
    """RepVGG-A0: a 3x3, a 1x1 and a normalization side by side."""
    layers: list[nn.Module] = [_branches(3, 48, 3, 2), nn.ReLU()]
    for m, n, first in _stages((2, 4, 14, 1), (48, 96, 192, 1280)):
        layers += [_branches(m, n, 3, 2 if first else 1), nn.ReLU()]
    return nn.Sequential(*layers, *_head(1280))


def repvit() -> nn.Module:
    """RepViT-M0.9: depthwise branches under one more normalization, and 1x1 pairs with GELU."""

    def mixer(n: int, squeeze: bool) -> list[nn.Module]:
        plain = nn.Conv2d(n, n, 1, groups=n)
        token = nn.Sequential(
            Plus([conv_bn(n, n, 3, 1, n), plain, nn.Identity()]), nn.BatchNorm2d(n)
        )
        return [token, *([Squeeze(n, n // 4)] if squeeze else []), Bypass(_pair(n, 2))]

    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.GELU(), conv_bn(24, 48, 3, 2)]
    for i, (m, n, first) in enumerate(_stages((3, 4, 16, 3), (48, 96, 192, 384))):
        if first and m != n:
            layers += [
                *mixer(m, False),
                conv_bn(m, m, 3, 2, m),
                conv_bn(m, n),
                Bypass(_pair(n, 2)),
            ]
        else:
            layers += mixer(n, i % 2 == 0)
    return nn.Sequential(*layers, *_head(384))


def _pair(n: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(conv_bn(n, ratio * n), nn.GELU(), conv_bn(ratio * n, n))


class RepMixer(nn.Module):
    """FastViT's token mixer: a shortcut, and what branches differ from a normalization."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(n)
        self.mixer = _branches(n, n, 3, 1, n)
        self.scale = nn.Parameter(torch.rand(n, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The mixed tokens."""
        return x + self.scale * (self.mixer(x) - self.norm(x))


def fastvit() -> nn.Module:
    """FastViT-T8, with mixers instead of attention in the last stage too."""

    def feed(n: int) -> nn.Module:
        inner = nn.Sequential(
            conv_bn(n, n, 7, 1, n), nn.Conv2d(n, 3 * n, 1), nn.GELU(), nn.Conv2d(3 * n, n, 1)
        )
        return Bypass(inner, n)

    layers: list[nn.Module] = []
    for m, n, kernel, stride, group in ((3, 48, 3, 2, 1), (48, 48, 3, 2, 48), (48, 48, 1, 1, 1)):
        layers += [_branches(m, n, kernel, stride, group), nn.GELU()]
    for m, n, first in _stages((2, 2, 4, 2), (48, 96, 192, 384)):
        if first and m != n:
            large = Plus([conv_bn(m, n, 7, 2, m), conv_bn(m, n, 3, 2, m)])
            layers += [large, nn.GELU(), _branches(n, n, 1), nn.GELU()]
        layers += [RepMixer(n), feed(n)]
    return nn.Sequential(*layers, *_head(384))


class Ghost(nn.Module):
    """GhostNetV3's module: half of the channels, and what cheap branches make of them."""

    def __init__(self, m: int, n: int, act: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        half = -(-n // 2)
        self.channels, self.act = n, act
        self.primary = _branches(m, half, 1, copies=3)
        self.cheap = _branches(half, half, 3, 1, half, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves."""
        x = self.primary(x)
        x = x if self.act is None else self.act(x)
        y = self.cheap(x)
        y = y if self.act is None else self.act(y)
        return torch.cat([x, y], 1)[:, : self.channels]


class GhostBlock(nn.Module):
    """Two ghost modules, with a depthwise layer between them where the size is halved."""

    def __init__(self, m: int, mid: int, n: int, kernel: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [Ghost(m, mid, functional.relu)]
        if stride > 1:
            layers.append(_branches(mid, mid, kernel, stride, mid, 3))
        if squeeze:
            layers.append(Squeeze(mid, mid // 4, nn.Hardsigmoid))
        self.main = nn.Sequential(*layers, Ghost(mid, n, None))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or m != n:
            self.shortcut = nn.Sequential(conv_bn(m, m, kernel, stride, m), conv_bn(m, n))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        return self.main(x) + self.shortcut(x)


_GHOST = (
    (3, 16, 16, 1, False), (3, 48, 24, 2, False), (3, 72, 24, 1, False), (5, 72, 40, 2, True),
    (5, 120, 40, 1, True), (3, 240, 80, 2, False), (3, 200, 80, 1, False), (3, 184, 80, 1, False),
    (3, 184, 80, 1, False), (3, 480, 112, 1, True), (3, 672, 112, 1, True), (5, 672, 160, 2, True),
    (5, 960, 160, 1, False), (5, 960, 160, 1, True), (5, 960, 160, 1, False),
    (5, 960, 160, 1, True),
)  # fmt: skip


def ghostnetv3() -> nn.Module:
    """GhostNetV3 1.0x: ghost modules whose halves are over-parameterized three times."""
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2), nn.ReLU()]
    before = 16
    for kernel, mid, n, stride, squeeze in _GHOST:
        layers.append(GhostBlock(before, mid, n, kernel, stride, squeeze))
        before = n
    return nn.Sequential(*layers, conv_bn(160, 960), nn.ReLU(), *_head(960))


def efficientnet() -> nn.Module:
    """EfficientNet-like inverted bottlenecks with SiLU and squeeze and excitation."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2), nn.SiLU()]
    for m, n, stride in ((32, 24, 2), (24, 40, 2), (40, 40, 1), (40, 80, 2), (80, 80, 1)):
        inner = nn.Sequential(
            conv_bn(m, 6 * m), nn.SiLU(), conv_bn(6 * m, 6 * m, 3, stride, 6 * m), nn.SiLU(),
            Squeeze(6 * m, m // 4), conv_bn(6 * m, n),
        )  # fmt: skip
        layers.append(Bypass(inner) if m == n and stride == 1 else inner)
    return nn.Sequential(*layers, *_head(80))


class ConvNextBlock(nn.Module):
    """A depthwise layer, then normalization and two products on the last axis, scaled."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(n, n, 7, padding=3, groups=n)
        self.norm = nn.LayerNorm(n, eps=1e-6)
        self.first, self.second = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)
        self.scale = nn.Parameter(torch.rand(n))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the block and its input."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.second(functional.gelu(self.first(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalized image."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """ConvNeXt of the widths 40 to 320 (atto)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 40, 4, 4), ChannelNorm(40, eps=1e-6)]
    for m, n, _ in _stages((2, 2, 6, 2), (40, 80, 160, 320)):
        if m != n:
            layers += [ChannelNorm(m, eps=1e-6), nn.Conv2d(m, n, 2, 2)]
        layers.append(ConvNextBlock(n))
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(320), nn.Linear(320, 1000)]
    return nn.Sequential(*itertools.chain(layers, last))
