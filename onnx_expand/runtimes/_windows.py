"""Sliding windows over any number of spatial axes, vectorized."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Windows"]

Array = npt.NDArray[Any]
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution or pooling, one entry per spatial axis.

    Attributes:
        kernel: Number of taps.
        strides: Distances between windows.
        dilations: Distances between taps.
        begin: Padding before the input.
        output: Number of windows.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    output: tuple[int, ...]

    @classmethod
    def of(
        cls,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str | None,
        *,
        ceil_mode: bool = False,
    ) -> Windows:
        """Compute the windows from ONNX's attributes.

        Args:
            sizes: Extents of the input's spatial axes.
            kernel: `kernel_shape`.
            strides: As in ONNX; 1 by default.
            dilations: As in ONNX; 1 by default.
            pads: As in ONNX, all begins and then all ends; 0 by default.
            auto_pad: As in ONNX; None or NOTSET means that `pads` applies.
            ceil_mode: Whether to count a window that starts inside and ends outside.
        """
        rank = len(sizes)
        steps, holes = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, holes, strict=True)]
        begins, ends = [0] * rank, [0] * rank
        if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            totals = [
                max((math.ceil(size / step) - 1) * step + extent - size, 0)
                for size, step, extent in zip(sizes, steps, extents, strict=True)
            ]
            begins, ends = [t // 2 for t in totals], [t - t // 2 for t in totals]
            if auto_pad == "SAME_LOWER":
                begins, ends = ends, begins
        elif auto_pad != "VALID" and pads:
            begins, ends = list(pads[:rank]), list(pads[rank:])
        output = tuple(
            _count(size, begins[axis], ends[axis], extents[axis], steps[axis], ceil_mode)
            for axis, size in enumerate(sizes)
        )
        return cls(tuple(kernel), steps, holes, tuple(begins), output)

    def pad(self, x: Array, fill: float) -> Array:
        """Pad `x` with `fill`, exactly as far as the windows reach; negative pads crop."""
        widths, crops = [(0, 0), (0, 0)], [slice(None), slice(None)]
        for axis, begin in enumerate(self.begin):
            reach = (self.output[axis] - 1) * self.strides[axis] + 1
            reach += (self.kernel[axis] - 1) * self.dilations[axis]
            end = reach - x.shape[axis + 2] - begin
            widths.append((max(begin, 0), max(end, 0)))
            crops.append(slice(max(-begin, 0), None))
        return np.pad(x[tuple(crops)], widths, constant_values=fill)

    def taps(self) -> Iterator[tuple[tuple[int, ...], Index]]:
        """Yield the index of each tap, and the slices of the padded input that it reads."""
        for tap in itertools.product(*map(range, self.kernel)):
            seen = [slice(None), slice(None)]
            for axis, position in enumerate(tap):
                start, step = position * self.dilations[axis], self.strides[axis]
                seen.append(slice(start, start + (self.output[axis] - 1) * step + 1, step))
            yield tap, tuple(seen)


def _count(size: int, begin: int, end: int, extent: int, step: int, ceil_mode: bool) -> int:
    span = size + begin + end - extent
    if span < 0:
        return 0
    if not ceil_mode:
        return span // step + 1
    count = math.ceil(span / step) + 1
    # A window that would start in the padding after the input is dropped.
    return count - 1 if (count - 1) * step >= size + begin else count
