"""Kernels with a single 1 in a corner, which shift their input, and chains composed of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_expand.factorize.kernels import Array

__all__ = ["corners", "filled_up", "selector", "shifts"]


def corners(
    widths: Sequence[int], taps: Sequence[tuple[int, ...]], wanted: Array
) -> list[Array] | None:
    """Return an exact chain of corner shifts, or None if the widths do not suffice."""
    before: list[Array] = []
    after: list[Array] = []
    left, right, rest = 0, len(taps) - 1, wanted
    while left < right:
        ends = [shifts(taps[i]) for i in (left, right)]
        if widths[left + 1] >= len(ends[0]) * rest.shape[2]:
            before.append(selector(rest.shape[2], taps[left], ends[0], wanted.shape[0], 1))
            pieces = _shared_out(rest, taps[left], ends[0])
            rest = np.concatenate(pieces, axis=2)
            left += 1
        elif widths[right] >= len(ends[1]) * rest.shape[1]:
            after.append(selector(rest.shape[1], taps[right], ends[1], wanted.shape[0], 2))
            pieces = _shared_out(rest, taps[right], ends[1])
            rest = np.concatenate(pieces, axis=1)
            right -= 1
        else:
            return None
    chain = [*before, rest, *after[::-1]]
    return [
        filled_up(kernel, n, m)
        for kernel, (m, n) in zip(chain, itertools.pairwise(widths), strict=True)
    ]


def shifts(taps: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the indices of a kernel's corners."""
    return list(itertools.product(*({0, size - 1} for size in taps)))


def selector(
    channels: int, taps: Sequence[int], shifts: Sequence[tuple[int, ...]], g: int, axis: int
) -> Array:
    """Return kernels that shift every channel to each corner, stacked along an axis."""
    parts = []
    for shift in shifts:
        part = np.zeros((g, channels, channels, *taps))
        index: tuple[Any, ...] = (..., *shift)
        part[index] = np.eye(channels)
        parts.append(part)
    return np.concatenate(parts, axis=axis)


def _shared_out(
    kernel: Array, taps: Sequence[int], shifts: Sequence[tuple[int, ...]]
) -> list[Array]:
    """Return the part of a kernel that each corner covers, with overlaps divided evenly."""
    inner = [k - t + 1 for k, t in zip(kernel.shape[3:], taps, strict=True)]
    windows: list[tuple[Any, ...]] = [
        tuple(slice(s, s + size) for s, size in zip(shift, inner, strict=True)) for shift in shifts
    ]
    cover = np.zeros(kernel.shape[3:])
    for window in windows:
        cover[window] += 1
    shared = kernel / np.maximum(cover, 1)
    return [shared[(..., *window)] for window in windows]


def filled_up(kernel: Array, n: int, m: int) -> Array:
    """Pad a kernel with zero channels to n outputs and m inputs."""
    more = [(0, 0), (0, n - kernel.shape[1]), (0, m - kernel.shape[2])]
    return np.pad(kernel, more + [(0, 0)] * (kernel.ndim - 3))
