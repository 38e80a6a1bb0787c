"""Spans of a stretch as single maps: their geometry, form and cost."""

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
from onnx_expand.linear.chains.composed import (
    chain_affine,
    chain_geometry,
    next_geometry,
    shift_before,
)
from onnx_expand.linear.chains.layouts import Layout, layouts_of
from onnx_expand.linear.chains.sizes import misfit
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Map, Price, Term, map_price
from onnx_expand.lower import Form, form_of

__all__ = ["Merged", "Spans"]

_USUAL = 6  # the scenario of common sizes
_RATE = 4  # elementwise steps that storing one element costs
_LAUNCH = 64  # elementwise steps that one node costs


@dataclass(frozen=True)
class Merged:
    """A span as a single map.

    Attributes:
        geometry: The map.
        form: The form in which it is written.
        axes: Its channel axes.
        price: Its cost, including views around it.
        layout: Its layout, if there are views in the span.
        shifted: The number of steps at the start that scale and shift each channel and of which
        only the scale is merged: the shift, which padding must not include, is added before.
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
        forbidden: Spans whose values cannot be merged, with the reason.
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
    _can_shift: dict[Span, bool] = field(default_factory=dict, init=False)
    _merged: dict[Span, Merged | Refusal] = field(default_factory=dict, init=False)
    _geometries: dict[Span, Geometry | Refusal] = field(default_factory=dict, init=False)

    def key(self, span: Span) -> tuple[Term, ...]:
        """Return the key of a span, which does not depend on the partition around it."""
        return tuple(t for s in self.inside(span) for t in s.terms)

    def merged(self, span: Span) -> Merged | Refusal:
        """Return a span as one map, or why it is not one."""
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
        """Return why not to store a second version of a weight that stays for other consumers.

        The full size of the copy is weighed against the passes and products that it saves at
        common sizes.
        """
        terms = [t for s in self.inside(span) for t in s.terms if isinstance(t, Map)]
        origins = {n for s in self.inside(span) for n in s.origins}
        is_all = functools.cache(lambda weight: _is_all(weight, origins))
        copied = sum(t.remaining for t in terms if t.remaining and not is_all(_weight(t)))
        if not copied or sum(not t.shift_only for t in terms) < 2:
            return None  # a map that only adds does not change the weight
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
        geometry = self.exact(span)
        if isinstance(geometry, Refusal):
            shifted = self._shifted(span) if geometry.reason is Reason.BORDER else None
            return shifted or geometry
        ends = self._positions_at[span.first], self._positions_at[span.last + 1]
        return self._as_form(inside, geometry, ends, span.first)

    def bridgeable(self) -> Iterator[Span]:
        """Return spans that only a bias before their padding last step keeps from merging.

        Only spans that would not cost more products when merged are included.
        """
        for last in range(1, len(self.steps)):
            following, first = self.steps[last].geometry, last - 1
            while first and self._is_per_channel(Span(first - 1, last - 1)):
                first -= 1
            if self._has_views(Span(first, last)):
                continue
            before = self.exact(Span(first, last - 1))
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
        """Return a span as an addition and one map, if only its first shift prevents merging.

        `s x + b` is `s (x + b / s)`: zero padding after it is exact for the scale. The shift also
        passes steps that move channels.
        """
        if not self.may_shift:
            return None
        last = span.first
        while last < span.last and self._moves_channels(Span(span.first, last)):
            before = self.exact(Span(span.first, last))
            rest = self.exact(Span(last + 1, span.last))
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
        """Return whether the shift of each channel can be added before its scale."""
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
        """Return a map as a node that reads the tensor before a step."""
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
        one = Cost.of_form(form, geometry, 1, shift_only)
        positions = ends[0] if geometry.transposed else ends[1]
        price = map_price(one, positions, ends[0][0] * geometry.in_channels)
        more = price.cost.macs > sum(step.price().cost.macs for step in inside)
        stays = more and self.policy is Policy.CHEAPEST  # for that reason
        if form in {Form.CONV, Form.CONV_TRANSPOSE} and not stays:
            refusal = misfit(inside, geometry, self.term_at(at))
            if refusal is not None:
                return refusal
        return Merged(geometry, form, axes, price)

    def _has_views(self, span: Span) -> bool:
        at = bisect.bisect_left(self._views, span.first)
        return at < len(self._views) and self._views[at] <= span.last

    def _across(self, span: Span) -> Merged | Refusal:
        """Return a span with views as one map with the fewest views around it."""
        inside = self.inside(span)
        nothing = Refusal(Reason.GEOMETRY, "there are only changes of layout")
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
                refusals.append(nothing)  # it is what the source has
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
        """Return the cost of the views around a layout; a view keeps the number of elements."""
        total = Cost(0, 0, len(layout.before) + len(layout.after))
        for ops, at in ((layout.before, span.first), (layout.after, span.last + 1)):
            moving = sum(op.moves for op in ops)
            numbers = self.term_at(at).tensor.positions(None)[0] if moving else 0
            total += Cost(transposed=moving * numbers)
        return total

    def rank_at(self, index: int) -> int | None:
        """Return the rank of the tensor before a step."""
        return self.term_at(index).tensor.rank

    def term_at(self, index: int) -> Term:
        """Return the term that a step reads; for the index after the last step, its result."""
        return self.steps[index - 1].top if index else self.root

    def inside(self, span: Span) -> Sequence[Step]:
        """Return the steps of a span."""
        return self.steps[span.first : span.last + 1]

    def as_is(self, span: Span) -> Price:
        """Return the price of a span without merging."""
        return self._sums[span.last + 1] - self._sums[span.first]

    def _is_per_channel(self, span: Span) -> bool:
        geometry = self.exact(span)
        return isinstance(geometry, Geometry) and geometry.is_per_channel

    def _moves_channels(self, span: Span) -> bool:
        """Return whether a span may only scale, shift, select and permute channels."""
        if self._is_per_channel(span):
            return True
        geometry = self.exact(span)
        pointwise = isinstance(geometry, Geometry) and geometry.is_pointwise
        return pointwise and not self.as_is(span).cost.macs

    def exact(self, span: Span) -> Geometry | Refusal:
        """Return the map of a span without a separate shift before it."""
        known, end = self._geometries, span.last
        while end > span.first and Span(span.first, end) not in known:
            end -= 1
        geometry = known.get(Span(span.first, end), self.steps[end].geometry)
        for last in range(end + 1, span.last + 1):
            if isinstance(geometry, Geometry):
                step = self.steps[last]
                before = self.steps[span.first : last] if step.frame is not None else ()
                geometry = next_geometry(before, geometry, step)
            if isinstance(geometry, Refusal):
                geometry = self._in_two_parts(Span(span.first, last)) or geometry
            known[Span(span.first, last)] = geometry
        return geometry

    def _in_two_parts(self, span: Span) -> Geometry | None:
        """Compose a span in another order than from the left.

        Padding that prevents merging may be cropped again by a later step.
        """
        for middle in range(span.first, span.last - 1):
            first = self.exact(Span(span.first, middle))
            second = self.exact(Span(middle + 1, span.last))
            if isinstance(first, Geometry) and isinstance(second, Geometry):
                joined = first.then(second)
                if isinstance(joined, Geometry):
                    return joined
        return None

    @functools.cached_property
    def writable(self) -> Writable:
        """Return the ops that can be written for the type of this stretch."""
        kinds = (self.root.tensor.dtype, *(step.top.tensor.dtype for step in self.steps))
        return self.facts.writable(next((kind for kind in kinds if kind is not None), None))

    @functools.cached_property
    def _views(self) -> list[int]:
        """Return the indices of steps that are views."""
        return [i for i, step in enumerate(self.steps) if step.view is not None]

    @functools.cached_property
    def _own(self) -> list[Price]:
        return [step.price() for step in self.steps]

    @functools.cached_property
    def _sums(self) -> list[Price]:
        """Return the total price before each step, and of all steps."""
        return list(itertools.accumulate(self._own, initial=Price()))

    @functools.cached_property
    def _positions_at(self) -> list[tuple[int, ...]]:
        """Return per scenario the positions of a sample before the first and after each step."""
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
        return False  # no positions are left
    return shift_before(affine) is not None


def _plus(price: Price, added: Price) -> Price:
    products = price.products
    return Price(price.cost + added.cost, products)


def _weight(term: Map) -> ir.Value | None:
    return term.links[0].weight if term.links else None


def _is_all(weight: ir.Value | None, origins: Collection[ir.Node]) -> bool:
    """Return whether some nodes are the only consumers of a weight."""
    if weight is None or weight.producer() is not None or weight.is_graph_output():
        return False
    return all(use.node in origins for use in weight.uses())
