"""Where the windows of convolutions and pools lie: the padding that ONNX's attributes mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

__all__ = ["Windows", "pad_spatial", "spatial_rank_problem", "windows"]


@dataclass(frozen=True)
class Windows:
    """The geometry of a sliding window, one entry for each spatial axis.

    Attributes:
        kernel: Taps.
        strides: Steps between windows.
        dilations: Steps between taps.
        begin: Positions added before the input; negative ones cut it.
        end: Positions added after it.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]

    @property
    def extents(self) -> list[int]:
        """The span of each window."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def symmetric(self) -> bool:
        """Whether both sides are padded alike, and none is cut."""
        return self.begin == self.end and all(amount >= 0 for amount in self.begin)

    def counts(self, size: Sequence[int], ceil_mode: bool) -> list[int]:
        """How many windows fit, per axis; with `ceil_mode`, also those that begin inside."""
        counts = []
        for axis, extent in enumerate(self.extents):
            stride, begin = self.strides[axis], self.begin[axis]
            room = size[axis] + begin + self.end[axis] - extent
            count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
            if ceil_mode and (count - 1) * stride >= size[axis] + begin:
                count -= 1
            counts.append(count)
        return counts

    def fit(self, size: Sequence[int], counts: Sequence[int]) -> list[int]:
        """The positions to add after the input so that exactly these windows fit."""
        return [
            (count - 1) * stride + extent - length - begin
            for count, stride, extent, length, begin in zip(
                counts, self.strides, self.extents, size, self.begin, strict=True
            )
        ]


def windows(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    auto_pad: str,
    pads: Sequence[int] | None,
) -> Windows:
    """The windows that a node's attributes describe on an input of this spatial size."""
    rank = len(kernel)
    steps = list(strides or [1] * rank)
    gaps = list(dilations or [1] * rank)
    if auto_pad == "NOTSET":
        given = list(pads or [0] * (2 * rank))
        return Windows(list(kernel), steps, gaps, given[:rank], given[rank:])
    begin, end = [0] * rank, [0] * rank
    if auto_pad != "VALID":
        for axis in range(rank):
            extent = (kernel[axis] - 1) * gaps[axis] + 1
            count = -(-size[axis] // steps[axis])
            total = max((count - 1) * steps[axis] + extent - size[axis], 0)
            small, large = total // 2, total - total // 2
            upper = auto_pad == "SAME_UPPER"
            begin[axis], end[axis] = (small, large) if upper else (large, small)
    return Windows(list(kernel), steps, gaps, begin, end)


def pad_spatial(
    x: torch.Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0
) -> torch.Tensor:
    """Add positions to the last axes of a tensor, or cut them where negative."""
    if not any(begin) and not any(end):
        return x
    # torch lists the last axis first.
    pairs = list(zip(begin, end, strict=True))[::-1]
    return F.pad(x, [amount for pair in pairs for amount in pair], value=value)


def spatial_rank_problem(kernel_shape: Sequence[int] | None) -> str:
    """Why torch has no window of this shape; empty when it has."""
    if kernel_shape is not None and not 1 <= len(kernel_shape) <= 3:
        return f"a window over {len(kernel_shape)} axes; torch has 1 to 3"
    return ""
