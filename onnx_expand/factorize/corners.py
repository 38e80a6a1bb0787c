"""Chains in which all layers but one shift their input.

A kernel of t taps with a single 1 at either end shifts its input by 0 or t - 1. Layers in sequence
shift by all sums of these, and a sum that is reached in several ways needs only one channel: four
kernels of 81 taps shift by 0, 80, ..., 320 with five channels. A layer of 81 taps that reads, or
adds up, all of these shifts computes any kernel of 401 taps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_expand.factorize.kernels import Array

__all__ = ["Shifted", "filled_up", "selector", "shifted_chain", "shifts"]

Shift = tuple[int, ...]


@dataclass(frozen=True)
class Shifted:
    """A chain that computes any kernel, since all its layers but one only shift.

    Attributes:
        kernels: The layers; at `middle` zeros.
        middle: The index of the other layer.
        before: The shifts of the layers before it. Its inputs are the chain's, once for each.
        after: The shifts of the layers after it. Its outputs are the chain's, once for each.
    """

    kernels: tuple[Array, ...]
    middle: int
    before: tuple[Shift, ...]
    after: tuple[Shift, ...]

    def solution(self, wanted: Array) -> Array:
        """Return the smallest middle layer with which the chain computes `wanted`.

        Taps that several pairs of shifts cover are divided evenly among them.
        """
        middle = self.kernels[self.middle]
        n, m = wanted.shape[1:3]
        windows = [[_window(a, b, middle.shape[3:]) for a in self.before] for b in self.after]
        cover = _cover(itertools.chain(*windows), wanted.shape[3:])
        shared = wanted / np.maximum(cover, 1)
        found = np.zeros_like(middle)
        for (j, row), (i, _) in itertools.product(enumerate(windows), enumerate(self.before)):
            found[:, j * n : (j + 1) * n, i * m : (i + 1) * m] = shared[(..., *row[i])]
        return found

    def filled(self, index: int, rng: np.random.Generator) -> Array:
        """Return a layer of shifts with random values of the same gain in its unused channels."""
        kernel = self.kernels[index].copy()
        axis = 2 if index > self.middle else 1
        unused = ~kernel.any(axis=(0, *(i for i in range(1, kernel.ndim) if i != axis)))
        shape = list(kernel.shape)
        shape[axis] = int(unused.sum())
        drawn = rng.standard_normal(shape) / np.sqrt(kernel[0].size / kernel.shape[axis])
        kernel[(slice(None),) * axis + (unused,)] = drawn
        return kernel


def shifted_chain(
    widths: Sequence[int], taps: Sequence[Shift], wanted: Sequence[int]
) -> Shifted | None:
    """Return a chain that computes any kernel, or None if the widths do not suffice.

    Args:
        widths: Channels per group before, between and after the layers.
        taps: The extents of each layer.
        wanted: [g, n, m, *taps], the shape of the kernel.
    """
    half = (len(taps) - 1) / 2
    ends = [shifts(t) for t in taps]
    none = [(0,) * len(taps[0])]
    for middle in sorted(range(len(taps)), key=lambda i: (abs(i - half), -i)):
        before = list(itertools.accumulate(ends[:middle], _sums, initial=none))
        after = list(itertools.accumulate(ends[:middle:-1], _sums, initial=none))[::-1]
        needed = [*(len(s) * widths[0] for s in before), *(len(s) * widths[-1] for s in after)]
        windows = (_window(a, b, taps[middle]) for a in before[-1] for b in after[0])
        wide = all(need <= width for need, width in zip(needed, widths, strict=True))
        if wide and _cover(windows, wanted[3:]).all():
            return _shifted(widths, taps, wanted[0], before, after)
    return None


def _shifted(
    widths: Sequence[int],
    taps: Sequence[Shift],
    g: int,
    before: Sequence[Sequence[Shift]],
    after: Sequence[Sequence[Shift]],
) -> Shifted:
    """Build the layers, given the shifts at each point before and after the middle one."""
    middle = len(before) - 1
    kernels = [
        *(
            selector(widths[0], t, a, b, g, 1)
            for t, (a, b) in zip(taps[:middle], itertools.pairwise(before), strict=True)
        ),
        np.zeros((g, 0, 0, *taps[middle])),
        *(
            selector(widths[-1], t, a, b, g, 2)
            for t, (b, a) in zip(taps[middle + 1 :], itertools.pairwise(after), strict=True)
        ),
    ]
    chain = tuple(
        filled_up(kernel, n, m)
        for kernel, (m, n) in zip(kernels, itertools.pairwise(widths), strict=True)
    )
    return Shifted(chain, middle, tuple(before[-1]), tuple(after[0]))


def shifts(taps: Sequence[int]) -> list[Shift]:
    """Return the indices of a kernel's corners."""
    return list(itertools.product(*(sorted({0, size - 1}) for size in taps)))


def selector(
    channels: int,
    taps: Sequence[int],
    given: Sequence[Shift],
    wanted: Sequence[Shift],
    g: int,
    axis: int,
) -> Array:
    """Return the layer that shifts channels further.

    Args:
        channels: The number of channels that are shifted.
        taps: The extents of the layer.
        given: The shifts on the side of the chain's end, each of all channels.
        wanted: The shifts on the side of the middle. Those that the layer reaches from several of
            the given ones are the mean.
        g: The number of groups.
        axis: 1 if the layer is before the middle, 2 if it is after it.
    """
    kernel = np.zeros((g, len(wanted), channels, len(given), channels, *taps))
    ones = np.eye(channels)
    for j, shift in enumerate(wanted):
        steps = [tuple(np.subtract(shift, start)) for start in given]
        ends = set(shifts(taps))
        sources = [(i, step) for i, step in enumerate(steps) if step in ends]
        for i, step in sources:
            index: tuple[Any, ...] = (slice(None), j, slice(None), i, slice(None), *step)
            kernel[index] = ones / len(sources)
    outer, inner = len(wanted) * channels, len(given) * channels
    kernel = kernel.reshape(g, outer, inner, *taps)
    return kernel if axis == 1 else kernel.swapaxes(1, 2)


def filled_up(kernel: Array, n: int, m: int) -> Array:
    """Pad a kernel with zero channels to n outputs and m inputs."""
    more = [(0, 0), (0, n - kernel.shape[1]), (0, m - kernel.shape[2])]
    return np.pad(kernel, more + [(0, 0)] * (kernel.ndim - 3))


def _sums(first: Sequence[Shift], second: Sequence[Shift]) -> list[Shift]:
    return sorted({tuple(map(sum, zip(a, b, strict=True))) for a in first for b in second})


def _window(a: Shift, b: Shift, taps: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(i + j, i + j + size) for i, j, size in zip(a, b, taps, strict=True))


def _cover(windows: Iterable[tuple[slice, ...]], extents: Sequence[int]) -> Array:
    """Return how many windows cover each tap."""
    cover = np.zeros(tuple(extents))
    for window in windows:
        cover[window] += 1
    return cover
