"""Composing and adding kernels, in torch, with gradients.

The formulas are those of `geometry` and `affine`; here the numbers are tensors that are trained.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.geometry import Geometry

__all__ = ["Kernel", "Meeting", "Place", "composed_kernel", "meeting", "place", "summed"]

Kernel: TypeAlias = "tuple[torch.Tensor, torch.Tensor | None]"
"""A weight [n, m / group, *kernel] and a bias [n]."""


class Meeting(NamedTuple):
    """How two kernels are composed: everything that their geometries decide.

    Attributes:
        kind: `after` or `before` where the second or the first has a single tap, else `wide`.
        rank: Spatial axes of the result.
        groups: Of the first, of the second, of the result.
        kernel: Taps of the result, per axis.
        taps: For each pair of taps, those of the first varying fastest, the tap of the result.
    """

    kind: str
    rank: int
    groups: tuple[int, int, int]
    kernel: tuple[int, ...]
    taps: tuple[int, ...]


class Place(NamedTuple):
    """How a kernel is embedded in a larger one.

    Attributes:
        rank: Spatial axes of the result.
        groups: Of the kernel and of the result.
        spread: Per axis, how far apart its taps lie on the result's grid.
        widths: Zeros around it, the last axis first, as torch wants them.
    """

    rank: int
    groups: tuple[int, int]
    spread: tuple[int, ...]
    widths: tuple[int, ...]


def meeting(one: Geometry, two: Geometry) -> Meeting:
    """How to compose kernels of two geometries, which compose.

    Tap t2 of the second and t1 of the first meet at `t2 d2 s1 + t1 d1`.
    """
    rank = max(one.rank, two.rank)
    one, two = one.at_rank(rank), two.at_rank(rank)
    groups = one.group, two.group, math.gcd(one.group, two.group)
    steps1 = [d if k > 1 else 0 for k, d in zip(one.kernel, one.dilations, strict=True)]
    taps2 = zip(two.kernel, two.dilations, one.strides, strict=True)
    steps2 = [d * s if k > 1 else 0 for k, d, s in taps2]
    grid = [math.gcd(a, b) or 1 for a, b in zip(steps1, steps2, strict=True)]
    kind = "wide"
    if set(two.kernel) <= {1}:
        kind = "after"
    elif set(one.kernel) <= {1} and set(one.strides) <= {1}:
        kind = "before"
    kernel, index = _meeting_taps(one, two, grid)
    return Meeting(kind, rank, groups, kernel, index if kind == "wide" else ())


def _meeting_taps(
    one: Geometry, two: Geometry, grid: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The result's taps per axis, and for each pair of taps which of them it adds to."""
    ends, places = [], []
    for axis, step in enumerate(grid):
        first = [t * one.dilations[axis] // step for t in range(one.kernel[axis])]
        jump = two.dilations[axis] * one.strides[axis]
        second = [t * jump // step for t in range(two.kernel[axis])]
        places.append((first, second))
        ends.append(first[-1] + second[-1] + 1)
    index = []
    for later in itertools.product(*(second for _, second in places)):
        for earlier in itertools.product(*(first for first, _ in places)):
            flat = 0
            for extent, a, b in zip(ends, earlier, later, strict=True):
                flat = flat * extent + a + b
            index.append(flat)
    return tuple(ends), tuple(index)


def place(small: Geometry, big: Geometry) -> Place:
    """How to embed a kernel of one geometry in that of another, which contains it."""
    small = small.at_rank(big.rank)
    spread, widths = [], list[int]()
    for axis in range(big.rank):
        step = big.dilations[axis]
        spread.append(small.dilations[axis] // step if small.kernel[axis] > 1 else 1)
        before = (big.begins[axis] - small.begins[axis]) // step
        reach = (small.kernel[axis] - 1) * spread[-1] + 1
        widths = [before, big.kernel[axis] - before - reach, *widths]
    return Place(big.rank, (small.group, big.group), tuple(spread), tuple(widths))


def composed_kernel(first: Kernel, second: Kernel, how: Meeting) -> Kernel:
    """The kernel of `second` after `first`."""
    group1, group2, group = how.groups
    w1 = _regrouped(_at_rank(first[0], how.rank), group1, group)
    w2 = _regrouped(_at_rank(second[0], how.rank), group2, group)
    if how.kind == "after":
        weight = _after_point(w1, w2, group)
    elif how.kind == "before":
        weight = _before_point(w1, w2, group)
    else:
        weight = _wide(w1, w2, how)
    return weight, _bias(first[1], w2, second[1], group)


def _after_point(w1: torch.Tensor, w2: torch.Tensor, group: int) -> torch.Tensor:
    p, width = w1.shape[:2]
    n = w2.shape[0]
    if group == 1:
        product = w2.reshape(n, p) @ w1.reshape(p, -1)
    else:
        left = w2.reshape(group, n // group, p // group)
        product = left @ w1.reshape(group, p // group, -1)
    return product.reshape(n, width, *w1.shape[2:])


def _before_point(w1: torch.Tensor, w2: torch.Tensor, group: int) -> torch.Tensor:
    p, width = w1.shape[:2]
    n, inner = w2.shape[:2]
    left = w2.reshape(group, n // group, inner, -1).transpose(2, 3)
    right = w1.reshape(group, 1, p // group, width)
    product = left @ right  # [group, n / group, taps, m / group]
    return product.transpose(2, 3).reshape(n, width, *w2.shape[2:])


def _wide(w1: torch.Tensor, w2: torch.Tensor, how: Meeting) -> torch.Tensor:
    """Both kernels have taps: one product for all pairs of them, added up where they meet."""
    group = how.groups[2]
    n, p, width = w2.shape[0], w1.shape[0], w1.shape[1]
    left = w2.reshape(group, n // group, p // group, -1).transpose(2, 3)
    taps2 = left.shape[2]
    left = left.reshape(group, n // group * taps2, p // group)
    pairs = left @ w1.reshape(group, p // group, -1)
    pairs = pairs.reshape(n, taps2, width, -1).transpose(1, 2).reshape(n, width, -1)
    index = torch.tensor(how.taps, dtype=torch.int64, device=w1.device)
    total = pairs.new_zeros(n, width, math.prod(how.kernel))
    return total.index_add(2, index, pairs).reshape(n, width, *how.kernel)


def _bias(
    b1: torch.Tensor | None, w2: torch.Tensor, b2: torch.Tensor | None, group: int
) -> torch.Tensor | None:
    if b1 is None:
        return b2
    taps = w2.flatten(2).sum(-1) if w2.ndim > 2 else w2  # [n, p / group]
    n, inner = taps.shape
    carried = taps.reshape(group, n // group, inner) @ b1.reshape(group, inner, 1)
    carried = carried.reshape(n)
    return carried if b2 is None else carried + b2


def summed(kernels: Sequence[Kernel], places: Sequence[Place]) -> Kernel:
    """The sum of kernels of one input, embedded in the union of their supports."""
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    for (w, b), how in zip(kernels, places, strict=True):
        own = _regrouped(_at_rank(w, how.rank), *how.groups)
        own = F.pad(_spread(own, how.spread), how.widths) if how.rank else own
        weight = own if weight is None else weight + own
        if b is not None:
            bias = b if bias is None else bias + b
    assert weight is not None
    return weight, bias


def _at_rank(weight: torch.Tensor, rank: int) -> torch.Tensor:
    if weight.ndim == rank + 2:
        return weight
    return weight.reshape(*weight.shape[:2], *[1] * rank)


def _spread(weight: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """A kernel with zeros between its taps."""
    for axis, factor in enumerate(factors, 2):
        if factor == 1:
            continue
        taps = weight.shape[axis]
        apart = torch.stack([weight, *[torch.zeros_like(weight)] * (factor - 1)], axis + 1)
        weight = apart.flatten(axis, axis + 1).narrow(axis, 0, (taps - 1) * factor + 1)
    return weight


def _regrouped(weight: torch.Tensor, group: int, coarser: int) -> torch.Tensor:
    """[n, m / group, ...] with the blocks of fewer groups, zeros between those there were."""
    if group == coarser:
        return weight
    n, width = weight.shape[:2]
    ratio = group // coarser
    blocks = weight.reshape(coarser, ratio, n // group, 1, width, -1)
    places = torch.eye(ratio, dtype=weight.dtype, device=weight.device)
    dense = blocks * places.reshape(1, ratio, 1, ratio, 1, 1)
    return dense.reshape(n, ratio * width, *weight.shape[2:])
