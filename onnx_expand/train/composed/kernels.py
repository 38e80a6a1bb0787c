"""Compose the kernels of two maps in torch, so that gradients flow to both.

The formulas are those of `affine`, without the decisions: `Geometry` decides beforehand whether a
composition is exact at borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.algebra.geometry import Geometry

__all__ = ["Numbers", "added", "after", "embedded", "work"]

_TRANSPOSE: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


# From this many products per tap on, one large product is faster than one per output.
_MANY = 1 << 16


class Numbers(NamedTuple):
    """The values of a map, which its geometry does not contain.

    Attributes:
        weight: [n, m / group, *kernel]; None for a map that only adds a bias.
        bias: [n], or None.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None


def after(f: Geometry, g: Geometry, first: Numbers, second: Numbers) -> Numbers:
    """Compute the values of g after f, ignoring pads and biases of the geometries.

    Args:
        f: The geometry of the first map.
        g: The geometry of the second map, of the same rank.
        first: The values of f.
        second: The values of g.
    """
    w1, b1 = first
    w2, b2 = second
    if w1 is None or w2 is None:
        weight = w2 if w1 is None else w1
        carried = b1 if w2 is None or b1 is None else _carried(g, w2, b1)
        return Numbers(weight, _sum(carried, b2))
    if f.is_per_channel:
        # Each input channel of g is scaled.
        blocks = w2.reshape(g.group, g.out_channels // g.group, w2.shape[1], -1)
        weight = (blocks * w1.reshape(g.group, 1, -1, 1)).reshape(w2.shape)
        return Numbers(weight, _sum(_behind(g, w2, b1), b2))
    if g.is_per_channel:
        weight = w1 * w2.reshape(-1, 1, *[1] * f.rank)
        return Numbers(weight, _sum(None if b1 is None else b1 * w2.reshape(-1), b2))
    if math.prod(f.kernel) == 1 or math.prod(g.kernel) == 1:
        weight = _contracted(f, g, w1, w2)
    else:
        weight = _spread(f, g, w1, w2)
    return Numbers(weight, _sum(_behind(g, w2, b1), b2))


def work(f: Geometry, g: Geometry) -> int:
    """Return the multiplications of composing g after f."""
    group = math.gcd(f.group, g.group)
    size = math.prod(f.weight_shape)
    if f.group > group and g.group > group:
        size = size * f.group // group  # expanded with zeros first
    if f.is_per_channel or g.is_per_channel:
        return max(size, math.prod(g.weight_shape))
    return math.prod(g.weight_shape) * size // f.out_channels


def added(a: Numbers, b: Numbers) -> Numbers:
    """Add two maps of one geometry."""
    assert a.weight is not None
    assert b.weight is not None
    return Numbers(a.weight + b.weight, _sum(a.bias, b.bias))


def embedded(numbers: Numbers, own: Geometry, into: Geometry) -> Numbers:
    """Convert a map to a geometry with a larger kernel, smaller dilations and fewer groups."""
    assert numbers.weight is not None
    weight = _regrouped(numbers.weight, own.group, into.group)
    if (own.kernel, own.dilations) == (into.kernel, into.dilations):
        return Numbers(weight, numbers.bias)
    spans = []
    for axis, step in enumerate(into.dilations):
        start = (into.begins[axis] - own.begins[axis]) // step
        stride = own.dilations[axis] // step if own.kernel[axis] > 1 else 1
        spans.append(slice(start, start + (own.kernel[axis] - 1) * stride + 1, stride))
    whole = weight.new_zeros(into.weight_shape)
    whole[(slice(None), slice(None), *spans)] = weight
    return Numbers(whole, numbers.bias)


def _sum(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _behind(g: Geometry, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else _carried(g, weight, bias)


def _carried(g: Geometry, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Apply g to a constant: the sum of its taps times the bias."""
    taps = weight.flatten(2).sum(dim=2) if math.prod(g.kernel) > 1 else weight.flatten(1)
    if g.group == 1:
        return taps.reshape(g.out_channels, -1) @ bias
    blocks = taps.reshape(g.group, g.out_channels // g.group, -1)
    return (blocks @ bias.reshape(g.group, -1, 1)).reshape(-1)


def _regrouped(weight: torch.Tensor, group: int, coarser: int) -> torch.Tensor:
    """Expand the weight to the blocks of `coarser` groups, with zeros between those of `group`."""
    if group == coarser:
        return weight
    (n, width), ratio = weight.shape[:2], group // coarser
    blocks = weight.reshape(coarser, ratio, n // group, 1, width, -1)
    eye = torch.eye(ratio, dtype=weight.dtype, device=weight.device)
    whole = blocks * eye.reshape(1, ratio, 1, ratio, 1, 1)
    return whole.reshape(n, width * ratio, *weight.shape[2:])


def _contracted(f: Geometry, g: Geometry, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Contract [n, p / g2, *k2] with [p, m / g1, *k1] over p, where k1 or k2 is all ones."""
    group1, group2, group = f.group, g.group, math.gcd(f.group, g.group)
    if group1 > group and group2 > group:
        w1, group1 = _regrouped(w1, group1, group), group
    n, p, m = w2.shape[0], w1.shape[0], w1.shape[1]
    ratio = group1 // group
    blocks = group2 * ratio
    taps = math.prod(g.kernel)
    if taps == 1:
        left = w2.reshape(group2, n // group2, ratio, p // blocks).transpose(1, 2)
        right = w1.reshape(group2, ratio, p // blocks, -1)
        # [group2, ratio, n / group2, m * taps]
        product = left[0, 0] @ right[0, 0] if blocks == 1 else left @ right
        product = product.reshape(group2, ratio, n // group2, -1).transpose(1, 2)
        return product.reshape(n, m * ratio, *f.kernel)
    if n // group2 * p * m > _MANY:
        multiply = _as_convolution if w2.device.type == "cpu" else _as_matrices
        return multiply(w1, w2.flatten(2), group2, ratio).reshape(n, m * ratio, *g.kernel)
    right = w2.reshape(group2, n // group2, ratio, p // blocks, taps)
    left = w1.reshape(group2, 1, ratio, p // blocks, m).transpose(3, 4)
    return (left @ right).reshape(n, m * ratio, *g.kernel)


def _as_convolution(w1: torch.Tensor, w2: torch.Tensor, group2: int, ratio: int) -> torch.Tensor:
    """Multiply by a convolution with the rows of w2 as signals (fastest on a CPU, no copies)."""
    n, p, m, blocks = w2.shape[0], w1.shape[0], w1.shape[1], group2 * ratio
    signals = w2.reshape(group2, n // group2, p // group2, -1).transpose(0, 1)
    signals = signals.reshape(n // group2, p, -1)
    weight = w1.reshape(blocks, p // blocks, m).transpose(1, 2).reshape(-1, p // blocks, 1)
    product = F.conv1d(signals, weight, groups=blocks)
    product = product.reshape(n // group2, group2, m * ratio, -1).transpose(0, 1)
    return product.reshape(n, m * ratio, -1)


def _as_matrices(w1: torch.Tensor, w2: torch.Tensor, group2: int, ratio: int) -> torch.Tensor:
    """Multiply by one matrix product per block, which a GPU computes in full float32."""
    n, p, m, blocks = w2.shape[0], w1.shape[0], w1.shape[1], group2 * ratio
    left = w2.reshape(group2, n // group2, ratio, p // blocks, -1).permute(0, 2, 1, 4, 3)
    left = left.reshape(group2, ratio, -1, p // blocks)
    product = left @ w1.reshape(group2, ratio, p // blocks, m)
    product = product.reshape(group2, ratio, n // group2, -1, m).permute(0, 2, 1, 4, 3)
    return product.reshape(n, m * ratio, -1)


def _spread(f: Geometry, g: Geometry, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Compose kernels of several taps: every tap of g adds a shifted copy of f's kernel."""
    group1, group2, group = f.group, g.group, math.gcd(f.group, g.group)
    if group1 > group and group2 > group:
        w1, group1 = _regrouped(w1, group1, group), group
    n, p, m = w2.shape[0], w1.shape[0], w1.shape[1]
    steps, gaps = _steps(f, g)
    images = w2.reshape(group2, n // group2, p // group2, *g.kernel)
    images = images.transpose(0, 1).reshape(n // group2, p, *g.kernel)
    groups = max(group1, group2)
    result: torch.Tensor = _TRANSPOSE[f.rank](images, w1, None, steps, 0, 0, groups, gaps)
    kernel = result.shape[2:]
    result = result.reshape(n // group2, group2, m * group1 // group, *kernel)
    return result.transpose(0, 1).reshape(n, m * group1 // group, *kernel)


def _steps(f: Geometry, g: Geometry) -> tuple[Sequence[int], Sequence[int]]:
    """Return the distances between taps of g, and of f, in taps of the result, per axis."""
    steps, gaps = [], []
    for axis in range(f.rank):
        step = g.dilations[axis] * f.strides[axis] if g.kernel[axis] > 1 else 0
        gap = f.dilations[axis] if f.kernel[axis] > 1 else 0
        unit = math.gcd(step, gap) or 1
        steps.append(step // unit or 1)
        gaps.append(gap // unit or 1)
    return steps, gaps
