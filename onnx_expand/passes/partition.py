"""Which elements of a region become one node: the partition of least cost.

Partitions are chosen by geometry alone. The best partition of the first j elements is the best one
of the first i - 1 followed by elements i to j as one node, for the best i (dynamic programming);
looking at intervals, not at pairs, finds merges that only pay once three or more layers are one. A
join is one element of its chain; where it stays, its branches are partitioned for themselves.
"""

from __future__ import annotations

import bisect
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.cost import Cost
from onnx_expand.elements import (
    Element,
    Join,
    Leaf,
    chain_affine,
    chain_geometry,
    next_geometry,
)
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.geometry import Geometry
from onnx_expand.layouts import Layout, layouts_of
from onnx_expand.lift import Axes, Linear
from onnx_expand.lower import Form, form_of
from onnx_expand.passes.matrices import MatrixChain
from onnx_expand.passes.units import Member, unit_member
from onnx_expand.regions import NOMINAL, Break
from onnx_expand.renames import Rename
from onnx_expand.values import Facts

__all__ = ["NOT_MARKED", "Merged", "Partitioner", "Policy", "Span", "units_of"]

# Longer spans are not looked at where kernels have spatial axes: no network has so many of them
# with nothing in between, and the work grows with the square.
_LONGEST = 64
_TRIES = 8


class Policy(StrEnum):
    """What to merge."""

    AUTO = "auto"
    """`marked` for a model that went through expand, `cheapest` for any other."""
    CHEAPEST = "cheapest"
    """The fewest multiply-accumulates, then elementwise steps, then parameters, then nodes."""
    ALWAYS = "always"
    """The fewest nodes, then multiply-accumulates, then elementwise steps, then parameters."""
    MARKED = "marked"
    """What expand made, and nothing else: the model is given back as it was."""
    LATENCY = "latency"
    """The least time, measured in onnxruntime on this machine."""

    @property
    def columns(self) -> tuple[int, ...]:
        """The order in which macs, parameters, nodes and elementwise steps are minimized."""
        return (2, 0, 3, 1) if self is Policy.ALWAYS else (0, 3, 1, 2)

    def key(self, cost: Cost) -> tuple[int, ...]:
        """What this policy minimizes."""
        figures = (cost.macs, cost.parameters, cost.nodes, cost.elementwise)
        return tuple(figures[column] for column in self.columns)


@dataclass(frozen=True)
class Span:
    """Elements `first` to `last` of a chain, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Merged:
    """A span as a single map.

    Attributes:
        geometry: The map.
        form: How it is written.
        axes: Its channel axes.
        cost: What it costs, renames around it included.
        rank: The rank of the tensors that it maps, where known.
        layout: Where it stands, if there are renames in the span.
        shifted: How many elements at the beginning scale and shift each channel and pass on their
            scale alone: the shift, which padding must not see, is added before.
    """

    geometry: Geometry
    form: Form
    axes: Axes | None
    cost: Cost
    rank: int | None
    layout: Layout | None = None
    shifted: int = 0


@dataclass(frozen=True)
class _Piece:
    """A span of the chosen partition: one node, or a single element left as it is."""

    span: Span
    merge: bool


Clock = Callable[["Partitioner", Span, bool], int | None]


@dataclass(eq=False)
class Partitioner:
    """Chooses the partition of one chain of elements, and of the branches within.

    Attributes:
        elements: The chain.
        extents: Spatial extents of its input.
        rank: The rank of the tensors along it, where known.
        facts: What is known about the model.
        forbidden: Spans that turned out not to merge, with the reason.
        longest: No longer span is looked at.
        clock: Measures what a span takes, merged or as it is, in nanoseconds; None where it does
            not run. Needed for the policy `latency`, which is `cheapest` without one.
        may_shift: Whether a shift may be split from its scale.
    """

    elements: Sequence[Element]
    extents: tuple[int, ...]
    rank: int | None
    facts: Facts
    forbidden: dict[Span, Refusal] = field(default_factory=dict)
    longest: int = sys.maxsize
    clock: Clock | None = None
    may_shift: bool = True
    _chosen: tuple[object, tuple[Cost, list[_Piece]]] | None = None

    def forbid(self, span: Span, refusal: Refusal) -> None:
        """Leave out a span whose numbers turned out not to merge.

        After several of them long spans are given up: trying each in turn would take forever.
        """
        self.forbidden[span] = refusal
        if len(self.forbidden) > _TRIES:
            self.longest = min(self.longest, max(1, len(span) // 2))

    # -- Choosing ---------------------------------------------------------------------------

    def merges(self, policy: Policy) -> Iterator[tuple[Partitioner, Span]]:
        """The spans to merge, each with the chain it lies in."""
        for piece in self._choose(policy)[1]:
            if piece.merge:
                yield self, piece.span
            else:
                for branch in self._branches(piece.span.first):
                    yield from branch.merges(policy)

    def best(self, policy: Policy) -> Cost:
        """The cost of the chosen partition."""
        return self._choose(policy)[0]

    def _choose(self, policy: Policy) -> tuple[Cost, list[_Piece]]:
        """The best partition and its cost, found anew only when more has been forbidden."""
        state = (policy, self._count_forbidden())
        if self._chosen is None or self._chosen[0] != state:
            self._chosen = state, self._search(policy)
        return self._chosen[1]

    def _count_forbidden(self) -> int:
        inner = (sub._count_forbidden() for subs in self._subs.values() for sub in subs)
        return len(self.forbidden) + sum(inner)

    def _search(self, policy: Policy) -> tuple[Cost, list[_Piece]]:
        if policy is Policy.MARKED:
            pieces = self._marked()
            return sum_costs(self._piece_cost(piece, policy) for piece in pieces), pieces
        if len(self.elements) > _LONGEST and self._is_matrix_chain():
            return self._choose_matrices(policy)
        # Per prefix: its key with the number of merges, its cost, its last piece. Of equal
        # partitions the one with fewer merges and shorter spans wins: what gains nothing stays.
        best: list[tuple[tuple[int, ...], Cost, _Piece | None]] = [((0,) * 5, Cost(), None)]
        for last in range(len(self.elements)):
            found: tuple[tuple[int, ...], Cost, _Piece | None] | None = None
            for piece in self._pieces_ending(last):
                cost = self._piece_cost(piece, policy)
                before = best[piece.span.first]
                total = before[1] + cost
                key = (*policy.key(total), before[0][-1] + piece.merge)
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
        axes = self.elements[0].axes
        if self.rank is None or axes is None or not all(map(_is_matrix, self.elements)):
            return False
        return isinstance(form_of(Geometry(2, 2), axes, self.rank), Form)

    def _choose_matrices(self, policy: Policy) -> tuple[Cost, list[_Piece]]:
        chain = MatrixChain(
            geometries=[e.geometry for e in self.elements if isinstance(e.geometry, Geometry)],
            shift_only=[element.shift_only for element in self.elements],
            own=[self._leaf_cost(i) for i in range(len(self.elements))],
            positions=math.prod(self.extents),
            gemm=self.rank == 2,
        )
        forbidden = {(span.first, span.last) for span in self.forbidden}
        cost, spans = chain.partition(policy.columns, forbidden, self.longest)
        return cost, [_Piece(Span(a, b), merge=a < b) for a, b in spans]

    def _pieces_ending(self, last: int) -> Iterator[_Piece]:
        """The pieces that end at an element: as it is, or merged with those before it."""
        yield _Piece(Span(last, last), merge=False)
        if isinstance(self.elements[last], Join) and self._merges(Span(last, last)):
            yield _Piece(Span(last, last), merge=True)
        for first in range(last - 1, max(-1, last - min(_LONGEST, self.longest)), -1):
            if self._merges(Span(first, last)):
                yield _Piece(Span(first, last), merge=True)

    def _merges(self, span: Span) -> bool:
        return isinstance(self.merged(span), Merged)

    def _piece_cost(self, piece: _Piece, policy: Policy) -> Cost:
        cost = self._counted(piece, policy)
        if policy is not Policy.LATENCY or self.clock is None:
            return cost
        if piece not in self._timed:
            self._timed[piece] = self.clock(self, piece.span, piece.merge)
        taken = self._timed[piece]
        if taken is None:
            taken = sys.maxsize if piece.merge else 0
        branches = () if piece.merge else self._branches(piece.span.first)
        return replace(cost, macs=taken + sum(branch.best(policy).macs for branch in branches))

    def _counted(self, piece: _Piece, policy: Policy) -> Cost:
        if piece.merge:
            merged = self.merged(piece.span)
            assert isinstance(merged, Merged)
            return merged.cost
        element = self.elements[piece.span.first]
        if isinstance(element, Leaf):
            return self._leaf_cost(piece.span.first)
        if isinstance(element, Rename):
            return Cost(0, 0, 1)
        branches = self._branches(piece.span.first)
        return sum_costs(branch.best(policy) for branch in branches) + self._join_cost(element)

    def _marked(self) -> list[_Piece]:
        """One piece for each complete expanded unit; all else as it is."""
        pieces, following = [], 0
        for span, _ in units_of(self.elements):
            pieces += [_Piece(Span(i, i), merge=False) for i in range(following, span.first)]
            if self._merges(span):
                pieces.append(_Piece(span, merge=True))
            else:
                alone = range(span.first, span.last + 1)
                pieces += [_Piece(Span(i, i), merge=False) for i in alone]
            following = span.last + 1
        rest = range(following, len(self.elements))
        return pieces + [_Piece(Span(i, i), merge=False) for i in rest]

    # -- Spans ------------------------------------------------------------------------------

    def merged(self, span: Span) -> Merged | Refusal:
        """A span as one map, or why it is none."""
        if span in self.forbidden:
            return self.forbidden[span]
        inside = self.inside(span)
        if inside[0].leaves_parts():
            return Refusal(Reason.SHARED, "other channels of the same node go elsewhere")
        if self._has_renames(span):
            return self._merged_across(span)
        geometry = self._geometry(span)
        if isinstance(geometry, Refusal):
            shifted = self._shifted(span) if geometry.reason is Reason.BORDER else None
            return shifted or geometry
        positions = self._positions(geometry, span)
        return self._as_form(inside, geometry, positions, self.rank_at(span.first))

    def _shifted(self, span: Span) -> Merged | None:
        """A span as an addition and one map, where only the shift at its beginning is in the way.

        `s x + b` is `s (x + b / s)`: padding zeros behind it is exact for the scale.
        """
        if not self.may_shift:
            return None
        last = span.first
        while last < span.last and self._is_per_channel(Span(span.first, last)):
            before = self._geometry(Span(span.first, last))
            rest = self._geometry(Span(last + 1, span.last))
            last += 1
            if not isinstance(before, Geometry) or not isinstance(rest, Geometry):
                continue
            joined = replace(before, bias=False).then(rest)
            if isinstance(joined, Refusal) or not before.bias:
                continue
            key = span, last
            if key not in self._can_shift:
                self._can_shift[key] = self._is_shift(Span(span.first, last - 1))
            if not self._can_shift[key]:
                continue
            positions = self._positions(joined, span)
            merged = self._as_form(self.inside(span), joined, positions, self.rank_at(span.first))
            if isinstance(merged, Merged):
                channels = before.out_channels
                added = Cost(0, channels, 1, channels * self._positions_at[span.first])
                return replace(merged, cost=merged.cost + added, shifted=last - span.first)
        return None

    def _is_shift(self, span: Span) -> bool:
        """Whether the shift of every channel can be added before it is scaled."""
        try:
            affine = chain_affine(self.inside(span)).finest()
        except RefusedError:
            return False
        scale = affine.weight.reshape(-1)
        if np.all(scale == 1):
            return False  # there is nothing to pass on
        return affine.bias is not None and not np.any((scale == 0) & (affine.bias != 0))

    def _as_form(
        self, inside: Sequence[Element], geometry: Geometry, positions: int, rank: int | None
    ) -> Merged | Refusal:
        known = [element.axes for element in inside if element.axes is not None]
        axes = (known[0][0], known[-1][1]) if known else None
        form = form_of(geometry, axes, rank)
        if isinstance(form, Refusal):
            return form
        shift_only = all(element.shift_only for element in inside)
        cost = Cost.of_form(form, geometry, positions, shift_only)
        return Merged(geometry, form, axes, cost, rank)

    def _has_renames(self, span: Span) -> bool:
        at = bisect.bisect_left(self._renames, span.first)
        return at < len(self._renames) and self._renames[at] <= span.last

    def _merged_across(self, span: Span) -> Merged | Refusal:
        """A span with renames in it as one map with the fewest renames around it."""
        if span not in self._across:
            self._across[span] = self._layout(span)
        return self._across[span]

    def _layout(self, span: Span) -> Merged | Refusal:
        inside = self.inside(span)
        nothing = Refusal(Reason.GEOMETRY, "there is nothing but changes of layout")
        if all(isinstance(element, Rename) for element in inside):
            return nothing
        layouts = layouts_of(inside)
        if isinstance(layouts, Refusal):
            return layouts
        refusals: list[Refusal | None] = []
        found: list[Merged] = []
        for layout in layouts:
            geometry = chain_geometry(layout.elements)
            if not isinstance(geometry, Geometry):
                refusals.append(geometry)
                continue
            start, end = (span.first + index for index in layout.home)
            positions = self._positions(geometry, Span(start, end - 1))
            merged = self._as_form(layout.elements, geometry, positions, self.rank_at(start))
            if isinstance(merged, Refusal):
                refusals.append(merged)
                continue
            around = Cost(0, 0, len(layout.before) + len(layout.after))
            found.append(replace(merged, cost=merged.cost + around, layout=layout))
        if found:
            return min(found, key=lambda merged: Policy.CHEAPEST.key(merged.cost))
        return next((r for r in refusals if r is not None), nothing)

    def rank_at(self, index: int) -> int | None:
        """The rank of the tensors before an element."""
        at = bisect.bisect_left(self._renames, index)
        if not at:
            return self.rank
        rename = self.elements[self._renames[at - 1]]
        return len(rename.target) if isinstance(rename, Rename) else None

    @functools.cached_property
    def _renames(self) -> list[int]:
        """The indices of elements that are renames."""
        return [i for i, element in enumerate(self.elements) if isinstance(element, Rename)]

    @functools.cached_property
    def _across(self) -> dict[Span, Merged | Refusal]:
        return {}

    def inside(self, span: Span) -> Sequence[Element]:
        """The elements of a span."""
        return self.elements[span.first : span.last + 1]

    def nodes(self, span: Span) -> list[ir.Node]:
        """The nodes of a span, the one that computes its output last."""
        nodes = (node for element in self.inside(span) for node in element.nodes())
        return list(dict.fromkeys(nodes))

    def leaves(self, span: Span) -> list[Linear]:
        """The linear nodes of a span."""
        return [linear for element in self.inside(span) for linear in element.leaves()]

    def load(self, span: Span) -> AffineConv:
        """The numbers of a span as one map.

        Raises:
            RefusedError: They are not finite, or there is no such map.
        """
        merged = self._across.get(span)
        if isinstance(merged, Merged) and merged.layout is not None:
            return chain_affine(merged.layout.elements)
        return chain_affine(self.inside(span))

    def as_is(self, span: Span) -> Cost:
        """The cost of all of a span's nodes as they stand."""
        total = Cost()
        for i in range(span.first, span.last + 1):
            branches = self._branches(i)
            element = self.elements[i]
            if isinstance(element, Leaf):
                total += self._leaf_cost(i)
            else:
                total += self._join_cost(element)
            for branch in branches:
                total += branch.as_is(Span(0, len(branch.elements) - 1))
        return total

    def bridgeable(self) -> Iterator[Span]:
        """Spans whose last element pads, and that only a bias before it keeps from merging.

        Only such spans count as would not cost more products once merged.
        """
        for last in range(1, len(self.elements)):
            following, first = self.elements[last].geometry, last - 1
            while first and self._is_per_channel(Span(first - 1, last - 1)):
                first -= 1
            before = self._geometry(Span(first, last - 1))
            if isinstance(before, Refusal) or isinstance(following, Refusal):
                continue
            if before.transposed or following.transposed:
                continue
            exact, span = before.then(following), Span(first, last)
            merged = replace(before, bias=False).then(following)
            if isinstance(exact, Geometry) or isinstance(merged, Refusal):
                continue
            if merged.macs_per_position * self.positions_after(span) <= self.as_is(span).macs:
                yield span

    def _is_per_channel(self, span: Span) -> bool:
        geometry = self._geometry(span)
        return isinstance(geometry, Geometry) and geometry.is_per_channel

    def _positions(self, geometry: Geometry, span: Span) -> int:
        """The positions at which a map of this geometry in the place of a span multiplies."""
        if not geometry.transposed:
            return self.positions_after(span)
        # Pointwise maps may come first; the transposed one reads as many positions as they.
        return self._positions_at[span.first]

    def positions_after(self, span: Span) -> int:
        """Output positions of a span, for one sample."""
        return self._positions_at[span.last + 1]

    def extents_after(self, span: Span) -> tuple[int, ...]:
        """Spatial extents of a span's output."""
        return self._extents[span.last + 1]

    def extents_before(self, span: Span) -> tuple[int, ...]:
        """Spatial extents of a span's input."""
        return self._extents[span.first]

    def _geometry(self, span: Span) -> Geometry | Refusal:
        known, end = self._geometries, span.last
        while end > span.first and Span(span.first, end) not in known:
            end -= 1
        geometry = known.get(Span(span.first, end), self.elements[end].geometry)
        for last in range(end + 1, span.last + 1):
            if isinstance(geometry, Geometry):
                before = self.elements[span.first : last]
                geometry = next_geometry(before, geometry, self.elements[last])
            if isinstance(geometry, Refusal):
                geometry = self._in_two_parts(Span(span.first, last)) or geometry
            known[Span(span.first, last)] = geometry
        return geometry

    def _in_two_parts(self, span: Span) -> Geometry | None:
        """The map of a span that composes in another order than from the left.

        Padding that stands in the way may be cut off again further on.
        """
        for middle in range(span.first, span.last - 1):
            first = self._geometry(Span(span.first, middle))
            second = self._geometry(Span(middle + 1, span.last))
            if isinstance(first, Geometry) and isinstance(second, Geometry):
                joined = first.then(second)
                if isinstance(joined, Geometry):
                    return joined
        return None

    @functools.cached_property
    def _can_shift(self) -> dict[tuple[Span, int], bool]:
        return {}

    @functools.cached_property
    def _timed(self) -> dict[_Piece, int | None]:
        return {}

    @functools.cached_property
    def _geometries(self) -> dict[Span, Geometry | Refusal]:
        return {}

    @functools.cached_property
    def _extents(self) -> list[tuple[int, ...]]:
        """Spatial extents before the first element and after each."""
        extents = [self.extents]
        for element in self.elements:
            extents.append(_extents_after(element, extents[-1]))
        return extents

    @functools.cached_property
    def _positions_at(self) -> list[int]:
        """Positions for one sample before the first element and after each.

        Renames keep their number, or turn positions into channels; their extents in another
        layout are no measure.
        """
        shape = self.facts.shape(self.elements[0].input)
        if shape is None or (self.extents and not self._renames):
            return [math.prod(extents) for extents in self._extents]
        axes = self.elements[0].axes or (1, 1)
        samples = {0, axes[0] % max(1, len(shape))}
        sizes = [NOMINAL if d is None else d for i, d in enumerate(shape) if i not in samples]
        found = [math.prod(sizes)]
        for i, element in enumerate(self.elements):
            count = found[-1]
            if isinstance(element, Rename):
                count = count * element.channels[0] // max(1, element.channels[1])
            else:
                before, after = (math.prod(e) for e in self._extents[i : i + 2])
                count = count * after // before if before else 0
            found.append(max(1, count))
        return found

    @functools.cached_property
    def _subs(self) -> dict[int, list[Partitioner]]:
        return {
            i: [
                Partitioner(
                    branch, self._extents[i], self.rank_at(i), self.facts, clock=self.clock
                )
                for branch in element.branches
                if branch
            ]
            for i, element in enumerate(self.elements)
            if isinstance(element, Join)
        }

    def _branches(self, index: int) -> list[Partitioner]:
        return self._subs.get(index, [])

    def _join_cost(self, element: Join | Rename) -> Cost:
        """What the node of a join, or of a rename, costs by itself."""
        if isinstance(element, Rename) or element.is_concat:
            return Cost(0, 0, 1)
        index = next(i for i, e in enumerate(self.elements) if e is element)
        steps = (len(element.branches) - 1) * element.out_channels
        return Cost(0, 0, 1, steps * self._positions_at[index + 1])

    def _leaf_cost(self, index: int) -> Cost:
        element = self.elements[index]
        assert isinstance(element, Leaf)
        if element.frame is not None:
            return Cost(0, 0, len(element.frame.nodes))
        positions = self._positions(element.linear.geometry, Span(index, index))
        return Cost.of_node(element.linear, positions, self.facts)

    # -- Reasons ----------------------------------------------------------------------------

    def refusals(self, policy: Policy) -> Iterator[Break]:
        """Why what the chosen partition leaves apart was not merged."""
        pieces = self._choose(policy)[1]
        for piece in pieces:
            element = self.elements[piece.span.first]
            if not piece.merge and isinstance(element, Join):
                yield Break(tuple(_ends(element)), self._why_join(piece.span, policy))
                for branch in self._branches(piece.span.first):
                    yield from branch.refusals(policy)
        mapping = [p for p in pieces if not isinstance(self.elements[p.span.first], Rename)]
        for i in range(len(mapping) - 1):
            a, b = mapping[i].span, mapping[i + 1].span
            last, first = self.elements[a.last], self.elements[b.first]
            if isinstance(last.geometry, Refusal) or isinstance(first.geometry, Refusal):
                continue  # said at the join itself
            between = self.inside(Span(a.last + 1, b.first - 1))  # changes of layout
            renames = [node for element in between for node in element.nodes()]
            nodes = (_last_node(last), *renames, next(first.nodes()))
            yield Break(nodes, self._why_apart(a, b, policy), last.output.name or "")

    def _why_join(self, span: Span, policy: Policy) -> Refusal:
        if policy is Policy.MARKED:
            return NOT_MARKED
        merged = self.merged(span)
        apart = self._piece_cost(_Piece(span, merge=False), policy)
        return merged if isinstance(merged, Refusal) else _dearer(merged.cost, apart)

    def _why_apart(self, a: Span, b: Span, policy: Policy) -> Refusal:
        """Why two neighbouring spans of the chosen partition were not merged with each other."""
        if policy is Policy.MARKED:
            return NOT_MARKED
        pair = self._without_shift(Span(a.last, b.first))
        if isinstance(pair, Refusal):
            return self._measured(pair, a.last)
        merged = self._without_shift(Span(a.first, b.last))
        if isinstance(merged, Refusal):
            return merged
        apart = sum_costs(self._piece_cost(_Piece(s, merge=len(s) > 1), policy) for s in (a, b))
        return _dearer(merged.cost, apart)

    def _without_shift(self, span: Span) -> Merged | Refusal:
        """A span as a single map, with nothing added before."""
        merged = self.merged(span)
        if isinstance(merged, Merged) and merged.shifted:
            geometry = self._geometry(span)
            return geometry if isinstance(geometry, Refusal) else merged
        return merged

    def _measured(self, refusal: Refusal, index: int) -> Refusal:
        """A refusal to merge an element with the next, with the error at the border."""
        if refusal.reason is not Reason.BORDER:
            return refusal
        try:
            first, second = (element.load() for element in self.elements[index : index + 2])
        except RefusedError:
            return refusal
        return first.measured(refusal, second)


NOT_MARKED = Refusal(
    Reason.POLICY,
    "only what expand made is folded",
    hint="fold with the policy cheapest or always",
)


def sum_costs(costs: Iterator[Cost]) -> Cost:
    """The sum of some costs."""
    return functools.reduce(Cost.__add__, costs, Cost())


def units_of(elements: Sequence[Element]) -> Iterator[tuple[Span, Member]]:
    """The complete expanded units among elements, in order."""
    members = [_member(element) for element in elements]
    for start, member in enumerate(members):
        if member is None or member.index:
            continue
        if isinstance(elements[start], Join):
            yield Span(start, start), member
            continue
        run = members[start : start + member.size]
        places = [(m.unit, m.index) for m in run if m is not None]
        if places == [(member.unit, i) for i in range(member.size)]:
            yield Span(start, start + member.size - 1), member


def _member(element: Element) -> Member | None:
    """The place of an element in a unit; a join that is a whole unit has the unit's first."""
    if isinstance(element, Leaf):
        return unit_member(element.linear.node)
    if not isinstance(element, Join):
        return None
    members = [unit_member(node) for node in dict.fromkeys(element.nodes())]
    known = sorted((m for m in members if m is not None), key=lambda m: m.index)
    places = [(m.unit, m.index) for m in known]
    whole = known and places == [(known[0].unit, i) for i in range(known[0].size)]
    return known[0] if whole and len(known) == len(members) else None


def _is_matrix(element: Element) -> bool:
    if not isinstance(element, Leaf) or element.axes is None or element.axes[0] != element.axes[1]:
        return False
    geometry = element.linear.geometry
    return geometry.rank == 0 and (geometry.group == 1 or geometry.is_per_channel)


def _extents_after(element: Element, extents: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(element, Rename):
        return tuple(e if isinstance(e, int) else NOMINAL for e in element.target[2:])
    if isinstance(element, Leaf):
        geometry = element.linear.geometry
        return geometry.output_extents(extents) if geometry.rank else extents
    branch = max(element.branches, key=len)
    return functools.reduce(lambda e, inner: _extents_after(inner, e), branch, extents)


def _dearer(merged: Cost, apart: Cost) -> Refusal:
    if merged == apart:
        return Refusal(Reason.COST, "merging would gain nothing")
    numbers = {
        "macs_apart": apart.macs,
        "macs_merged": merged.macs,
        "parameters_apart": apart.parameters,
        "parameters_merged": merged.parameters,
    }
    message = (
        f"merging would take {merged.macs:,} multiply-accumulates and {merged.parameters:,} "
        f"parameters instead of {apart.macs:,} and {apart.parameters:,}"
    )
    return Refusal(Reason.COST, message, numbers, "fold with the policy always")


def _last_node(element: Element) -> ir.Node:
    return element.linear.node if isinstance(element, Leaf) else element.node


def _ends(join: Join) -> Iterator[ir.Node]:
    yield from (_last_node(branch[-1]) for branch in join.branches if branch)
    yield join.node
