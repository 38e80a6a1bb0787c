"""Partition a stretch into nodes at least cost.

Partitions are chosen by geometry only. The best partition of the first j steps is the best one of
the first i - 1 followed by steps i to j as one node, for the best i (dynamic programming).
Intervals instead of pairs find merges that only pay off for three or more layers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.linear.chains.matrices import MatrixChain
from onnx_expand.linear.chains.spans import Merged, Spans
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.chains.units import units_of
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Hub, Map, Price, Term
from onnx_expand.lower import Form, form_of

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
        if len(self.steps) > _LONGEST and self._is_matrix_chain():
            return self._choose_matrices()
        # Per prefix: its key with the number of merges, its price, its last piece. Of equal
        # partitions the one with fewer merges and shorter spans wins: what gains nothing stays.
        best: list[tuple[tuple[int, ...], Price, _Piece | None]] = [((0,), Price(), None)]
        for last in range(len(self.steps)):
            found: tuple[tuple[int, ...], Price, _Piece | None] | None = None
            for piece in self._pieces_ending(last):
                price = self._piece_price(piece)
                before = best[piece.span.first]
                total = before[1] + price
                key = (*self.policy.key(total.cost), before[0][-1] + piece.merge)
                if found is None or key < found[0]:
                    found = key, total, piece
            assert found is not None
            best.append(found)
        backwards: list[_Piece] = []
        chosen = best[-1][2]
        while chosen is not None:
            backwards.append(chosen)
            chosen = best[chosen.span.first][2]
        return best[-1][1], backwards[::-1]

    def _is_matrix_chain(self) -> bool:
        axes = self.steps[0].axes
        if self.rank_at(0) is None or axes is None or not all(map(_is_matrix, self.steps)):
            return False
        bias = any(isinstance(s.geometry, Geometry) and s.geometry.bias for s in self.steps)
        form = form_of(Geometry(2, 2, bias=bias), axes, self.rank_at(0), self.writable)
        return form is (Form.GEMM if self.rank_at(0) == 2 else Form.MATMUL)

    def _choose_matrices(self) -> tuple[Price, list[_Piece]]:
        chain = MatrixChain(
            geometries=[s.geometry for s in self.steps if isinstance(s.geometry, Geometry)],
            shift_only=[step.shift_only for step in self.steps],
            own=[price.cost for price in self._own],
            positions=self._positions_at[0][0],
            gemm=self.rank_at(0) == 2,
        )
        forbidden = {(span.first, span.last) for span in self.forbidden}
        cost, spans = chain.partition(self.policy.weights, forbidden, self.longest)
        return Price(cost), [_Piece(Span(a, b), merge=a < b) for a, b in spans]

    def _pieces_ending(self, last: int) -> Iterator[_Piece]:
        """Yield the pieces that end at a step: unchanged, or merged with steps before it."""
        yield _Piece(Span(last, last), merge=False)
        if isinstance(self.steps[last].top, Hub):
            return  # the argument of a split is not a value by itself
        if self.steps[last].branches and self._merges(Span(last, last)):
            yield _Piece(Span(last, last), merge=True)
        for first in range(last - 1, max(-1, last - min(_LONGEST, self.longest)), -1):
            if first == last - 1 and _is_pair(self.steps[first].top, self.steps[last].top):
                continue  # one map that takes these two nodes
            if self._merges(Span(first, last)):
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
