"""Terms: the linear part of a graph as an expression that rules rewrite.

Every term stands for one tensor. A term that the source graph computes carries the node and the
value; one that a rule made has neither until it is written. Numbers are composed when somebody
asks for them, in float64.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost import Cost
from onnx_expand.frames import Frame
from onnx_expand.lift import Axes, Linear
from onnx_expand.linear.scaling import Scaling
from onnx_expand.linear.tensors import Tensor
from onnx_expand.linear.views import ViewOp
from onnx_expand.lower import Form

__all__ = ["Cat", "Fill", "Homogeneous", "Hub", "Map", "Price", "Read", "Sum", "Term", "View"]

Load = Callable[[], AffineConv]


@dataclass(frozen=True)
class Price:
    """What terms cost: for the scenario that decides, and their products in the others."""

    cost: Cost = field(default_factory=Cost)
    products: tuple[int, ...] = ()

    def __add__(self, other: Price) -> Price:
        return Price(self.cost + other.cost, _paired(operator.add, self, other))

    def __sub__(self, other: Price) -> Price:
        return Price(self.cost - other.cost, _paired(operator.sub, self, other))

    @classmethod
    def sum(cls, prices: Iterable[Price]) -> Price:
        """What all of them cost."""
        return functools.reduce(cls.__add__, prices, cls())

    def never_more(self, other: Price) -> bool:
        """Whether no scenario takes more products than another price has in it."""
        length = max(len(self.products), len(other.products))
        pairs = zip(self.padded(length), other.padded(length), strict=True)
        return all(mine <= its for mine, its in pairs)

    def padded(self, length: int) -> tuple[int, ...]:
        """Products for so many scenarios; where extents are static all are alike."""
        more = length - len(self.products)
        return self.products + (self.cost.macs,) * more if more else self.products


def _paired(combine: Callable[[int, int], int], a: Price, b: Price) -> tuple[int, ...]:
    length = max(len(a.products), len(b.products))
    return tuple(map(combine, a.padded(length), b.padded(length)))


@dataclass(eq=False)
class Term:
    """A tensor of the linear part of a graph.

    Attributes:
        args: The terms that it is computed from.
        tensor: What is known about it.
        value: The value of the source graph that it equals, if there is one.
        node: The node of the source that computes it as it stands; None once rewritten.
        anchor: The node of the source in whose place it is written.
    """

    args: tuple[Term, ...]
    tensor: Tensor
    value: ir.Value | None
    node: ir.Node | None
    anchor: ir.Node | None
    reads: tuple[ir.Value | None, ...] = field(default=(), init=False, repr=False)
    order: int = field(default=0, init=False)

    is_join: ClassVar[bool] = False
    is_opaque: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.reads = tuple(arg.value for arg in self.args)

    @property
    def is_source(self) -> bool:
        """Whether the source's node computes it from values that mean what they did."""
        if self.node is None:
            return False
        pairs = zip(self.args, self.reads, strict=True)
        return all(a.value is r and (r is not None or isinstance(a, Hub)) for a, r in pairs)

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price()


class Read(Term):
    """A value that something else computes."""

    is_opaque: ClassVar[bool] = True


@dataclass(eq=False)
class Homogeneous(Term):
    """What a node computes that is no map, but lets factors of its arguments pass.

    Attributes:
        like: The node of the source.
        slots: The index of the node's input that each argument is.
        scaling: What it does to factors.
    """

    like: ir.Node
    slots: tuple[int, ...]
    scaling: Scaling
    is_opaque: ClassVar[bool] = True


@dataclass(eq=False)
class Map(Term):
    """An affine map of one term.

    Attributes:
        geometry: The map; one channel where all are treated alike.
        axes: The channel axes in input and output, None if any would do.
        load: Gives the numbers.
        shift_only: Whether it only adds.
        links: The records of the source's nodes that it stands for.
        origins: The nodes of the source that it stands for, in order.
        form: How it is written; None while the source's node is.
        nothing: Whether the source's node hands on what it reads.
        stays: Numbers of its weight that the model goes on storing once the node is gone.
        unit: Whether it is a whole expanded unit, to be written as what that replaced.
        like: A node of the source that computes it, of another argument.
    """

    geometry: Geometry
    axes: Axes | None
    load: Load
    shift_only: bool = False
    links: tuple[Linear, ...] = ()
    origins: tuple[ir.Node, ...] = ()
    form: Form | None = None
    unit: bool = False
    own: Cost | None = None
    is_part: bool = False
    nothing: bool = False
    stays: int = 0
    before: Cost | None = None
    names_like: tuple[ir.Node, ...] = ()
    pair: Map | None = None
    like: ir.Node | None = None

    def positions(self) -> tuple[int, ...]:
        """Per scenario the positions at which it multiplies."""
        axes = self.axes or (None, None)
        if self.geometry.transposed:
            return self.args[0].tensor.positions(axes[0])
        return self.tensor.positions(axes[1])

    def price(self) -> Price:
        """What its node costs, or what it will cost once written."""
        if self.own is not None and (self.node is not None or self.like is not None):
            one = self.own
        elif self.form is not None:
            one = Cost.of_form(self.form, self.geometry, 1, self.shift_only)
        else:
            return Price()
        positions = self.positions()
        counts = tuple(one.macs * count for count in positions)
        elementwise, copied, starts = one.elementwise * positions[0], one.copied, one.starts
        if one.macs:
            # The weight says how many channels are read where the shape does not.
            axis = None if self.axes is None else self.axes[0]
            channels = 1 if axis is None else self.geometry.in_channels
            copied, starts = copied + self.args[0].tensor.positions(axis)[0] * channels, 1
        elif not elementwise and not self.nothing and not self.is_part:
            # It picks or pools channels and positions.
            copied += self.tensor.positions(None)[0]
        parameters, nodes, moved = one.parameters, one.nodes, one.transposed
        return Price(
            Cost(counts[0], parameters, nodes, elementwise, copied, moved, starts), counts
        )


@dataclass(eq=False)
class Sum(Term):
    """A sum of terms, each times a factor.

    Attributes:
        factors: One for each argument.
        same: Whether the arguments have the same static extents, so that none is broadcast there.
    """

    factors: tuple[float, ...]
    same: bool = False
    like: ir.Node | None = None
    is_join: ClassVar[bool] = True

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        steps = len(self.args) - 1
        nodes = 1 if self.node is not None else steps
        return Price(Cost(0, 0, nodes, steps * self.tensor.positions(None)[0]))


@dataclass(eq=False)
class Cat(Term):
    """Terms put after each other along an axis."""

    axis: int
    like: ir.Node | None = None
    is_join: ClassVar[bool] = True
    _placed: tuple[tuple[Term, ...], dict[Term, range]] | None = field(
        default=None, init=False, repr=False
    )

    @property
    def places(self) -> Mapping[Term, range]:
        """Where on the axis each argument stands; empty if that is not static.

        Of an argument that occurs more than once it is the last place. All are found at once, as
        there may be thousands.
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
    """A term with its axes named anew, and no number changed."""

    op: ViewOp
    origins: tuple[ir.Node, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.origins and self.node is not None:
            self.origins = (self.node,)

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        moved = self.tensor.positions(None)[0] if self.op.moves else 0
        return Price(Cost(0, 0, 1, transposed=moved))


@dataclass(eq=False)
class Fill(Term):
    """A term padded with a constant of its own for each channel."""

    frame: Frame

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price(Cost(0, 0, len(self.frame.nodes)))


@dataclass(eq=False)
class Hub(Term):
    """A term that one node cuts into parts; each part is a map of it."""

    def price(self) -> Price:
        """What computing it from its arguments costs."""
        return Price(Cost(0, 0, 1, copied=self.tensor.positions(None)[0]))
