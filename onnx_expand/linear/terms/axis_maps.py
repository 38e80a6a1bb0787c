"""Map channel axes through reshapes, which change extents but not the order of elements."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["AxisMap", "Extent", "axis_map_of", "left_over", "quotient"]

Extent = Hashable
"""An integer, or a symbol for an extent that is not static."""


@dataclass(frozen=True)
class AxisMap:
    """The axis of a view's output to which channels pass.

    Channel t of the output is channel `t // repeat % channels` of the input. If channels are
    gathered, channel t of the input belongs to channel `t // repeat % channels` of the output.

    Attributes:
        axis: The channel axis in the output.
        repeat: The number of adjacent copies of each channel.
        tile: The number of repetitions of all channels.
        gathers: Whether the output has fewer channels than the input.
    """

    axis: int
    repeat: int = 1
    tile: int = 1
    gathers: bool = False

    def after(self, channels: int) -> int:
        """Return the number of output channels for a number of input channels."""
        times = self.repeat * self.tile
        return channels // times if self.gathers else channels * times

    @property
    def is_plain(self) -> bool:
        """Whether the channels are unchanged."""
        return self.repeat == self.tile == 1

    def spread(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Expand values for the fewer channels to values for the more channels."""
        return np.tile(np.repeat(array, self.repeat), self.tile)

    def spread_matrix(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Expand a matrix for the fewer channels to a matrix for the more channels."""
        return np.kron(np.eye(self.tile), np.kron(matrix, np.eye(self.repeat)))


def axis_map_of(
    source: Sequence[Extent], target: Sequence[Extent], axis: int, likely: int
) -> AxisMap | None:
    """Return how an axis passes a reshape.

    Each index of axis j of the target belongs to one channel if the number of elements after the
    axis is `repeat` times that after axis j, or the number before it is `tile` times that before
    axis j. If several axes qualify, which requires extents of 1, the most likely one is chosen.
    """
    if axis >= len(source):
        return None
    channels = source[axis]
    if not isinstance(channels, int) or channels < 1 or 0 in source:
        return None
    for j in sorted(range(len(target)), key=lambda j: j != likely):
        size = target[j]
        if not isinstance(size, int) or size < 1 or size % channels:
            continue
        repeat = quotient(source[axis + 1 :], target[j + 1 :])
        tile = quotient(source[:axis], target[:j])
        if repeat is None and tile is not None and size % (channels * tile) == 0:
            repeat = size // (channels * tile)
        if tile is None and repeat is not None and size % (channels * repeat) == 0:
            tile = size // (channels * repeat)
        if repeat is not None and tile is not None and repeat * tile * channels == size:
            return AxisMap(j, repeat, tile)
    return None


def quotient(a: Sequence[Extent], b: Sequence[Extent]) -> int | None:
    """Divide the product of some extents by that of others, if the result is a known integer."""
    above, below = ([e for e in extents if not isinstance(e, int)] for extents in (a, b))
    if above != below and Counter(above) != Counter(below):
        return None
    numbers = [math.prod(e for e in extents if isinstance(e, int)) for extents in (a, b)]
    if numbers[1] < 1 or numbers[0] < 1 or numbers[0] % numbers[1]:
        return None
    return numbers[0] // numbers[1]


def left_over(a: Sequence[Extent], b: Sequence[Extent]) -> Extent:
    """Return the single extent that remains when others are cancelled; None if not exactly one."""
    above = Counter(e for e in a if not isinstance(e, int))
    above.subtract(e for e in b if not isinstance(e, int))
    left = [extent for extent, times in above.items() if times]
    if len(left) != 1 or above[left[0]] != 1:
        return None
    numbers = [math.prod(e for e in extents if isinstance(e, int)) for extents in (a, b)]
    return left[0] if numbers[0] == numbers[1] > 0 else None
