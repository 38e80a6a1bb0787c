"""Tensors of symbolic extents that consist of copies of a value and of constants.

Such a tensor is a patchwork of boxes, each a copy of a part of one value or constants, where later
boxes cover earlier ones. Nodes that pad, slice, transpose and overwrite tensors move, clip and add
boxes, whose positions are sums of symbols. Anything else that depends on the extents is undecided.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.frames.symbols import Size, UndecidedError

__all__ = ["Array", "Box", "Patchwork", "cells", "replaced"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Box:
    """A rectangular part of a tensor.

    Attributes:
        begins: The first position on each axis.
        ends: The position after the last one on each axis.
        axes: For a copy, the axis of the copied value along each axis; empty for constants.
        offsets: The position on each axis of the first element of the copied value or of `fill`.
        fill: Constants, of extent 1 on each axis along which they do not vary.
    """

    begins: tuple[Size, ...]
    ends: tuple[Size, ...]
    axes: tuple[int, ...]
    offsets: tuple[Size, ...]
    fill: Array | None = None

    def moved(self, axis: int, by: Size) -> Box:
        """Return the box moved along an axis."""
        return replace(
            self,
            begins=replaced(self.begins, axis, self.begins[axis] + by),
            ends=replaced(self.ends, axis, self.ends[axis] + by),
            offsets=replaced(self.offsets, axis, self.offsets[axis] + by),
        )

    def clipped(self, axis: int, size: Size) -> Box | None:
        """Return the part of the box in [0, size) on an axis; None if it is empty."""
        begin = self.begins[axis] if self.begins[axis] >= 0 else Size()
        end = self.ends[axis] if self.ends[axis] <= size else size
        if begin >= end:
            return None
        ends = replaced(self.ends, axis, end)
        return replace(self, begins=replaced(self.begins, axis, begin), ends=ends)


@dataclass(frozen=True)
class Patchwork:
    """A tensor that consists of boxes.

    Attributes:
        shape: The extents.
        boxes: The boxes; later ones cover earlier ones.
    """

    shape: tuple[Size, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def of_constants(cls, fill: Array, shape: Sequence[Size]) -> Patchwork:
        """Return constants broadcast to a shape."""
        fill = fill.reshape((1,) * (len(shape) - fill.ndim) + fill.shape)
        nothing = (Size(),) * len(shape)
        return cls(tuple(shape), (Box(nothing, tuple(shape), (), nothing, fill),))

    def cut(self, axis: int, begin: Size, end: Size) -> Patchwork:
        """Return the range [begin, end) of an axis."""
        size = end - begin
        moved = (box.moved(axis, -begin).clipped(axis, size) for box in self.boxes)
        boxes = tuple(box for box in moved if box is not None)
        return Patchwork(replaced(self.shape, axis, size), boxes)

    def turned(self, order: Sequence[int]) -> Patchwork:
        """Return the tensor with permuted axes."""

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[axis] for axis in order)

        boxes = tuple(
            Box(
                pick(box.begins),
                pick(box.ends),
                pick(box.axes) if box.axes else (),
                pick(box.offsets),
                None if box.fill is None else box.fill.transpose(order),
            )
            for box in self.boxes
        )
        return Patchwork(pick(self.shape), boxes)

    def under(self, other: Patchwork, axis: int, begin: Size) -> Patchwork:
        """Return the tensor with another one over it, starting at a position on an axis."""
        return Patchwork(
            self.shape, (*self.boxes, *(box.moved(axis, begin) for box in other.boxes))
        )


def replaced(values: Sequence[Size], axis: int, value: Size) -> tuple[Size, ...]:
    """Return sizes with one axis replaced."""
    return (*values[:axis], value, *values[axis + 1 :])


def cells(tensor: Patchwork) -> list[tuple[tuple[Size, ...], tuple[Size, ...], Box]]:
    """Divide a tensor into cells, given as begins, ends and the topmost box that covers the cell.

    Raises:
        UndecidedError: The topmost box depends on the extents, or no box covers a cell.
    """
    marks = []
    for axis, size in enumerate(tensor.shape):
        ends: list[Hashable | Size] = [Size(), size]
        ends += [end for box in tensor.boxes for end in (box.begins[axis], box.ends[axis])]
        marks.append(_sorted(dict.fromkeys(ends)))  # type: ignore[arg-type]
    found = []
    for places in np.ndindex(*(len(these) - 1 for these in marks)):
        begins = tuple(these[i] for these, i in zip(marks, places, strict=True))
        ends_here = tuple(these[i + 1] for these, i in zip(marks, places, strict=True))
        box = next((b for b in reversed(tensor.boxes) if _covers(b, begins, ends_here)), None)
        if box is None:
            raise UndecidedError
        found.append((begins, ends_here, box))
    return found


def _sorted(sizes: Sequence[Size]) -> list[Size]:
    """Sort sizes in the order that holds for all values of their symbols."""
    found: list[Size] = []
    for size in sizes:
        at = next((i for i, other in enumerate(found) if other >= size), len(found))
        found.insert(at, size)
    return found


def _covers(box: Box, begins: Sequence[Size], ends: Sequence[Size]) -> bool:
    return all(a <= b for a, b in zip(box.begins, begins, strict=True)) and all(
        a >= b for a, b in zip(box.ends, ends, strict=True)
    )
