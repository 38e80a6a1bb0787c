"""The constraints on the values of an input."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from onnx_expand.graph.shapes import Dim

__all__ = ["LENGTHS", "Demand", "Dims", "Meaning"]

Dims: TypeAlias = tuple[Dim, ...] | None

LENGTHS = 4
"""The limit of iterations, repeats and extents that nothing else bounds."""


class Meaning(StrEnum):
    """The meaning of an integer value."""

    ANY = "any"
    """Unconstrained, except by the known limits."""
    DIVISOR = "divisor"
    """Nonzero."""
    ROW = "row"
    """An index into an axis; every index should be tried."""
    COUNT = "count"
    """A count or an extent."""
    FACTORS = "factors"
    """Scale factors of extents, in floating point."""
    SHARE = "share"
    """A ratio between zero and one."""
    MASK = "mask"
    """One for valid positions, zero for padding."""
    AXES = "axes"
    """Distinct axes."""
    UNITS = "units"
    """Axes of extent one."""
    PARTS = "parts"
    """Extents of parts that sum to a whole."""
    SHAPE = "shape"
    """A target shape with the number of elements of the data."""
    EXPANDED = "expanded"
    """A shape to broadcast to."""
    RESIZED = "resized"
    """A shape that keeps batch and channels."""


@dataclass(frozen=True)
class Demand:
    """The constraints on the values of an integer input.

    Attributes:
        meaning: The meaning of the values.
        low: The least value, None without a limit.
        high: The greatest value, None without a limit.
        dims: The shape to which axes, parts and shapes refer; None if unknown.
    """

    meaning: Meaning = Meaning.ANY
    low: int | None = None
    high: Dim = None
    dims: Dims = None

    @property
    def rows(self) -> int:
        """The number of rows that it indexes; 0 if it is no index or their number is unknown."""
        if self.meaning != Meaning.ROW or self.low is None or not isinstance(self.high, int):
            return 0
        return max(0, self.high - self.low + 1)
