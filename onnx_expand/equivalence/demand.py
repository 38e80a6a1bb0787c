"""What the numbers of an input have to be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from onnx_expand.graph.shapes import Dim

__all__ = ["LENGTHS", "Demand", "Dims", "Meaning"]

Dims: TypeAlias = tuple[Dim, ...] | None

LENGTHS = 4
"""Turns, repeats and extents where nothing else bounds them."""


class Meaning(StrEnum):
    """What a number is for."""

    ANY = "any"
    """Nothing that bounds it; what is known of its limits still holds."""
    DIVISOR = "divisor"
    """Anything but zero."""
    ROW = "row"
    """It picks a place of an array: all of them count."""
    COUNT = "count"
    """It counts, or is an extent."""
    FACTORS = "factors"
    """Factors of extents, which are no integers."""
    SHARE = "share"
    """Between zero and one."""
    MASK = "mask"
    """One where there is something, zero where there is padding."""
    AXES = "axes"
    """Axes, none twice."""
    UNITS = "units"
    """Axes of which each has one element."""
    PARTS = "parts"
    """Extents of parts that make up a whole."""
    SHAPE = "shape"
    """A shape for as many elements as there are."""
    EXPANDED = "expanded"
    """A shape to broadcast to."""
    RESIZED = "resized"
    """A shape of which batch and channels stay."""


@dataclass(frozen=True)
class Demand:
    """What the numbers of an integer input have to be.

    Attributes:
        meaning: What they are for.
        low: The least, None without a limit.
        high: The greatest.
        dims: The shape that axes, parts and shapes are about; None if it is not known.
    """

    meaning: Meaning = Meaning.ANY
    low: int | None = None
    high: Dim = None
    dims: Dims = None

    @property
    def rows(self) -> int:
        """How many places there are, 0 where it picks none or their number is not known."""
        if self.meaning != Meaning.ROW or self.low is None or not isinstance(self.high, int):
            return 0
        return max(0, self.high - self.low + 1)
