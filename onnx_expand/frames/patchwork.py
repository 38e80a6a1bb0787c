"""Nodes that only move numbers, followed for all sizes at once.

A tensor of symbolic extents is a patchwork: boxes, each of which shows a part of one value or
constants, the later ones over the earlier. Nodes that pad, cut, turn and write over tensors move,
clip and add boxes; index arithmetic is done with sums of symbols. Whatever depends on the sizes
otherwise than by such sums ends the attempt.
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
    """A part of a tensor.

    Attributes:
        begins: Its first position on each axis.
        ends: The position behind its last one.
        axes: Of a copy, the axis of the value that each axis runs along; empty for constants.
        offsets: The position on each axis at which what it shows begins.
        fill: Constants, with one number on each axis along which they do not vary.
    """

    begins: tuple[Size, ...]
    ends: tuple[Size, ...]
    axes: tuple[int, ...]
    offsets: tuple[Size, ...]
    fill: Array | None = None

    def moved(self, axis: int, by: Size) -> Box:
        """The box some positions further on an axis."""
        return replace(
            self,
            begins=replaced(self.begins, axis, self.begins[axis] + by),
            ends=replaced(self.ends, axis, self.ends[axis] + by),
            offsets=replaced(self.offsets, axis, self.offsets[axis] + by),
        )

    def clipped(self, axis: int, size: Size) -> Box | None:
        """What lies between 0 and a size on an axis; None if nothing does."""
        begin = self.begins[axis] if self.begins[axis] >= 0 else Size()
        end = self.ends[axis] if self.ends[axis] <= size else size
        if begin >= end:
            return None
        ends = replaced(self.ends, axis, end)
        return replace(self, begins=replaced(self.begins, axis, begin), ends=ends)


@dataclass(frozen=True)
class Patchwork:
    """A tensor made of boxes.

    Attributes:
        shape: Its extents.
        boxes: The boxes, the topmost last.
    """

    shape: tuple[Size, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def of_constants(cls, fill: Array, shape: Sequence[Size]) -> Patchwork:
        """Constants, spread along the axes on which there is one number."""
        fill = fill.reshape((1,) * (len(shape) - fill.ndim) + fill.shape)
        nothing = (Size(),) * len(shape)
        return cls(tuple(shape), (Box(nothing, tuple(shape), (), nothing, fill),))

    def cut(self, axis: int, begin: Size, end: Size) -> Patchwork:
        """A range of positions on an axis."""
        size = end - begin
        moved = (box.moved(axis, -begin).clipped(axis, size) for box in self.boxes)
        boxes = tuple(box for box in moved if box is not None)
        return Patchwork(replaced(self.shape, axis, size), boxes)

    def turned(self, order: Sequence[int]) -> Patchwork:
        """The tensor with its axes in another order."""

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
        """The tensor with another one laid over it, from a position on an axis on."""
        return Patchwork(
            self.shape, (*self.boxes, *(box.moved(axis, begin) for box in other.boxes))
        )


# -- Integers ---------------------------------------------------------------------------------


# -- What tensors and lists have in common ------------------------------------------------------


# -- Tensors ----------------------------------------------------------------------------------


# -- What comes out ---------------------------------------------------------------------------


def replaced(values: Sequence[Size], axis: int, value: Size) -> tuple[Size, ...]:
    """Sizes with another one on one axis."""
    return (*values[:axis], value, *values[axis + 1 :])


def cells(tensor: Patchwork) -> list[tuple[tuple[Size, ...], tuple[Size, ...], Box]]:
    """A tensor cut into parts, each with the box that is seen there.

    Raises:
        UndecidedError: It depends on the sizes which box that is, or none is.
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
    """Numbers in an order that holds for all sizes."""
    found: list[Size] = []
    for size in sizes:
        at = next((i for i, other in enumerate(found) if other >= size), len(found))
        found.insert(at, size)
    return found


def _covers(box: Box, begins: Sequence[Size], ends: Sequence[Size]) -> bool:
    return all(a <= b for a, b in zip(box.begins, begins, strict=True)) and all(
        a >= b for a, b in zip(box.ends, ends, strict=True)
    )
