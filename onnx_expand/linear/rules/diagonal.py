"""Diagonal maps: a scale and a shift for each channel, and the laws of moving them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import RefusedError
from onnx_expand.linear.terms.axis_maps import AxisMap
from onnx_expand.linear.terms.base import Homogeneous, Map, Term
from onnx_expand.linear.terms.scaling import Channels

__all__ = ["Diagonal", "commuted", "fits", "through_op"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Diagonal:
    """`y = scale x + shift` along an axis.

    Attributes:
        axis: The axis, from the front; None if all elements are treated alike.
        scale: One value for each channel, [n]; [1] without an axis.
        shift: As `scale`; None if nothing is added.
    """

    axis: int | None
    scale: Array
    shift: Array | None = None

    @classmethod
    def of(cls, term: Map) -> Diagonal | None:
        """Return a term as a diagonal map; None if it is not one."""
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
        """Return the map without an axis if it treats all channels alike."""
        alike = bool(np.all(self.scale == self.scale[0]))
        alike = alike and (self.shift is None or bool(np.all(self.shift == self.shift[0])))
        if self.axis is None or not alike:
            return self
        return Diagonal(None, self.scale[:1], None if self.shift is None else self.shift[:1])

    @property
    def scales(self) -> bool:
        """Whether a scale differs from 1."""
        return bool(np.any(self.scale != 1))

    @property
    def does_nothing(self) -> bool:
        """Whether it is the identity."""
        return not self.scales and self.shift is None

    @property
    def is_positive(self) -> bool:
        """Whether no scale is negative."""
        return bool(np.all(self.scale >= 0))

    def affine(self) -> AffineConv:
        """Return the map as an `AffineConv`."""
        return AffineConv.per_channel(self.scale, self.shift)

    def after(self, first: Diagonal) -> Diagonal | None:
        """Compose this map with an earlier one; None if they have different axes."""
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
        """Return the shift to add before the scale; None if it does not exist."""
        if self.shift is None or not self.scales or np.any((self.scale == 0) & (self.shift != 0)):
            return None
        zero = np.zeros_like(self.shift)
        shift = np.divide(self.shift, self.scale, out=zero, where=self.scale != 0)
        return Diagonal(self.axis, np.ones_like(self.scale), shift)

    def root(self, degree: int) -> Diagonal | None:
        """Return the map whose power of a degree is this map; None if there is none."""
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
        """Return the factor after an op of a degree; None if the map is not a factor."""
        if degree == 1:
            return self
        if self.shift is not None or not np.all(self.scale):
            return None
        return replace(self, scale=self.scale**degree)

    def through(self, gain: float | None, *, back: bool = False) -> Diagonal | None:
        """Return the map after an op that multiplies shifts by a gain, if there is such a law."""
        if self.shift is None:
            return self
        if not gain:
            return None
        return replace(self, shift=self.shift / gain if back else self.shift * gain)

    def on(self, axis: int | None) -> Diagonal | None:
        """Return the map on another axis; None if it needs an axis and that is None."""
        if self.axis is None:
            return self
        return None if axis is None else replace(self, axis=axis)

    def moved(self, channels: Channels, *, back: bool = False) -> Diagonal | None:
        """Return the map on the axis to which its channels move; None if they mix."""
        if self.axis is None:
            return self
        pairs = channels.items()
        ways = {b: a for a, b in pairs} if back else dict(pairs)
        return self.on(ways.get(self.axis))

    def spread(self, axis_map: AxisMap | None) -> Diagonal | None:
        """Return the map on the other side of a view."""
        if self.axis is None:
            return self
        if axis_map is None:
            return None
        shift = None if self.shift is None else axis_map.spread(self.shift)
        return Diagonal(axis_map.axis, axis_map.spread(self.scale), shift)

    def part(self, first: int, count: int) -> Diagonal:
        """Return the map for some of its channels."""
        if self.axis is None:
            return self
        some = slice(first, first + count)
        shift = None if self.shift is None else self.shift[some]
        return Diagonal(self.axis, self.scale[some], shift).simplest()

    def within(self, axis: int, places: range | frozenset[int], size: int) -> Diagonal | None:
        """Return the map of a whole axis that applies this map to some places only.

        Its channels are the places, in order; `size` is the extent of the axis.
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
    """Return whether values of a type can be multiplied by these factors.

    Moving a factor scales the values in between. float16 has full precision only from 6e-5 to
    65,504, so values may become smaller, by less than two decimal digits, but not larger. Other
    types have enough range.
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


_WIDE = 100  # binary exponents of bfloat16, float32 and wider types


def commuted(term: Map, diagonal: Diagonal, *, back: bool) -> Diagonal | None:
    """Return a diagonal map on the other side of a map; None if there is no such law.

    A single scale passes every map without a bias; scales per channel pass maps that do not mix
    channels. A shift is multiplied by the sum of the kernel, unless the map pads. With `back` the
    diagonal map follows the map and is to precede it.
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


def through_op(term: Homogeneous, arg: Term, diagonal: Diagonal, *, back: bool) -> Diagonal | None:
    """Return what a diagonal map of an argument of an op is after the op: `f(s x) = s^k f(x)`.

    Args:
        term: The op.
        arg: Its argument.
        diagonal: The diagonal map, without what the op does to shifts.
        back: Whether it follows the op, and its counterpart before the op is returned.
    """
    scaling = term.scaling
    slots = [s for s, a in zip(term.slots, term.args, strict=True) if a is arg]
    if any(slot not in scaling.degrees for slot in slots):
        return None
    degree = 1 if scaling.joint else sum(scaling.degrees[slot] for slot in slots)
    whole = diagonal.root(degree) if back else diagonal.power(degree)
    if whole is None:
        return None
    found = [whole.moved(scaling.channels.get(slot, {}), back=back) for slot in slots]
    axes = {None if d is None else d.axis for d in found}
    return found[0] if len(axes) == 1 else None
