"""Where the channels of an axis come out when extents change and the order of numbers does not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Extent", "Passage", "left_over", "passage_of", "quotient"]

Extent = Hashable
"""A number, or whatever stands for one extent that is not static."""


@dataclass(frozen=True)
class Passage:
    """Where the channels of an axis come out of a view.

    Channel t of the output is channel `t // repeat % channels` of the input. Where channels are
    gathered it is the other way round: channel t of the input belongs to channel
    `t // repeat % channels` of the output.

    Attributes:
        axis: Their axis in the output.
        repeat: How many neighbours each channel becomes.
        tile: How many times over.
        gathers: Whether channels of the input become fewer.
    """

    axis: int
    repeat: int = 1
    tile: int = 1
    gathers: bool = False

    def after(self, channels: int) -> int:
        """How many channels come out of so many."""
        times = self.repeat * self.tile
        return channels // times if self.gathers else channels * times

    @property
    def is_plain(self) -> bool:
        """Whether the channels come out as they went in."""
        return self.repeat == self.tile == 1

    def spread(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers for each of the fewer channels as numbers for each of the more."""
        return np.tile(np.repeat(array, self.repeat), self.tile)

    def spread_matrix(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """A matrix that maps the fewer channels as one that maps the more."""
        return np.kron(np.eye(self.tile), np.kron(matrix, np.eye(self.repeat)))


def passage_of(
    source: Sequence[Extent], target: Sequence[Extent], axis: int, likely: int
) -> Passage | None:
    """Where an axis goes when extents change and the order of the numbers does not.

    With as many numbers behind the axis as `repeat` times those behind axis j of the target, or
    as many before it as `tile` times those before axis j, each number of axis j belongs to one
    channel. Of several such axes, which takes extents of 1, the likely one is meant.
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
            return Passage(j, repeat, tile)
    return None


def quotient(a: Sequence[Extent], b: Sequence[Extent]) -> int | None:
    """The product of some extents by that of others, if it is a known whole number."""
    above, below = (
        Counter(e for e in a if not isinstance(e, int)),
        Counter(e for e in b if not isinstance(e, int)),
    )
    if above != below:
        return None
    numbers = [math.prod(e for e in extents if isinstance(e, int)) for extents in (a, b)]
    if numbers[1] < 1 or numbers[0] < 1 or numbers[0] % numbers[1]:
        return None
    return numbers[0] // numbers[1]


def left_over(a: Sequence[Extent], b: Sequence[Extent]) -> Extent:
    """The one extent of some that others leave over; None where that is no single one."""
    above = Counter(e for e in a if not isinstance(e, int))
    above.subtract(e for e in b if not isinstance(e, int))
    left = [extent for extent, times in above.items() if times]
    if len(left) != 1 or above[left[0]] != 1:
        return None
    numbers = [math.prod(e for e in extents if isinstance(e, int)) for extents in (a, b)]
    return left[0] if numbers[0] == numbers[1] > 0 else None
