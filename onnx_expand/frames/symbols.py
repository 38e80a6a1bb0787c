"""Symbolic extents: sums of symbols, and comparisons that hold for all values of the symbols."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.lift import Linear, lift

__all__ = ["Size", "UndecidedError", "sizes_of"]


class UndecidedError(Exception):
    """The result depends on extents that are not static."""


@dataclass(frozen=True)
class Size:
    """An integer plus integer multiples of symbols, each of which is at least 1.

    Attributes:
        number: The constant term.
        symbols: The nonzero coefficient of each symbol.
    """

    number: int = 0
    symbols: Mapping[Hashable, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.number, frozenset(self.symbols.items())))

    def __eq__(self, other: object) -> bool:
        mine, its = self._parts(), _size(other)._parts()  # type: ignore[arg-type]
        return mine == its

    def _parts(self) -> tuple[int, dict[Hashable, int]]:
        return self.number, dict(self.symbols)

    def __add__(self, other: Size | int) -> Size:
        number, symbols = _size(other)._parts()
        counts = {
            key: self.symbols.get(key, 0) + symbols.get(key, 0)
            for key in self.symbols.keys() | symbols.keys()
        }
        return Size(self.number + number, {key: n for key, n in counts.items() if n})

    __radd__ = __add__

    def __mul__(self, factor: Size | int) -> Size:
        one, other = self, _size(factor)
        if other.symbols:
            one, other = other, one
        if other.symbols:
            raise UndecidedError
        counts = {key: n * other.number for key, n in one.symbols.items() if other.number}
        return Size(one.number * other.number, counts)

    __rmul__ = __mul__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size | int) -> Size:
        return self + -_size(other)

    def __rsub__(self, other: Size | int) -> Size:
        return _size(other) - self

    def __ge__(self, other: Size | int) -> bool:
        """Return whether the size is at least `other`, for all values of the symbols.

        Raises:
            UndecidedError: The answer may depend on the values.
        """
        rest = self - other
        bound = rest.number + sum(rest.symbols.values())  # where each symbol is 1
        if min(rest.symbols.values(), default=0) >= 0 and bound >= 0:
            return True
        if max(rest.symbols.values(), default=0) <= 0 and bound < 0:
            return False
        raise UndecidedError

    def __le__(self, other: Size | int) -> bool:
        return _size(other) >= self

    def __lt__(self, other: Size | int) -> bool:
        return not self >= other

    def __gt__(self, other: Size | int) -> bool:
        return not self <= other


def _size(value: Size | int) -> Size:
    return value if isinstance(value, Size) else Size(int(value))


_FAR = 64  # the largest number of producers followed


def sizes_of(value: ir.Value, facts: Facts, base: ir.Value) -> tuple[Size, ...] | None:
    """Return the extents of a value as sums of those of a base value, which are the symbols.

    All extents of the base value are at least 1.
    """
    shape = facts.named_shape(value)
    if shape is None:
        return None
    known = {}
    for axis, size in enumerate(facts.named_shape(base) or ()):
        if not isinstance(size, int):
            root, offset = _origin(base, axis, facts)
            known[root] = Size(-offset, {(base, axis): 1})
    found = []
    for axis, size in enumerate(shape):
        root, offset = _origin(value, axis, facts)
        found.append(
            Size(size) if isinstance(size, int) else known.get(root, Size(0, {root: 1})) + offset
        )
    return tuple(found)


def _origin(value: ir.Value, axis: int, facts: Facts) -> tuple[Hashable, int]:
    """Return the value and axis, or name, from which an extent derives, and the difference."""
    offset = 0
    for _ in range(_FAR):
        node = value.producer()
        step = None if node is None else _step(node, axis, facts)
        if step is None:
            break
        value, offset = step[0], offset + step[1]
    dims = facts.named_shape(value)
    name = None if dims is None else dims[axis]
    return (value, axis) if name is None else name, offset


def _step(node: ir.Node, axis: int, facts: Facts) -> tuple[ir.Value, int] | None:
    """Return the input from which an output's extent on an axis derives, and the difference."""
    linear = lift(node, facts)
    if isinstance(linear, Linear):
        geometry, axes = linear.geometry, linear.axes
        rank = facts.rank(linear.x)
        if rank != facts.rank(linear.y) or rank is None or axis >= rank:
            return None
        if axes is not None and (axes[0] != axes[1] or axis == axes[0] % rank):
            return None
        if geometry.is_pointwise or not geometry.rank:
            return linear.x, 0
        return _moved(linear.x, geometry, axis - 2)
    unary = Trait.KEEPS_RANK | Trait.ELEMENTWISE
    x = node.inputs[0] if unary in op_of(node).traits and node.inputs else None
    return None if x is None else (x, 0)


def _moved(x: ir.Value, geometry: Geometry, axis: int) -> tuple[ir.Value, int] | None:
    if axis < 0:
        return x, 0
    if geometry.is_anchored or geometry.strides[axis] != 1:
        return None
    return x, geometry.overhang[axis]
