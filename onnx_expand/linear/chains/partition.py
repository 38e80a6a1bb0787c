"""Partition a stretch into nodes at least cost.

Partitions are chosen by geometry only. The best partition of the first j steps is the best one of
the first i - 1 followed by steps i to j as one node, for the best i (dynamic programming).
Intervals instead of pairs find merges that only pay off for three or more layers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.linear.chains.spans import Merged, Spans
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.chains.units import units_of
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Map, Price, SplitInput, Term

__all__ = ["Partition"]

# Longer spans with spatial kernels are not tried: networks do not have that many consecutive ones,
# and the work grows with the square.
_LONGEST = 64
_TRIES = 8


@dataclass(frozen=True)
class _Piece:
    """A span of the chosen partition: one node, or a single unchanged step."""

    span: Span
    merge: bool


@dataclass(eq=False)
class Partition(Spans):
    """Chooses the partition of one stretch.

    Attributes:
        longest: The maximum length of a span.
    """

    longest: int = sys.maxsize

    def forbid(self, span: Span, refusal: Refusal) -> None:
        """Exclude a span whose values cannot be merged.

        After several of them long spans are excluded, since trying each would take too long.
        """
        self.forbidden[span] = refusal
        if len(self.forbidden) > _TRIES:
            self.longest = min(self.longest, max(1, len(span) // 2))

    def choose(self) -> tuple[Price, list[Span]]:
        """Return the price of the best partition, and the spans that it merges."""
        price, pieces = self._search()
        return price, [piece.span for piece in pieces if piece.merge]

    def _search(self) -> tuple[Price, list[_Piece]]:
        if self.policy is Policy.MARKED:
            pieces = self._marked()
            return Price.sum(self._piece_price(piece) for piece in pieces), pieces
        every = range(len(self.steps) + 1)
        found = None if self.forbidden else self._cheapest(self._bottlenecks)
        found = found or self._cheapest(every)
        assert found is not None  # each step alone is a piece
        return found

    def _cheapest(self, cuts: Sequence[int]) -> tuple[Price, list[_Piece]] | None:
        """Return the best partition whose pieces end at some of the cuts; None if there is none.

        Args:
            cuts: Numbers of steps, from none to all of them.
        """
        # Per cut: the key of its prefix with the number of merges, the price, the last piece. Of
        # equal partitions the one with fewer merges and shorter spans wins: what gains nothing
        # stays.
        best: dict[int, tuple[tuple[int, ...], Price, _Piece | None]] = {0: ((0,), Price(), None)}
        for i, end in enumerate(cuts[1:], 1):
            for piece in self._pieces_ending(end - 1, cuts[:i]):
                if piece.span.first not in best:
                    continue
                before = best[piece.span.first]
                total = before[1] + self._piece_price(piece)
                key = (*self.policy.key(total.cost), before[0][-1] + piece.merge)
                if end not in best or key < best[end][0]:
                    best[end] = key, total, piece
        if cuts[-1] not in best:
            return None
        backwards: list[_Piece] = []
        chosen = best[cuts[-1]][2]
        while chosen is not None:
            backwards.append(chosen)
            chosen = best[chosen.span.first][2]
        return best[cuts[-1]][1], backwards[::-1]

    @property
    def _bottlenecks(self) -> Sequence[int]:
        """Return where to cut: in long chains of matrices only where they have fewest channels.

        Of two cuts that leave a and b channels, a <= b, the second only adds products: the pieces
        multiply `m a + a b + b n` numbers, and without it `m a + a n`.
        """
        every = range(len(self.steps) + 1)
        if len(self.steps) <= _LONGEST or not all(map(_is_matrix, self.steps)):
            return every
        counts = [step.channels[1] for step in self.steps[:-1]]
        first, last = counts.index(min(counts)), counts[::-1].index(min(counts))
        return sorted({0, first + 1, len(counts) - last, len(self.steps)})

    def _pieces_ending(self, last: int, cuts: Sequence[int]) -> Iterator[_Piece]:
        """Yield the pieces that end at a step: unchanged, or merged with steps before it."""
        if last == cuts[-1]:
            yield _Piece(Span(last, last), merge=False)
        if isinstance(self.steps[last].top, SplitInput):
            return  # the argument of a split is not a value by itself
        if self.steps[last].branches and self._merges(Span(last, last)):
            yield _Piece(Span(last, last), merge=True)
        for first in reversed(cuts[-min(_LONGEST, self.longest) :]):
            if first == last - 1 and _is_pair(self.steps[first].top, self.steps[last].top):
                continue  # one map that takes these two nodes
            if first < last and self._merges(Span(first, last)):
                yield _Piece(Span(first, last), merge=True)

    def _merges(self, span: Span) -> bool:
        merged = self.merged(span)
        if not isinstance(merged, Merged):
            return False
        if self.policy is Policy.ALWAYS or len(self._positions_at[0]) == 1:
            return True
        return merged.price.never_more(self.as_is(span))

    def _piece_price(self, piece: _Piece) -> Price:
        if not piece.merge:
            return self._own[piece.span.first]
        merged = self.merged(piece.span)
        assert isinstance(merged, Merged)
        return merged.price

    def _marked(self) -> list[_Piece]:
        """Return one piece for each complete expanded unit, and other steps unchanged."""
        pieces, following = [], 0
        for span, _ in units_of(self.steps):
            pieces += [_Piece(Span(i, i), merge=False) for i in range(following, span.first)]
            if isinstance(self.merged(span), Merged):
                pieces.append(_Piece(span, merge=True))
            else:
                alone = range(span.first, span.last + 1)
                pieces += [_Piece(Span(i, i), merge=False) for i in alone]
            following = span.last + 1
        rest = range(following, len(self.steps))
        return pieces + [_Piece(Span(i, i), merge=False) for i in rest]


def _is_pair(first: Term, second: Term) -> bool:
    return isinstance(second, Map) and second.pair is not None and second.pair is first


def _is_matrix(step: Step) -> bool:
    if step.branches or step.axes is None or step.axes[0] != step.axes[1]:
        return False
    geometry = step.geometry
    if not isinstance(geometry, Geometry) or step.view is not None:
        return False
    return geometry.rank == 0 and (geometry.group == 1 or geometry.is_per_channel)
