"""The windows of convolutions and pooling, from ONNX's attributes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Windows"]


@dataclass(frozen=True)
class Windows:
    """The windows over the spatial axes of an input, with one entry per axis.

    Attributes:
        kernel: The numbers of taps.
        strides: The distances between windows.
        dilations: The distances between taps.
        begin: The padding before the input; negative values crop.
        end: The padding after the input; negative values crop.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(
        cls,
        size: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        auto_pad: str | None = None,
    ) -> Windows:
        """Return the windows on an input of a spatial size; None stands for ONNX's default."""
        rank = len(kernel)
        steps = tuple(strides or (1,) * rank)
        begin = end = (0,) * rank
        if auto_pad in {None, "NOTSET"} and pads:
            begin, end = tuple(pads[:rank]), tuple(pads[rank:])
        found = cls(tuple(kernel), steps, tuple(dilations or (1,) * rank), begin, end)
        if auto_pad not in {"SAME_UPPER", "SAME_LOWER"}:
            return found
        counts = [-(-extent // step) for extent, step in zip(size, steps, strict=True)]
        totals = [max(total, 0) for total in found.fit(size, counts)]
        small = tuple(total // 2 for total in totals)
        large = tuple(total - total // 2 for total in totals)
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        return cls(found.kernel, steps, found.dilations, begin, end)

    @property
    def extents(self) -> list[int]:
        """The span of each window."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def symmetric(self) -> bool:
        """Whether both sides are padded equally, without cropping."""
        return self.begin == self.end and all(amount >= 0 for amount in self.begin)

    def counts(self, size: Sequence[int], *, ceil_mode: bool = False) -> list[int]:
        """Return the number of windows per axis.

        Args:
            size: The extents of the spatial axes.
            ceil_mode: Whether to count windows that start inside and end outside.
        """
        counts = []
        for axis, extent in enumerate(self.extents):
            stride, begin = self.strides[axis], self.begin[axis]
            room = size[axis] + begin + self.end[axis] - extent
            count = max((-(-room // stride) if ceil_mode else room // stride) + 1, 0)
            # A window that would start in the padding after the input is dropped.
            outside = ceil_mode and (count - 1) * stride >= size[axis] + begin
            counts.append(count - outside)
        return counts

    def fit(self, size: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Return the padding after the input for exactly these numbers of windows."""
        return [
            (count - 1) * stride + extent - length - begin
            for count, stride, extent, length, begin in zip(
                counts, self.strides, self.extents, size, self.begin, strict=True
            )
        ]

    def taps(self, counts: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Yield the place of each tap, and the index of what it reads in the padded input."""
        for tap in itertools.product(*map(range, self.kernel)):
            starts = (t * d for t, d in zip(tap, self.dilations, strict=True))
            spans = zip(starts, counts, self.strides, strict=True)
            yield tap, (..., *(slice(a, a + n * step, step) for a, n, step in spans))
