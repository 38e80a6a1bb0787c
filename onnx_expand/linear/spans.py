"""Spans of a stretch as single maps: their geometry, how they are written and what they cost."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost import Cost
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.writable import Writable
from onnx_expand.lift import Axes
from onnx_expand.linear.chains import chain_affine, chain_geometry, next_geometry, shift_before
from onnx_expand.linear.layouts import Layout, layouts_of
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.sizes import misfit
from onnx_expand.linear.steps import Span, Step
from onnx_expand.linear.terms import Map, Price, Term
from onnx_expand.lower import Form, form_of

__all__ = ["Merged", "Spans"]

_USUAL = 6  # the scenario of usual sizes
_RATE = 4  # steps that storing a number is worth
_LAUNCH = 64  # steps that a node is worth


@dataclass(frozen=True)
class Merged:
    """A span as a single map.

    Attributes:
        geometry: The map.
        form: How it is written.
        axes: Its channel axes.
        price: What it costs, views around it included.
        layout: Where it stands, if there are views in the span.
        shifted: How many steps at the beginning scale and shift each channel and pass on their
            scale alone: the shift, which padding must not see, is added before.
    """

    geometry: Geometry
    form: Form
    axes: Axes | None
    price: Price
    layout: Layout | None = None
    shifted: int = 0


@dataclass(eq=False)
class Spans:
    """The spans of one stretch.

    Attributes:
        root: The term that the first step reads.
        steps: The stretch, on common axes.
        policy: What to minimize.
        facts: What is known about the model.
        forbidden: Spans that turned out not to merge, with the reason.
        may_shift: Whether a shift may be split from its scale.
        known: Refusals of earlier partitions, by the terms of the span.
    """

    root: Term
    steps: Sequence[Step]
    policy: Policy
    facts: Facts
    forbidden: dict[Span, Refusal] = field(default_factory=dict)
    may_shift: bool = True
    known: Mapping[tuple[Term, ...], Refusal] = field(default_factory=dict)

    def key(self, span: Span) -> tuple[Term, ...]:
        """What stands for a span when partitions change around it."""
        return tuple(t for s in self.inside(span) for t in s.terms)

    def merged(self, span: Span) -> Merged | Refusal:
        """A span as one map, or why it is none."""
        if span in self.forbidden:
            return self.forbidden[span]
        if self.known and (refusal := self.known.get(self.key(span))) is not None:
            return refusal
        if span not in self._merged:
            self._merged[span] = self._merge(span)
        return self._merged[span]

    def _merge(self, span: Span) -> Merged | Refusal:
        merged = self._single(span)
        if isinstance(merged, Refusal) or self.policy is Policy.ALWAYS:
            return merged
        return self._copied(span, merged) or merged

    def _copied(self, span: Span, merged: Merged) -> Refusal | None:
        """Why a weight that stays for other readers is not stored once more.

        A copy counts at its full size against the passes and products that it saves, at sizes
        that occur.
        """
        terms = [t for s in self.inside(span) for t in s.terms if isinstance(t, Map)]
        origins = {n for s in self.inside(span) for n in s.origins}
        copied = sum(t.stays for t in terms if t.stays and not _is_all(t, origins))
        if not copied or sum(not t.shift_only for t in terms) < 2:
            return None  # what only adds leaves the weight as it is
        before, after = self.as_is(span).cost, merged.price.cost
        saved = before.elementwise - after.elementwise + before.macs - after.macs
        at = self._positions_at[span.last + 1]
        usual = saved * at[_USUAL] // max(1, at[0]) if len(at) > _USUAL else saved
        if usual + _LAUNCH * (before.nodes - after.nodes) >= _RATE * copied:
            return None
        message = f"merging would store {copied:,} numbers more, and save {usual:,} steps"
        numbers = {"stored": copied, "saved": usual}
        return Refusal(Reason.COST, message, numbers, "fold with --policy always")

    def _single(self, span: Span) -> Merged | Refusal:
        inside = self.inside(span)
        if self._has_views(span):
            return self._across(span)
        geometry = self._geometry(span)
        if isinstance(geometry, Refusal):
            shifted = self._shifted(span) if geometry.reason is Reason.BORDER else None
            return shifted or geometry
        ends = self._positions_at[span.first], self._positions_at[span.last + 1]
        return self._as_form(inside, geometry, ends, span.first)

    def exact(self, span: Span) -> Geometry | Refusal:
        """The map of a span with nothing added before it."""
        return self._geometry(span)

    def bridgeable(self) -> Iterator[Span]:
        """Spans whose last step pads, and that only a bias before it keeps from merging.

        Only such spans count as would not cost more products once merged.
        """
        for last in range(1, len(self.steps)):
            following, first = self.steps[last].geometry, last - 1
            while first and self._is_per_channel(Span(first - 1, last - 1)):
                first -= 1
            if self._has_views(Span(first, last)):
                continue
            before = self._geometry(Span(first, last - 1))
            if isinstance(before, Refusal) or isinstance(following, Refusal):
                continue
            if before.is_anchored or following.is_anchored:
                continue
            exact, span = before.then(following), Span(first, last)
            merged = replace(before, bias=False).then(following)
            if isinstance(exact, Geometry) or isinstance(merged, Refusal):
                continue
            products = merged.macs_per_position * self._positions_at[last + 1][0]
            if products <= self.as_is(span).cost.macs:
                yield span

    def _shifted(self, span: Span) -> Merged | None:
        """A span as an addition and one map, where only the shift at its beginning is in the way.

        `s x + b` is `s (x + b / s)`: padding zeros behind it is exact for the scale. Channels
        that are moved about on the way pass the shift as well.
        """
        if not self.may_shift:
            return None
        last = span.first
        while last < span.last and self._moves_channels(Span(span.first, last)):
            before = self._geometry(Span(span.first, last))
            rest = self._geometry(Span(last + 1, span.last))
            last += 1
            if not isinstance(before, Geometry) or not isinstance(rest, Geometry):
                continue
            joined = replace(before, bias=False).then(rest)
            if isinstance(joined, Refusal) or not before.bias:
                continue
            if not self._is_shift(span.first, last - 1):
                continue
            ends = self._positions_at[span.first], self._positions_at[span.last + 1]
            inside = self.inside(span)
            merged = self._as_form(inside, joined, ends, span.first)
            if isinstance(merged, Merged):
                channels = before.in_channels
                steps = channels * self._positions_at[span.first][0]
                added = Price(Cost(0, channels, 1, steps))
                return replace(merged, price=_plus(merged.price, added), shifted=last - span.first)
        return None

    def _is_shift(self, first: int, last: int) -> bool:
        """Whether the shift of every channel can be added before it is scaled."""
        key = Span(first, last)
        if key not in self._can_shift:
            self._can_shift[key] = _splits(self.inside(key))
        return self._can_shift[key]

    def _as_form(
        self,
        inside: Sequence[Step],
        geometry: Geometry,
        ends: tuple[tuple[int, ...], tuple[int, ...]],
        at: int,
    ) -> Merged | Refusal:
        """A map as a node whose input is what comes before a step."""
        rank = self.rank_at(at)
        known = [step.axes for step in inside if step.axes is not None]
        axes = (known[0][0], known[-1][1]) if known else None
        shift_only = all(step.shift_only for step in inside)
        multiplies = geometry.in_channels > 1 or any(step.price().cost.macs for step in inside)
        form = form_of(
            geometry, axes, rank, self.writable, scales=not shift_only, multiplies=multiplies
        )
        if isinstance(form, Refusal):
            return form
        if form in {Form.CONV, Form.CONV_TRANSPOSE}:
            refusal = misfit(inside, geometry, self.term_at(at))
            if refusal is not None:
                return refusal
        one = Cost.of_form(form, geometry, 1, shift_only)
        if form is Form.GEMM and not geometry.bias and self.writable.needs("Gemm", 2):
            one = replace(one, parameters=one.parameters + geometry.out_channels)
        positions = ends[0] if geometry.transposed else ends[1]
        products = tuple(one.macs * count for count in positions)
        cost = replace(one, macs=products[0], elementwise=one.elementwise * positions[0])
        if one.macs:
            cost = replace(cost, copied=ends[0][0] * geometry.in_channels, starts=1)
        return Merged(geometry, form, axes, Price(cost, products))

    def _has_views(self, span: Span) -> bool:
        at = bisect.bisect_left(self._views, span.first)
        return at < len(self._views) and self._views[at] <= span.last

    def _across(self, span: Span) -> Merged | Refusal:
        """A span with views in it as one map with the fewest views around it."""
        inside = self.inside(span)
        nothing = Refusal(Reason.GEOMETRY, "there is nothing but changes of layout")
        if all(step.view is not None for step in inside):
            return nothing
        layouts = layouts_of(inside)
        if isinstance(layouts, Refusal):
            return layouts
        refusals: list[Refusal | None] = []
        found: list[Merged] = []
        mapped = [i for i, step in enumerate(inside) if step.view is None]
        for layout in layouts:
            start, end = layout.home
            views = len(layout.before) + len(layout.after)
            if len(mapped) == 1 and start <= mapped[0] < end and views == len(inside) - 1:
                refusals.append(nothing)  # it is what there is
                continue
            geometry = chain_geometry(layout.steps)
            if not isinstance(geometry, Geometry):
                refusals.append(geometry)
                continue
            start, end = (span.first + index for index in layout.home)
            ends = self._positions_at[start], self._positions_at[end]
            merged = self._as_form(layout.steps, geometry, ends, start)
            if isinstance(merged, Refusal):
                refusals.append(merged)
                continue
            around = Price(self._views_around(layout, span))
            found.append(replace(merged, price=_plus(merged.price, around), layout=layout))
        if found:
            return min(found, key=lambda merged: Policy.CHEAPEST.key(merged.price.cost))
        return next((r for r in refusals if r is not None), nothing)

    def _views_around(self, layout: Layout, span: Span) -> Cost:
        """What the views around a layout cost: a view leaves the number of its numbers."""
        total = Cost(0, 0, len(layout.before) + len(layout.after))
        for ops, at in ((layout.before, span.first), (layout.after, span.last + 1)):
            moving = sum(op.moves for op in ops)
            numbers = self.term_at(at).tensor.positions(None)[0] if moving else 0
            total += Cost(transposed=moving * numbers)
        return total

    def rank_at(self, index: int) -> int | None:
        """The rank of the tensors before a step."""
        return self.term_at(index).tensor.rank

    def term_at(self, index: int) -> Term:
        """What a step reads; what the last one computes, for the index behind it."""
        return self.steps[index - 1].top if index else self.root

    def inside(self, span: Span) -> Sequence[Step]:
        """The steps of a span."""
        return self.steps[span.first : span.last + 1]

    def as_is(self, span: Span) -> Price:
        """The price of all of a span as it stands."""
        return self._sums[span.last + 1] - self._sums[span.first]

    def _is_per_channel(self, span: Span) -> bool:
        geometry = self._geometry(span)
        return isinstance(geometry, Geometry) and geometry.is_per_channel

    def _moves_channels(self, span: Span) -> bool:
        """Whether a span may do nothing but scale, shift, select and permute channels."""
        if self._is_per_channel(span):
            return True
        geometry = self._geometry(span)
        pointwise = isinstance(geometry, Geometry) and geometry.is_pointwise
        return pointwise and not self.as_is(span).cost.macs

    def _geometry(self, span: Span) -> Geometry | Refusal:
        known, end = self._geometries, span.last
        while end > span.first and Span(span.first, end) not in known:
            end -= 1
        geometry = known.get(Span(span.first, end), self.steps[end].geometry)
        for last in range(end + 1, span.last + 1):
            if isinstance(geometry, Geometry):
                before = self.steps[span.first : last]
                geometry = next_geometry(before, geometry, self.steps[last])
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
    def writable(self) -> Writable:
        """Which ops may be written for the numbers of this stretch."""
        kinds = (self.root.tensor.dtype, *(step.top.tensor.dtype for step in self.steps))
        return self.facts.writable(next((kind for kind in kinds if kind is not None), None))

    @functools.cached_property
    def _views(self) -> list[int]:
        """The indices of steps that are views."""
        return [i for i, step in enumerate(self.steps) if step.view is not None]

    @functools.cached_property
    def _own(self) -> list[Price]:
        return [step.price() for step in self.steps]

    @functools.cached_property
    def _sums(self) -> list[Price]:
        """The price of all that is before each step, and of all."""
        return list(itertools.accumulate(self._own, initial=Price()))

    @functools.cached_property
    def _can_shift(self) -> dict[Span, bool]:
        return {}

    @functools.cached_property
    def _merged(self) -> dict[Span, Merged | Refusal]:
        return {}

    @functools.cached_property
    def _geometries(self) -> dict[Span, Geometry | Refusal]:
        return {}

    @functools.cached_property
    def _positions_at(self) -> list[tuple[int, ...]]:
        """Per scenario the positions of one sample, before the first step and after each."""
        first = self.steps[0].axes
        found = [self.root.tensor.positions(None if first is None else first[0])]
        for step in self.steps:
            axis = None if step.axes is None else step.axes[1]
            found.append(step.top.tensor.positions(axis))
        return found


def _splits(steps: Sequence[Step]) -> bool:
    try:
        affine = chain_affine(steps).finest()
    except RefusedError:
        return False
    if affine.geometry.is_per_channel and (affine.weight == 1).all():
        return False  # there is nothing to pass on
    return shift_before(affine) is not None


def _plus(price: Price, added: Price) -> Price:
    products = price.products
    return Price(price.cost + added.cost, products)


def _is_all(term: Map, origins: Collection[ir.Node]) -> bool:
    """Whether some nodes are all that read the weight of a map."""
    weight = term.links[0].weight if term.links else None
    if weight is None or weight.producer() is not None or weight.is_graph_output():
        return False
    return all(node in origins for node in weight.consumers())
