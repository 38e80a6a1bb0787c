"""Moves of a map to another place, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.linear.chains.merge import merged_term, single_nodes
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.spans import Merged
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.diagonal import Diagonal, fits
from onnx_expand.linear.terms.base import Concat, Map, Price, Sum, Term
from onnx_expand.lower import Form, form_of

__all__ = ["Move", "Search", "copy_of", "merged_move", "op_name", "refused"]

_FAR = 48  # maximum number of terms to visit for one map
_NARROW = 16  # bits of types in which a sum of values of different magnitude loses precision
_SEVERAL = 2

Build = Callable[[], Term]


@dataclass(frozen=True)
class Move:
    """One way to move a map to another place.

    Attributes:
        before: The cost of the removed terms.
        after: The cost of the new terms.
        swap: The replaced terms, with functions that create their replacements.
        scaled: Terms that stay, with other contents.
        edges: Terms inserted between two others, as (consumer, argument, function).
    """

    before: Price = field(default_factory=Price)
    after: Price = field(default_factory=Price)
    swap: tuple[tuple[Term, Build], ...] = ()
    scaled: tuple[Term, ...] = ()
    edges: tuple[tuple[Term, Term, Build], ...] = ()

    @classmethod
    def together(cls, moves: Sequence[Move]) -> Move | None:
        """Combine moves; return None if two of them change the same term."""
        changed = [place for move in moves for place in move._changed]
        if len(set(changed)) < len(changed):
            return None
        return cls(
            Price.sum(move.before for move in moves),
            Price.sum(move.after for move in moves),
            tuple(swap for move in moves for swap in move.swap),
            tuple(term for move in moves for term in move.scaled),
            tuple(edge for move in moves for edge in move.edges),
        )

    def joined(self, other: Move) -> Move | None:
        """Combine both; return None if they change the same term."""
        return Move.together([self, other])

    @property
    def _changed(self) -> set[Term | tuple[Term, Term]]:
        between = {(reader, arg) for reader, arg, _ in self.edges}
        return {*(old for old, _ in self.swap), *self.scaled, *between}

    @property
    def is_free(self) -> bool:
        """Whether it adds neither products nor passes over tensors."""
        before, after = self.before.cost, self.after.cost
        return after.macs <= before.macs and after.elementwise <= before.elementwise

    def replacements(self) -> Swap:
        """Return the rewrite.

        Raises:
            RefusedError: Its values cannot be written.
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
    """Split a term into the terms of its nodes, so that each can move separately."""
    return single_nodes(term) if isinstance(term, Map) and term.form is not None else term


def copy_of(term: Term, args: tuple[Term, ...]) -> Term:
    """Copy a source term with other arguments."""
    like = term.like or (term.node if isinstance(term, Sum | Concat | Map) else None)
    return replace(term, args=args, node=None, value=None, like=like)


def op_name(term: Term) -> str:
    """Return the op of a term, for messages."""
    node = term.node or term.like or term.anchor
    return "an input" if node is None else node.op_type


def refused(reason: Reason, message: str) -> Refusal:
    """Return the refusal of a factor that stays."""
    return Refusal(reason, f"no other node absorbs it: {message}")


class Search:
    """Searches for where one diagonal map can move.

    Attributes:
        terms: All terms.
        source: The map.
        refusals: The obstacles, the nearest first.
        limited: Whether values must stay in the range of their type.
        limit: The obstacle that values would leave the range of their type, if there is one.
    """

    def __init__(self, terms: Terms, source: Map, *, limited: bool = True) -> None:
        self.terms = terms
        self.source = source
        self.limit: Refusal | None = None
        self.limited = limited
        self.refusals: list[Refusal] = []
        self._policy = terms.policy
        self._left = _FAR

    def step(self, term: Term) -> bool:
        """Return whether one more term may be visited; its changes will revisit the map."""
        self.terms.watch(term, self.source)
        self._left -= 1
        return self._left >= 0

    def refuse(self, reason: Reason, message: str) -> None:
        """Record an obstacle."""
        self.refusals.append(refused(reason, message))

    def refuse_readers(self, term: Term) -> None:
        """Record that a term whose contents would change has other consumers."""
        name = "" if term.value is None else term.value.name
        if any(value.is_graph_output() for value in self.terms.roots.get(term, ())):
            self.refuse(Reason.OUTPUT, f"'{name}' is an output of the graph")
        else:
            self.refuse(Reason.SHARED, f"'{name}' has other consumers")

    # -- Weighing ---------------------------------------------------------------------------

    def gain(self, move: Move) -> tuple[int, ...]:
        """Return the change of the cost by a move; negative if it saves."""
        before, after = self._policy.key(move.before.cost), self._policy.key(move.after.cost)
        return tuple(a - b for a, b in zip(after, before, strict=True))

    def best(self, moves: Iterable[Move | None]) -> Move | None:
        """Return the move of least cost."""
        return min((move for move in moves if move is not None), key=self.gain, default=None)

    def is_worth(self, move: Move) -> bool:
        """Return whether a move costs less than the map, and no more products at any size.

        Additional stored elements are weighed against the saved pass over a tensor.
        """
        own = self.source.price()
        total = replace(move, before=move.before + own)
        gain = self.gain(total)
        most = total.before.cost.parameters + own.cost.elementwise
        if self._policy is Policy.ALWAYS:
            return gain < (0,) * len(gain)
        # If it becomes several nodes, these together must process at most half of the elements.
        more = move.after.cost.elementwise - move.before.cost.elementwise
        is_nearer = len(move.edges) < _SEVERAL or 2 * more <= own.cost.elementwise
        if gain >= (0,) * len(gain) or move.after.cost.parameters > most or not is_nearer:
            self.refuse(Reason.COST, "it would cost as much there")
            return False
        return move.after.never_more(total.before)

    def holds(self, term: Term, diagonal: Diagonal, *, comes: bool = True) -> bool:
        """Return whether the values of a term may change by a map that is added or removed."""
        dtype = term.tensor.dtype or self.source.tensor.dtype
        with np.errstate(divide="ignore"):
            factor = diagonal.scale if comes else 1 / diagonal.scale
        shifts = diagonal.shift is not None
        if not self.limited or (fits(factor, dtype) and not (shifts and _is_narrow(dtype))):
            return True
        message = f"what {op_name(term)} computes would be of another size than {dtype} may hold"
        self.refuse(Reason.OVERFLOW, message)
        self.limit = self.limit or self.refusals[-1]
        return False

    # -- Maps -------------------------------------------------------------------------------

    def mapped(self, arg: Term, diagonal: Diagonal, place: Term) -> Map:
        """Return a diagonal map of a term, in the place of another term."""
        dtype, affine = self.source.tensor.dtype, diagonal.affine()
        found = Map.made(arg, affine, diagonal.axis, place, dtype)
        return replace(found, shift_only=not diagonal.scales, origins=self.source.origins)

    def node(
        self, arg: Term, diagonal: Diagonal, place: Term, *, anywhere: bool = False
    ) -> Map | None:
        """Return a diagonal map as a node; None if it cannot be written or is not worth moving.

        Args:
            arg: Its argument.
            diagonal: The map.
            place: The term that it replaces.
            anywhere: Whether it may process more than half of the elements of the source map.
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
        """Return a partition of steps in which no shift is split from its scale."""
        terms = self.terms
        known = terms.forbidden
        return Partition(root, run, self._policy, terms.facts, may_shift=False, known=known)

    def merged(
        self, part: Partition, spans: Sequence[tuple[Span, Span]], place: Callable[[Span], Term]
    ) -> Move | None:
        """Return the best of some spans as one map.

        Args:
            part: A partition.
            spans: Spans, each with its price without the moving map.
            place: Returns the term that a span replaces.
        """
        moves = [merged_move(part, span, own, place(span)) for span, own in spans]
        move = self.best(moves)
        why = part.merged(spans[0][0]) if spans and move is None else None
        if isinstance(why, Refusal):
            self.refusals.append(why)
        return move


def merged_move(part: Partition, span: Span, own: Span, place: Term) -> Move | None:
    """Return the move that writes a span as one map; None if it is not one.

    Args:
        part: A partition.
        span: The span, including the moving map.
        own: The span without the moving map, for the cost that it has now.
        place: The term that the span replaces.
    """
    found = part.merged(span)
    if not isinstance(found, Merged):
        return None

    def build() -> Term:
        new = merged_term(part, span, place=place)
        if isinstance(new, Refusal):
            raise RefusedError(new)
        new.value = None  # the value of the term that it replaces
        return new

    return Move(part.as_is(own), found.price, ((place, build),))


def _is_narrow(dtype: ir.DataType | None) -> bool:
    return dtype is None or dtype.bitwidth <= _NARROW
