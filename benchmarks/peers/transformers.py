"""Transformers, and networks of convolutions with attention, after published designs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.convnets import Bypass, conv_bn

__all__ = ["decoder", "efficientvit", "encoder", "levit", "lora", "vit"]


class Attention(nn.Module):
    """Attention of several heads, written out, with rotary positions where wanted.

    Attributes:
        heads: The number of heads.
        rotary: Whether queries and keys are turned by their positions, and see the past alone.
    """

    def __init__(self, d: int, heads: int, *, rotary: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.q, self.k, self.v = (nn.Linear(d, d, bias=bias) for _ in range(3))
        self.out = nn.Linear(d, d, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """What the heads gather."""
        batch, length, d = x.shape
        shape = (batch, length, self.heads, d // self.heads)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.rotary:
            q, k = _turned(q), _turned(k)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        if self.rotary:
            at = torch.arange(length)
            scores = scores.masked_fill(at > at.unsqueeze(1), -1e9)
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, d))


def _turned(x: Tensor) -> Tensor:
    """Rotary positions: pairs of halves are turned by angles that grow with the position."""
    half = x.shape[-1] // 2
    # Floats from the start: of integers TorchScript's exporter writes a graph that runs nowhere.
    at, rates = torch.arange(float(x.shape[-2])), torch.arange(float(half)) / half
    angles = torch.outer(at, 10_000.0**-rates)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class RMSNorm(nn.Module):
    """Division by the root of the mean of squares, and a scale."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(d) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The normalized tokens."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Gated(nn.Module):
    """SwiGLU."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(d, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The gated tokens."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a normalization and with a shortcut."""

    def __init__(self, d: int, heads: int, *, modern: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList([RMSNorm(d) if modern else _layer_norm(d) for _ in range(2)])
        self.attention = Attention(d, heads, rotary=modern, bias=not modern)
        plain = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.feed = Gated(d, 3 * d) if modern else plain

    def forward(self, x: Tensor) -> Tensor:
        """The tokens after the block."""
        x = x + self.attention(self.norms[0](x))
        return x + self.feed(self.norms[1](x))


def _layer_norm(d: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(d)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.1)
    return norm


def encoder(d: int = 192, layers: int = 4) -> nn.Module:
    """Layers of an encoder with normalization first, and a last normalization."""
    blocks = [Block(d, 3) for _ in range(layers)]
    return nn.Sequential(*blocks, _layer_norm(d), nn.Linear(d, 64))


def decoder(d: int = 192, layers: int = 4) -> nn.Module:
    """Layers of a decoder with RMSNorm, rotary positions and gated feed-forward parts."""
    blocks = [Block(d, 3, modern=True) for _ in range(layers)]
    return nn.Sequential(*blocks, RMSNorm(d), nn.Linear(d, 256, bias=False))


class Patches(nn.Module):
    """The patches of an image as tokens, with a token for the class and positions."""

    def __init__(self, d: int, count: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, d, 16, 16)
        self.first = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, count + 1, d) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens."""
        x = self.project(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.positions


class First(nn.Module):
    """The first token."""

    def forward(self, x: Tensor) -> Tensor:
        """The first token."""
        return x[:, 0]


def vit(d: int = 192, layers: int = 4) -> nn.Module:
    """ViT-Ti of fewer layers, for images of 224 x 224."""
    blocks = [Block(d, 3) for _ in range(layers)]
    return nn.Sequential(Patches(d, 196), *blocks, _layer_norm(d), First(), nn.Linear(d, 1000))


class LowRank(nn.Module):
    """A linear layer with an adapter of low rank beside it, as LoRA trains it."""

    def __init__(self, linear: nn.Linear, rank: int = 8, scale: float = 2.0) -> None:
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a = nn.Linear(linear.in_features, rank, bias=False)
        self.b = nn.Linear(rank, linear.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the layer and its adapter."""
        return self.linear(x) + self.scale * self.b(self.a(x))


def lora() -> nn.Module:
    """An encoder with adapters of rank 8 beside queries, values and feed-forward layers."""
    net = encoder()
    for block in net.modules():
        if isinstance(block, Block):
            block.attention.q = LowRank(block.attention.q)  # type: ignore[assignment]
            block.attention.v = LowRank(block.attention.v)  # type: ignore[assignment]
            block.feed[0], block.feed[2] = LowRank(block.feed[0]), LowRank(block.feed[2])  # type: ignore[index,operator,arg-type]
    return net


class LinearNorm(nn.Module):
    """LeViT's linear layer: no bias, and a normalization of the features."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(m, n, bias=False), nn.BatchNorm1d(n)

    def forward(self, x: Tensor) -> Tensor:
        """The normalized features."""
        x = self.linear(x)
        return self.norm(x.flatten(0, 1)).reshape_as(x)


class LevitAttention(nn.Module):
    """LeViT's attention: a bias for each pair of positions, every second query if halved."""

    def __init__(self, m: int, n: int, heads: int, side: int, *, halve: bool = False) -> None:
        super().__init__()
        self.heads, self.side, self.halve = heads, side, halve
        self.ratio = 4 if halve else 2
        self.q = LinearNorm(m, 16 * heads)
        self.kv = LinearNorm(m, (16 + 16 * self.ratio) * heads)
        self.out = LinearNorm(16 * self.ratio * heads, n)
        count = ((side + 1) // 2) ** 2 if halve else side**2
        self.bias = nn.Parameter(torch.randn(heads, count, side**2) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """What the heads gather."""
        batch, length, m = x.shape
        y = x
        if self.halve:
            y = x.view(batch, self.side, self.side, m)[:, ::2, ::2].reshape(batch, -1, m)
        q = self.q(y).view(batch, -1, self.heads, 16).permute(0, 2, 1, 3)
        kv = self.kv(x).view(batch, length, self.heads, -1)
        k, v = kv.split([16, 16 * self.ratio], 3)
        k, v = k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        scores = (q @ k) * 0.25 + self.bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.out(functional.hardswish(mixed))


class Tokens(nn.Module):
    """The positions of an image as tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """The tokens."""
        return x.flatten(2).transpose(1, 2)


class Mean(nn.Module):
    """The mean of the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return x.mean(1)


def levit() -> nn.Module:
    """LeViT-128S: convolutions, then attention whose layers are normalized by batch."""
    layers: list[nn.Module] = []
    for m, n in ((3, 16), (16, 32), (32, 64), (64, 128)):
        layers += [conv_bn(m, n, 3, 2), nn.Hardswish()]
    layers = [*layers[:-1], Tokens()]
    side, before = 14, 128
    for n, heads, depth in ((128, 4, 2), (256, 6, 3), (384, 8, 4)):
        if n != before:
            layers.append(LevitAttention(before, n, before // 16, side, halve=True))
            layers.append(Bypass(_levit_feed(n)))
            side, before = (side + 1) // 2, n
        for _ in range(depth):
            layers += [Bypass(LevitAttention(n, n, heads, side)), Bypass(_levit_feed(n))]
    return nn.Sequential(*layers, Mean(), nn.BatchNorm1d(384), nn.Linear(384, 1000))


def _levit_feed(n: int) -> nn.Module:
    return nn.Sequential(LinearNorm(n, 2 * n), nn.Hardswish(), LinearNorm(2 * n, n))


class Cascade(nn.Module):
    """EfficientViT's attention: each head sees its part and what the head before made."""

    def __init__(self, n: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, width = heads, n // heads
        self.qkv = nn.ModuleList([conv_bn(width, 32 + width) for _ in range(heads)])
        self.near = nn.ModuleList([conv_bn(16, 16, kernel, 1, 16) for kernel in (7, 5, 3, 3)])
        self.out = nn.Sequential(nn.ReLU(), conv_bn(n, n))

    def forward(self, x: Tensor) -> Tensor:
        """What the heads gather."""
        batch, n, height, width = x.shape
        y, found = torch.zeros(()), []
        for i, part in enumerate(x.chunk(self.heads, 1)):
            y = part if i == 0 else y + part
            q, k, v = self.qkv[i](y).split([16, 16, n // self.heads], 1)
            q, k, v = self.near[i](q).flatten(2), k.flatten(2), v.flatten(2)
            scores = (q.transpose(-2, -1) @ k) * 0.25
            y = (v @ scores.softmax(-1).transpose(-2, -1)).view(batch, -1, height, width)
            found.append(y)
        return self.out(torch.cat(found, 1))


def efficientvit() -> nn.Module:
    """EfficientViT-M0 without windows: cascaded attention between depthwise layers."""

    def feed(n: int) -> nn.Module:
        return Bypass(nn.Sequential(conv_bn(n, 2 * n), nn.ReLU(), conv_bn(2 * n, n)))

    layers: list[nn.Module] = []
    for m, n in ((3, 8), (8, 16), (16, 32), (32, 64)):
        layers += [conv_bn(m, n, 3, 2), nn.ReLU()]
    before = 64
    for n, depth in ((64, 1), (128, 2), (192, 3)):
        if n != before:
            merge = [conv_bn(before, 4 * before), nn.ReLU()]
            merge += [conv_bn(4 * before, 4 * before, 3, 2, 4 * before), nn.ReLU()]
            layers += [*merge, conv_bn(4 * before, n)]
            before = n
        for _ in range(depth):
            near = [Bypass(conv_bn(n, n, 3, 1, n)), feed(n)]
            layers += [*near, Bypass(Cascade(n)), Bypass(conv_bn(n, n, 3, 1, n)), feed(n)]
    return nn.Sequential(*layers, Tokens(), Mean(), nn.BatchNorm1d(192), nn.Linear(192, 1000))
