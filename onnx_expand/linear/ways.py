"""Ways to do without a map where it stands, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.linear.diagonal import Diagonal, fits
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.merge import merged_term, single_nodes
from onnx_expand.linear.partition import Partition
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.spans import Merged
from onnx_expand.linear.steps import Span, Step
from onnx_expand.linear.terms import Cat, Map, Price, Sum, Term
from onnx_expand.lower import Form, form_of

__all__ = ["Search", "Way", "copy_of", "op_name", "refused"]

_FAR = 48  # terms that are looked at for one map
_NARROW = 16  # bits of the types in which a sum of numbers of unlike size loses some
_SEVERAL = 2

Build = Callable[[], Term]


@dataclass(frozen=True)
class Way:
    """One way to do without a map where it stands.

    Attributes:
        before: What that costs which goes.
        after: What that costs which comes.
        swap: Terms that are replaced, and what makes those that replace them.
        scaled: Terms that stay, of other numbers than they had.
        edges: Terms put between two others, as (reader, argument, what makes it).
    """

    before: Price = field(default_factory=Price)
    after: Price = field(default_factory=Price)
    swap: tuple[tuple[Term, Build], ...] = ()
    scaled: tuple[Term, ...] = ()
    edges: tuple[tuple[Term, Term, Build], ...] = ()

    def __add__(self, other: Way) -> Way:
        """Both at once.

        Raises:
            ValueError: They change the same term, of which one would undo the other.
        """
        if not self.is_apart(other):
            raise ValueError("two ways through one term are no way")
        return Way(
            self.before + other.before,
            self.after + other.after,
            self.swap + other.swap,
            self.scaled + other.scaled,
            self.edges + other.edges,
        )

    def joined(self, other: Way) -> Way | None:
        """Both at once; None where they change the same term, and one would undo the other."""
        return self + other if self.is_apart(other) else None

    def is_apart(self, other: Way) -> bool:
        """Whether two ways change different terms."""
        return not (self._changed & other._changed)

    @property
    def _changed(self) -> set[Term | tuple[Term, Term]]:
        between = {(reader, arg) for reader, arg, _ in self.edges}
        return {*(old for old, _ in self.swap), *self.scaled, *between}

    @property
    def is_free(self) -> bool:
        """Whether it adds no product, and no pass over a tensor."""
        before, after = self.before.cost, self.after.cost
        return after.macs <= before.macs and after.elementwise <= before.elementwise

    def taken(self) -> Swap:
        """The rewrite.

        Raises:
            RefusedError: Its numbers are none that can be written.
        """
        swap: Swap = {}
        for old, build in self.swap:
            swap[old] = _as_nodes(build())
        inserted: dict[Term, dict[Term, Term]] = {}
        for reader, arg, build in self.edges:
            inserted.setdefault(reader, {})[arg] = _as_nodes(build())
        for reader, news in inserted.items():
            base = swap.get(reader, reader)
            swap[reader] = copy_of(base, tuple(news.get(arg, arg) for arg in base.args))
        return swap


def _as_nodes(term: Term) -> Term:
    """A term as those that its nodes are, so that each may move on for itself."""
    return single_nodes(term) if isinstance(term, Map) and term.form is not None else term


def copy_of(term: Term, args: tuple[Term, ...]) -> Term:
    """A term like one of the source, of other arguments, to be written anew."""
    new = replace(term, args=args, node=None, value=None)
    if isinstance(new, Sum | Cat | Map):
        new.like = new.like or term.node
    return new


def op_name(term: Term) -> str:
    """The op that computes a term, for messages."""
    node = term.node or getattr(term, "like", None) or term.anchor
    return "an input" if node is None else node.op_type


def refused(reason: Reason, message: str) -> Refusal:
    """Why a factor stays where it is."""
    return Refusal(reason, f"it goes into no other node: {message}")


class Search:
    """Looks for where one diagonal map may go.

    Attributes:
        terms: All terms.
        source: The map.
        refusals: What stood in the way, the nearest first.
    """

    def __init__(self, terms: Terms, source: Map) -> None:
        self.terms = terms
        self.source = source
        self.refusals: list[Refusal] = []
        self._policy = terms.policy.counting
        self._left = _FAR

    def step(self, term: Term) -> bool:
        """Whether one more term may be looked at; the map is looked at anew when it changes."""
        self.terms.watch(term, self.source)
        self._left -= 1
        return self._left >= 0

    def refuse(self, reason: Reason, message: str) -> None:
        """Note what stands in the way."""
        self.refusals.append(refused(reason, message))

    def refuse_readers(self, term: Term) -> None:
        """Note that something else reads a term whose numbers would change."""
        name = "" if term.value is None else term.value.name
        if any(value.is_graph_output() for value in self.terms.roots.get(term, ())):
            self.refuse(Reason.OUTPUT, f"'{name}' is an output of the graph")
        else:
            self.refuse(Reason.SHARED, f"something else reads '{name}' as well")

    # -- Weighing ---------------------------------------------------------------------------

    def gain(self, way: Way) -> tuple[int, ...]:
        """What a way adds to the cost; negative for what it saves."""
        before, after = self._policy.key(way.before.cost), self._policy.key(way.after.cost)
        return tuple(a - b for a, b in zip(after, before, strict=True))

    def best(self, ways: Iterable[Way | None]) -> Way | None:
        """The way that costs least."""
        return min((way for way in ways if way is not None), key=self.gain, default=None)

    def is_worth(self, way: Way) -> bool:
        """Whether a way costs less than the map where it stands, at no size more products.

        Numbers that are stored more are weighed against the pass over a tensor that goes.
        """
        own = self.source.price()
        total = replace(way, before=way.before + own)
        gain = self.gain(total)
        most = total.before.cost.parameters + own.cost.elementwise
        if self._policy is Policy.ALWAYS:
            return gain < (0,) * len(gain)
        # Where it comes to stand as several nodes, these together treat half of the numbers.
        more = way.after.cost.elementwise - way.before.cost.elementwise
        is_nearer = len(way.edges) < _SEVERAL or 2 * more <= own.cost.elementwise
        if gain >= (0,) * len(gain) or way.after.cost.parameters > most or not is_nearer:
            self.refuse(Reason.COST, "there it would cost as much")
            return False
        return way.after.never_more(total.before)

    def holds(self, term: Term, diagonal: Diagonal, *, comes: bool = True) -> bool:
        """Whether a term may have other numbers, by a map that comes to it, or leaves it."""
        dtype = term.tensor.dtype or self.source.tensor.dtype
        with np.errstate(divide="ignore"):
            factor = diagonal.scale if comes else 1 / diagonal.scale
        shifts = diagonal.shift is not None
        if fits(factor, dtype) and not (shifts and _is_narrow(dtype)):
            return True
        message = f"what {op_name(term)} computes would be of another size than {dtype} may hold"
        self.refuse(Reason.OVERFLOW, message)
        return False

    # -- Maps -------------------------------------------------------------------------------

    def mapped(self, arg: Term, diagonal: Diagonal, place: Term) -> Map:
        """A diagonal map of a term, in the place of another."""
        affine = diagonal.affine()
        return Map(
            (arg,),
            replace(arg.tensor, dtype=arg.tensor.dtype or self.source.tensor.dtype),
            None,
            None,
            place.anchor,
            affine.geometry,
            None if diagonal.axis is None else (diagonal.axis, diagonal.axis),
            lambda: affine,
            shift_only=not diagonal.scales,
            origins=self.source.origins,
            before=Cost(),
        )

    def node(
        self, arg: Term, diagonal: Diagonal, place: Term, *, anywhere: bool = False
    ) -> Map | None:
        """A diagonal map as a node; None where it cannot be written, or is not worth moving.

        Args:
            arg: What it reads.
            diagonal: The map.
            place: The term in whose place it comes.
            anywhere: Whether it need not have half of the numbers of the source to treat.
        """
        node = self.mapped(arg, diagonal, place)
        rank, writable = arg.tensor.rank, self.terms.facts.writable(node.tensor.dtype)
        form = form_of(node.geometry, node.axes, rank, writable, scales=diagonal.scales)
        if form is not Form.ELEMENTWISE or (arg.tensor.sizes is None and not anywhere):
            return None
        node.form = form
        own, there = self.source.price().cost, node.price().cost
        return node if anywhere or 2 * there.elementwise <= own.elementwise else None

    def partition(self, root: Term, run: Sequence[Step]) -> Partition:
        """A partition of steps, in which nothing is added before a scale."""
        terms = self.terms
        known = terms.forbidden
        return Partition(root, run, self._policy, terms.facts, may_shift=False, known=known)

    def merged(
        self, part: Partition, spans: Sequence[tuple[Span, Span]], place: Callable[[Span], Term]
    ) -> Way | None:
        """The best of some spans as one map.

        Args:
            part: A partition.
            spans: Spans, each with what there is of it without the map that moves.
            place: Gives the term in whose place a span comes.
        """
        ways = [self._one(part, span, own, place(span)) for span, own in spans]
        way = self.best(ways)
        why = part.merged(spans[0][0]) if spans and way is None else None
        if isinstance(why, Refusal):
            self.refusals.append(why)
        return way

    def _one(self, part: Partition, span: Span, own: Span, place: Term) -> Way | None:
        found = part.merged(span)
        if not isinstance(found, Merged):
            return None

        def build() -> Term:
            new = merged_term(part, span, place=place)
            if isinstance(new, Refusal):
                raise RefusedError(new)
            new.value = None  # that of the term whose place it takes
            return new

        return Way(part.as_is(own), found.price, ((place, build),))


def _is_narrow(dtype: ir.DataType | None) -> bool:
    return dtype is None or dtype.bitwidth <= _NARROW
