"""Facts about the tensors of a stretch: extents, and sizes in scenarios."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.lift import Axes
from onnx_expand.linear.terms.axis_maps import Extent
from onnx_expand.linear.terms.views import ViewOp

__all__ = ["NOMINAL", "SCENARIOS", "Tensor", "broadcast"]

NOMINAL = 1 << 16
"""The assumed size of an extent that is not static: large, so that the positions that a border
adds or removes do not determine what is cheaper."""

_SMALL = (1, 2, 3, 4, 6, 9)
SCENARIOS: tuple[Callable[[int], int], ...] = (
    lambda axis: NOMINAL,
    *((lambda axis, size=size: size) for size in _SMALL),
    *((lambda axis, odd=odd: 1 if axis % 2 == odd else NOMINAL) for odd in (0, 1)),
)
"""Assumed extents that are not static, by axis. The first scenario determines what is cheaper; a
rewrite must not take more products in any."""


@dataclass(frozen=True)
class Tensor:
    """Facts about a tensor.

    Attributes:
        extents: For each axis an integer, or a symbol if it is not static; None if the rank is
        unknown.
        sizes: For each scenario the extents as integers, for one sample; None with `extents`.
        dtype: The type of its elements.
    """

    extents: tuple[Extent, ...] | None
    sizes: tuple[tuple[int, ...], ...] | None
    dtype: ir.DataType | None
    _positions: dict[int | None, tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, extents: Sequence[Extent] | None, dtype: ir.DataType | None) -> Tensor:
        """Create a tensor from extents, whose symbolic ones are arbitrary."""
        if extents is None:
            return cls(None, None, dtype)
        fixed = all(isinstance(e, int) for e in extents[1:])
        sizes = tuple(
            tuple(
                e if isinstance(e, int) else 1 if axis == 0 else scenario(axis)
                for axis, e in enumerate(extents)
            )
            for scenario in (SCENARIOS[:1] if fixed else SCENARIOS)
        )
        return cls(tuple(extents), sizes, dtype)

    @property
    def rank(self) -> int | None:
        """The rank, if known."""
        return None if self.extents is None else len(self.extents)

    def positions(self, axis: int | None) -> tuple[int, ...]:
        """Count positions per scenario, without the channels of an axis; a free batch is one."""
        if axis not in self._positions:
            self._positions[axis] = self._count(axis)
        return self._positions[axis]

    def _count(self, axis: int | None) -> tuple[int, ...]:
        if self.sizes is None:
            return (1,)
        rank = len(self.sizes[0])
        if axis is None or rank == 0:
            return tuple(map(math.prod, self.sizes))
        at = axis % rank
        return tuple(math.prod(s[:at]) * math.prod(s[at + 1 :]) for s in self.sizes)

    def mapped(self, geometry: Geometry, axes: Axes | None, key: Hashable) -> Tensor:
        """Return the result of a map of this tensor; `key` represents new symbolic extents."""
        if axes is None or self.extents is None or self.sizes is None:
            return self
        rank = len(self.extents)
        first, last = axes[0] % rank, axes[1] % rank

        def shaped(sizes: Sequence[Extent], spatial: Sequence[Extent]) -> tuple[Extent, ...]:
            found = list(sizes)
            found[first], found[last] = found[last], found[first]
            found[last] = geometry.out_channels
            found[2:] = spatial if geometry.rank else found[2:]
            return tuple(found)

        extents = list(self.extents[2:])
        if geometry.rank and not geometry.is_pointwise:
            static = [e if isinstance(e, int) else 1 for e in extents]
            after = geometry.output_extents(static)
            same = [
                c == 0 and s == 1 for c, s in zip(geometry.overhang, geometry.strides, strict=True)
            ]
            same = [s and not geometry.transposed for s in same]
            extents = [
                a if isinstance(e, int) else e if s else (key, i)
                for i, (e, a, s) in enumerate(zip(extents, after, same, strict=True))
            ]
        sizes = tuple(
            shaped(size, geometry.output_extents(size[2:]) if geometry.rank else ())
            for size in self.sizes
        )
        return Tensor(shaped(self.extents, extents), sizes, self.dtype)  # type: ignore[arg-type]

    def viewed(self, op: ViewOp) -> Tensor:
        """Return the result of a view of this tensor."""
        found = Tensor.of(op.target, self.dtype)
        if self.sizes is None or len(self.sizes[0]) != len(op.source):
            return found
        return replace(found, sizes=tuple(_viewed(sizes, op) for sizes in self.sizes))


def _viewed(sizes: tuple[int, ...], op: ViewOp) -> tuple[int, ...]:
    if op.perm is not None:
        return tuple(sizes[axis] for axis in op.perm)
    if op.blocks is not None:
        times = op.blocks.repeat * op.blocks.tile
        block = math.isqrt(times)
        return (sizes[0], sizes[1] // times, sizes[2] * block, sizes[3] * block)
    known = {e: size for e, size in zip(op.source, sizes, strict=True) if not isinstance(e, int)}
    found = [e if isinstance(e, int) else known.get(e, 0) for e in op.target]
    unknown = [i for i, e in enumerate(op.target) if not isinstance(e, int) and e not in known]
    rest = math.prod(size for i, size in enumerate(found) if i not in unknown)
    for i in unknown:
        found[i] = math.prod(sizes) // rest if i == unknown[-1] and rest else 1
    return tuple(found)


def broadcast(tensors: Sequence[Tensor], extents: Tensor) -> Tensor:
    """Return the result of a sum of tensors, with sizes from them."""
    sizes = [t.sizes for t in tensors]
    known = [s for s in sizes if s is not None]
    if len(known) < len(sizes) or len({len(s[0]) for s in known}) != 1:
        return extents
    count = max(map(len, known))
    padded = [s if len(s) == count else s * count for s in known]
    found = tuple(tuple(map(max, *these)) for these in zip(*padded, strict=True))
    return replace(extents, sizes=found)
