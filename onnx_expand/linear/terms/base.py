"""Terms: the linear part of a graph as an expression that rules rewrite.

Each term represents one tensor. A term that the source graph computes refers to its node and
value; a term made by a rule has neither until it is written. Weights are composed lazily, in
float64.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost import Cost
from onnx_expand.frames import Frame
from onnx_expand.lift import Axes, Linear
from onnx_expand.linear.terms.scaling import Scaling
from onnx_expand.linear.terms.tensors import Tensor
from onnx_expand.linear.terms.views import ViewOp
from onnx_expand.lower import Form

__all__ = [
    "Concat",
    "ConstantPad",
    "Homogeneous",
    "Map",
    "Price",
    "Read",
    "SplitInput",
    "Sum",
    "Term",
    "View",
    "map_price",
]

Load = Callable[[], AffineConv]


@dataclass(frozen=True)
class Price:
    """The cost of terms: for the deciding scenario, and the products in the others."""

    cost: Cost = field(default_factory=Cost)
    products: tuple[int, ...] = ()

    def __add__(self, other: Price) -> Price:
        return Price(self.cost + other.cost, _paired(operator.add, self, other))

    def __sub__(self, other: Price) -> Price:
        return Price(self.cost - other.cost, _paired(operator.sub, self, other))

    @classmethod
    def sum(cls, prices: Iterable[Price]) -> Price:
        """Return the total cost."""
        return functools.reduce(cls.__add__, prices, cls())

    def never_more(self, other: Price) -> bool:
        """Return whether no scenario has more products than in another price."""
        length = max(len(self.products), len(other.products))
        pairs = zip(self.padded(length), other.padded(length), strict=True)
        return all(mine <= its for mine, its in pairs)

    def padded(self, length: int) -> tuple[int, ...]:
        """Return products for all scenarios, which are equal if extents are static."""
        more = length - len(self.products)
        return self.products + (self.cost.macs,) * more if more else self.products


def _paired(combine: Callable[[int, int], int], a: Price, b: Price) -> tuple[int, ...]:
    length = max(len(a.products), len(b.products))
    return tuple(map(combine, a.padded(length), b.padded(length)))


@dataclass(eq=False)
class Term:
    """A tensor of the linear part of a graph.

    Attributes:
        args: Its arguments.
        tensor: Facts about its tensor.
        value: The value of the source graph that it equals, if any.
        node: The unchanged source node that computes it; None after a rewrite.
        anchor: The source node at whose place it is written.
        like: A source node that computes it from other arguments.
        links: The records of the source nodes that it replaces.
        origins: The source nodes that it replaces, in order.
        names_like: The source nodes whose names it derives, if it replaces none.
        before: The cost of the source nodes that it replaces.
        unit: Whether it is a whole expanded unit, to be written as the layer that it replaced.
    """

    args: tuple[Term, ...]
    tensor: Tensor
    value: ir.Value | None
    node: ir.Node | None
    anchor: ir.Node | None
    like: ir.Node | None = field(default=None, kw_only=True)
    links: tuple[Linear, ...] = field(default=(), kw_only=True)
    origins: tuple[ir.Node, ...] = field(default=(), kw_only=True)
    names_like: tuple[ir.Node, ...] = field(default=(), kw_only=True)
    before: Cost | None = field(default=None, kw_only=True)
    unit: bool = field(default=False, kw_only=True)
    reads: tuple[ir.Value | None, ...] = field(default=(), init=False, repr=False)
    order: int = field(default=0, init=False)

    is_join: ClassVar[bool] = False
    is_opaque: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.reads = tuple(arg.value for arg in self.args)

    @property
    def is_source(self) -> bool:
        """Whether the source node computes it, from unchanged values."""
        if self.node is None:
            return False
        pairs = zip(self.args, self.reads, strict=True)
        return all(a.value is r and (r is not None or isinstance(a, SplitInput)) for a, r in pairs)

    @property
    def sources(self) -> tuple[ir.Node, ...]:
        """The source nodes that it replaces, or the one that computes it."""
        return self.origins or (() if self.node is None else (self.node,))

    @property
    def source_cost(self) -> Cost:
        """The cost of the source nodes that it replaces, or of the term itself."""
        return self.price().cost if self.before is None else self.before

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price()


class Read(Term):
    """A value that no term computes."""

    is_opaque: ClassVar[bool] = True


@dataclass(eq=False)
class Homogeneous(Term):
    """The result of a node that is not a map, but that factors of its arguments pass.

    Attributes:
        like: The source node. slots: The input index of each argument.
        scaling: How factors pass it.
    """

    like: ir.Node = field(kw_only=True)
    slots: tuple[int, ...]
    scaling: Scaling
    is_opaque: ClassVar[bool] = True


@dataclass(eq=False)
class Map(Term):
    """An affine map of one term.

    Attributes:
        geometry: The map; one channel if all are treated alike.
        axes: The channel axes in input and output, None if it fits any axis.
        load: Returns the values.
        shift_only: Whether it only adds.
        form: The form in which it is written; None while the source node computes it.
        nothing: Whether the source node returns its input.
        remaining: Elements of its weight that the model still stores after the node is removed.
    """

    geometry: Geometry
    axes: Axes | None
    load: Load
    shift_only: bool = False
    form: Form | None = None
    own: Cost | None = None
    is_part: bool = False
    nothing: bool = False
    remaining: int = 0
    pair: Map | None = None

    @classmethod
    def made(
        cls,
        arg: Term,
        affine: AffineConv,
        axis: int | None,
        place: Term,
        dtype: ir.DataType | None,
    ) -> Map:
        """Return a map of another term that keeps its shape, in the place of a term.

        Args:
            arg: The other term.
            affine: The map.
            axis: The channel axis; None if it fits any axis.
            place: The term in whose place it is written.
            dtype: The type of its elements if that of the other term is not known.
        """
        axes = None if axis is None else (axis, axis)
        tensor = replace(arg.tensor, dtype=arg.tensor.dtype or dtype)
        geometry, anchor = affine.geometry, place.anchor
        return cls(
            (arg,), tensor, None, None, anchor, geometry, axes, lambda: affine, before=Cost()
        )

    def positions(self) -> tuple[int, ...]:
        """The number of positions at which it multiplies, per scenario."""
        axes = self.axes or (None, None)
        if self.geometry.transposed:
            return self.args[0].tensor.positions(axes[0])
        return self.tensor.positions(axes[1])

    def price(self) -> Price:
        """The cost of its node, or of the node that will be written."""
        if self.own is not None and (self.node is not None or self.like is not None):
            one = self.own
        elif self.form is not None:
            one = Cost.of_form(self.form, self.geometry, 1, self.shift_only)
        else:
            return Price()
        if not (one.macs or one.elementwise or self.nothing or self.is_part):
            # It selects or pools channels and positions.
            one = one._replace(copied=one.copied + self.tensor.positions(None)[0])
        # The weight determines the input channels if the shape does not.
        axis = None if self.axes is None else self.axes[0]
        channels = 1 if axis is None else self.geometry.in_channels
        reads = self.args[0].tensor.positions(axis)[0] * channels
        return map_price(one, self.positions(), reads)


def map_price(one: Cost, positions: tuple[int, ...], reads: int) -> Price:
    """Return the cost of a map.

    Args:
        one: Its cost at one position.
        positions: The number of positions, per scenario.
        reads: The elements that it reads if it multiplies.
    """
    products = tuple(one.macs * count for count in positions)
    cost = one._replace(macs=products[0], elementwise=one.elementwise * positions[0])
    if one.macs:
        cost = cost._replace(copied=one.copied + reads, starts=1)
    return Price(cost, products)


@dataclass(eq=False)
class Sum(Term):
    """A sum of terms, each times a factor.

    Attributes:
        factors: One factor for each argument.
        same: Whether the arguments have the same static extents, so that none is broadcast.
    """

    factors: tuple[float, ...]
    same: bool = False
    is_join: ClassVar[bool] = True

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        steps = len(self.args) - 1
        nodes = 1 if self.node is not None else steps
        return Price(Cost(0, 0, nodes, steps * self.tensor.positions(None)[0]))


@dataclass(eq=False)
class Concat(Term):
    """A concatenation of terms along an axis."""

    axis: int
    is_join: ClassVar[bool] = True
    _placed: tuple[tuple[Term, ...], dict[Term, range]] | None = field(
        default=None, init=False, repr=False
    )

    @property
    def places(self) -> Mapping[Term, range]:
        """The range of each argument on the axis; empty if not static.

        For an argument that occurs more than once it is the last range. All are computed at once,
        since there may be thousands.
        """
        if self._placed is None or self._placed[0] is not self.args:
            self._placed = self.args, self._place()
        return self._placed[1]

    def _place(self) -> dict[Term, range]:
        found, end = dict[Term, range](), 0
        for arg in self.args:
            size = None if arg.tensor.extents is None else arg.tensor.extents[self.axis]
            if not isinstance(size, int):
                return {}
            found[arg] = range(end, end + size)
            end += size
        return found

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price(Cost(0, 0, 1, copied=self.tensor.positions(None)[0]))


@dataclass(eq=False)
class View(Term):
    """A term with other axes and unchanged elements."""

    op: ViewOp

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        moved = self.tensor.positions(None)[0] if self.op.moves else 0
        return Price(Cost(0, 0, 1, transposed=moved))


@dataclass(eq=False)
class ConstantPad(Term):
    """A term padded with one constant per channel."""

    frame: Frame

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price(Cost(0, 0, len(self.frame.nodes)))


@dataclass(eq=False)
class SplitInput(Term):
    """A term that one node splits; each part is a map of it."""

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price(Cost(0, 0, 1, copied=self.tensor.positions(None)[0]))
