"""The positions of windows in convolutions and pooling, with ONNX's padding attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.train.registry import Attributes

__all__ = ["Windows", "pad_spatial", "spatial_rank_problem", "windows"]


@dataclass(frozen=True)
class Windows:
    """The geometry of a sliding window, with one entry per spatial axis.

    Attributes:
        kernel: The numbers of taps.
        strides: The distances between windows.
        dilations: The distances between taps.
        begin: The padding before the input; negative values crop.
        end: The padding after the input; negative values crop.
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
        """Whether both sides are padded equally, without cropping."""
        return self.begin == self.end and all(amount >= 0 for amount in self.begin)

    def counts(self, size: Sequence[int], ceil_mode: bool) -> list[int]:
        """Return the number of windows per axis; `ceil_mode` also counts partial ones."""
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
        """Return the padding after the input for exactly these numbers of windows."""
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
    """Return the windows that a node's attributes describe on an input of this spatial size."""
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
    """Pad the last axes of a tensor; negative amounts crop."""
    if not any(begin) and not any(end):
        return x
    # torch lists the last axis first.
    pairs = list(zip(begin, end, strict=True))[::-1]
    return F.pad(x, [amount for pair in pairs for amount in pair], value=value)


def spatial_rank_problem(attributes: Attributes) -> str:
    """Return why torch does not support windows of a node's rank, or an empty text."""
    rank = len(attributes.get("kernel_shape") or (1,))
    return "" if rank <= 3 else f"a window over {rank} axes; torch has 1 to 3"
