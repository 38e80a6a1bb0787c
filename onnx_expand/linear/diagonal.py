"""Diagonal maps: a scale and a shift for each channel, and what they become on their way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import RefusedError
from onnx_expand.linear.passages import Passage
from onnx_expand.linear.scaling import Channels
from onnx_expand.linear.terms import Map

__all__ = ["Diagonal", "commuted", "fits"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Diagonal:
    """`y = scale x + shift` along an axis.

    Attributes:
        axis: The axis, from the front; None where all numbers are treated alike.
        scale: One number for each channel, [n]; [1] without an axis.
        shift: As `scale`; None for none.
    """

    axis: int | None
    scale: Array
    shift: Array | None = None

    @classmethod
    def of(cls, term: Map) -> Diagonal | None:
        """The map that a term is, if it is diagonal."""
        if not term.geometry.is_per_channel or term.is_part:
            return None
        axis: int | None = None
        if term.axes is not None:
            rank = term.tensor.rank
            axis = term.axes[0]
            if axis != term.axes[1] or rank is None:
                return None
            axis %= rank
        try:
            affine = term.load()
        except RefusedError:
            return None
        shift = None if affine.bias is None or not np.any(affine.bias) else affine.bias
        return cls(axis, affine.weight.reshape(-1), shift).simplest()

    def simplest(self) -> Diagonal:
        """The same without an axis where all channels are treated alike."""
        alike = bool(np.all(self.scale == self.scale[0]))
        alike = alike and (self.shift is None or bool(np.all(self.shift == self.shift[0])))
        if self.axis is None or not alike:
            return self
        return Diagonal(None, self.scale[:1], None if self.shift is None else self.shift[:1])

    @property
    def scales(self) -> bool:
        """Whether it does more than to add."""
        return bool(np.any(self.scale != 1))

    @property
    def does_nothing(self) -> bool:
        """Whether it gives back what it is given."""
        return not self.scales and self.shift is None

    @property
    def is_positive(self) -> bool:
        """Whether no channel changes its sign."""
        return bool(np.all(self.scale >= 0))

    def affine(self) -> AffineConv:
        """Its numbers."""
        return AffineConv.per_channel(self.scale, self.shift)

    def after(self, first: Diagonal) -> Diagonal | None:
        """Another one, and then this one; None where they treat different axes."""
        axes = {self.axis, first.axis} - {None}
        if len(axes) > 1:
            return None
        scale = self.scale * first.scale
        shift: Array | None = None
        if self.shift is not None or first.shift is not None:
            own = 0 if self.shift is None else self.shift
            shift = np.broadcast_to(
                own + self.scale * (0 if first.shift is None else first.shift), scale.shape
            )
        return Diagonal(next(iter(axes), None), scale, shift)

    def shifted_first(self) -> Diagonal | None:
        """The shift that is added before the scale; None where one of them is missing."""
        if self.shift is None or not self.scales or np.any((self.scale == 0) & (self.shift != 0)):
            return None
        zero = np.zeros_like(self.shift)
        shift = np.divide(self.shift, self.scale, out=zero, where=self.scale != 0)
        return Diagonal(self.axis, np.ones_like(self.scale), shift)

    def root(self, degree: int) -> Diagonal | None:
        """What to the power of a degree is this; None where there is no such map."""
        if degree == 1:
            return self
        if self.shift is not None or not np.all(self.scale):
            return None
        if degree == -1:
            return replace(self, scale=1 / self.scale)
        if degree != 2 or not self.is_positive:
            return None
        return replace(self, scale=np.sqrt(self.scale))

    def power(self, degree: int) -> Diagonal | None:
        """What a factor becomes through an op of some degree; None where that is none."""
        if degree == 1:
            return self
        if self.shift is not None or not np.all(self.scale):
            return None
        return replace(self, scale=self.scale**degree)

    def through(self, gain: float | None, *, back: bool = False) -> Diagonal | None:
        """What it becomes through an op that multiplies what is added; None without such a law."""
        if self.shift is None:
            return self
        if not gain:
            return None
        return replace(self, shift=self.shift / gain if back else self.shift * gain)

    def on(self, axis: int | None) -> Diagonal | None:
        """The same on another axis; None where that is none but it needs one."""
        if self.axis is None:
            return self
        return None if axis is None else replace(self, axis=axis)

    def moved(self, channels: Channels, *, back: bool = False) -> Diagonal | None:
        """The same where the channels of its axis come out, or come from."""
        if self.axis is None:
            return self
        pairs = channels.items()
        ways = {b: a for a, b in pairs} if back else dict(pairs)
        return self.on(ways.get(self.axis))

    def spread(self, passage: Passage | None) -> Diagonal | None:
        """The same on the other side of a change of layout."""
        if self.axis is None:
            return self
        if passage is None:
            return None
        shift = None if self.shift is None else passage.spread(self.shift)
        return Diagonal(passage.axis, passage.spread(self.scale), shift)

    def part(self, first: int, count: int) -> Diagonal:
        """The same for some of its channels."""
        if self.axis is None:
            return self
        some = slice(first, first + count)
        shift = None if self.shift is None else self.shift[some]
        return Diagonal(self.axis, self.scale[some], shift).simplest()

    def within(self, axis: int, places: range | frozenset[int], size: int) -> Diagonal | None:
        """The map of a whole axis that treats some places like this, and leaves the others.

        Args:
            axis: The axis.
            places: What this treats; all of its channels in order, where it has an axis.
            size: How many places there are.
        """
        if self.axis not in {None, axis}:
            return None
        at = sorted(places)
        scale, shift = np.ones(size), np.zeros(size)
        if self.axis is not None and (not isinstance(places, range) or len(at) != self.scale.size):
            return None
        scale[at] = self.scale
        if self.shift is not None:
            shift[at] = self.shift
        return Diagonal(axis, scale, None if self.shift is None else shift)


_FARTHEST = 2.0**16
_SMALLEST_HALF = 2.0**-6


def fits(factor: Array, dtype: ir.DataType | None) -> bool:
    """Whether numbers of a type can have such factors more than they had.

    Numbers in between get larger or smaller where a factor moves. Half precision holds numbers
    from 6e-5 to 65,504 in full: there they may get smaller, by less than two decimal places, and
    no larger. In other types there is room.
    """
    sizes = np.abs(factor[factor != 0])
    if not sizes.size:
        return True
    least, most = float(sizes.min()), float(sizes.max())
    if dtype is None:
        return False
    if ml_dtypes.finfo(dtype.numpy()).maxexp < _WIDE:  # type: ignore[no-untyped-call]
        return least >= _SMALLEST_HALF and most <= 1
    return least >= 1 / _FARTHEST and most <= _FARTHEST


_WIDE = 100  # binary exponents of bfloat16, float32 and what is wider


def commuted(term: Map, diagonal: Diagonal, *, back: bool) -> Diagonal | None:
    """A diagonal map on the other side of a map; None without such a law.

    A number goes past every map that adds nothing, more past those that mix no channels. What is
    added comes out times the sum of the kernel, where no zeros of a border count.

    Args:
        term: The map.
        diagonal: The diagonal map.
        back: Whether it is behind, and to come before.
    """
    geometry, rank = term.geometry, term.tensor.rank
    if geometry.bias:
        return None
    if diagonal.axis is None and diagonal.shift is None:
        return diagonal
    if term.axes is None or rank is None:
        return None
    if not geometry.group == geometry.in_channels == geometry.out_channels:
        return None
    axis = term.axes[0] % rank
    if term.axes[1] % rank != axis or diagonal.axis not in {None, axis}:
        return None
    if diagonal.shift is None:
        return diagonal
    if geometry.is_anchored or max(geometry.pads, default=0) > 0:
        return None
    weight = term.load().weight
    gains = weight.reshape(len(weight), -1).sum(axis=1)
    if not np.all(gains == gains[0]):
        return None
    return diagonal.through(float(gains[0]), back=back)
