"""Which links of a chain become one node: the partition of least cost.

Partitions are chosen by geometry alone. The best partition of the first j links is the best one of
the first i - 1 followed by links i to j as one node, for the best i (dynamic programming); looking
at intervals, not at pairs, finds merges that only pay once three or more layers are one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from onnx_expand.cost import Cost
from onnx_expand.errors import Reason, Refusal
from onnx_expand.geometry import Geometry
from onnx_expand.lift import Axes
from onnx_expand.lower import Form, form_of
from onnx_expand.passes.units import Member, unit_member
from onnx_expand.regions import Chain
from onnx_expand.values import Facts

__all__ = ["Merged", "Partitioner", "Policy", "Span", "units_of"]


class Policy(StrEnum):
    """What to merge."""

    AUTO = "auto"
    """`marked` for a model that went through expand, `cheapest` for any other."""
    CHEAPEST = "cheapest"
    """The fewest multiply-accumulates, then parameters, then nodes."""
    ALWAYS = "always"
    """The fewest nodes, then multiply-accumulates, then parameters."""
    MARKED = "marked"
    """What expand made, and nothing else: the model is given back as it was."""


@dataclass(frozen=True)
class Span:
    """Links `first` to `last` of a chain, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Merged:
    """A span as a single map."""

    geometry: Geometry
    form: Form
    axes: Axes | None
    cost: Cost


@dataclass
class Partitioner:
    """Chooses the partition of one chain.

    Attributes:
        chain: The chain.
        rank: The rank of the tensors along it, where known.
        facts: What is known about the model.
        forbidden: Spans that turned out not to merge, with the reason.
    """

    chain: Chain
    rank: int | None
    facts: Facts
    forbidden: dict[Span, Refusal] = field(default_factory=dict)

    def choose(self, policy: Policy) -> list[Span]:
        """The spans of the best partition, in order; those of length one stay as they are."""
        if policy is Policy.MARKED:
            return self._marked()
        best: list[tuple[tuple[int, ...], int]] = [((0, 0, 0, 0), 0)]
        for last in range(len(self.chain.links)):
            candidates = []
            for first in range(last + 1):
                cost = self._span_cost(Span(first, last))
                if cost is not None:
                    key = _key(cost, policy, merges=int(last > first))
                    total = tuple(a + b for a, b in zip(best[first][0], key, strict=True))
                    candidates.append((total, first))
            # Of equal partitions the one with the shorter last span: what gains nothing stays.
            best.append(min(candidates, key=lambda c: (c[0], -c[1])))
        spans, end = [], len(self.chain.links)
        while end:
            first = best[end][1]
            spans.append(Span(first, end - 1))
            end = first
        return spans[::-1]

    def merged(self, span: Span) -> Merged | Refusal:
        """A span as one map, or why it is none."""
        if span in self.forbidden:
            return self.forbidden[span]
        geometry = self._geometry(span)
        if isinstance(geometry, Refusal):
            return geometry
        links = self.chain.links[span.first : span.last + 1]
        known = [link.axes for link in links if link.axes is not None]
        axes = (known[0][0], known[-1][1]) if known else None
        form = form_of(geometry, axes, self.rank)
        if isinstance(form, Refusal):
            return form
        positions = math.prod(self._extents[span.last + 1])
        shift_only = all(link.shift_only for link in links)
        return Merged(geometry, form, axes, Cost.of_form(form, geometry, positions, shift_only))

    def apart(self, span: Span) -> Cost:
        """The cost of a span's nodes as they stand."""
        costs = (self._node_costs[i] for i in range(span.first, span.last + 1))
        return functools.reduce(Cost.__add__, costs)

    def why_apart(self, a: Span, b: Span, policy: Policy) -> Refusal:
        """Why two neighbouring spans of the chosen partition were not merged with each other."""
        first, second = self.chain.links[a.last], self.chain.links[b.first]
        if policy is Policy.MARKED:
            hint = "fold with the policy cheapest or always"
            return Refusal(Reason.POLICY, "only what expand made is folded", hint=hint)
        pair = self.merged(Span(a.last, b.first))
        if isinstance(pair, Refusal):
            if pair.reason is Reason.BORDER:
                return first.load().measured(pair, second.load())
            return pair
        both = Span(a.first, b.last)
        merged = self.merged(both)
        if isinstance(merged, Refusal):
            return merged
        apart = functools.reduce(Cost.__add__, (self._chosen_cost(s) for s in (a, b)))
        numbers = {
            "macs_apart": apart.macs,
            "macs_merged": merged.cost.macs,
            "parameters_apart": apart.parameters,
            "parameters_merged": merged.cost.parameters,
        }
        message = (
            f"merging would take {merged.cost.macs:,} multiply-accumulates and "
            f"{merged.cost.parameters:,} parameters instead of {apart.macs:,} and "
            f"{apart.parameters:,}"
        )
        return Refusal(Reason.COST, message, numbers, "fold with the policy always")

    def _chosen_cost(self, span: Span) -> Cost:
        merged = self.merged(span) if len(span) > 1 else None
        return merged.cost if isinstance(merged, Merged) else self.apart(span)

    def _span_cost(self, span: Span) -> Cost | None:
        if len(span) == 1:
            return self._node_costs[span.first]
        merged = self.merged(span)
        return None if isinstance(merged, Refusal) else merged.cost

    def _geometry(self, span: Span) -> Geometry | Refusal:
        known = self._geometries
        if span not in known:
            last = self.chain.links[span.last].geometry
            if len(span) == 1:
                known[span] = last
            else:
                before = self._geometry(Span(span.first, span.last - 1))
                known[span] = before if isinstance(before, Refusal) else before.then(last)
        return known[span]

    @functools.cached_property
    def _geometries(self) -> dict[Span, Geometry | Refusal]:
        return {}

    @functools.cached_property
    def _extents(self) -> list[tuple[int, ...]]:
        """Spatial extents before the first link and after each."""
        extents = [self.chain.extents]
        for link in self.chain.links:
            geometry = link.geometry
            same = not geometry.rank
            extents.append(extents[-1] if same else geometry.output_extents(extents[-1]))
        return extents

    @functools.cached_property
    def _node_costs(self) -> list[Cost]:
        return [
            Cost.of_node(link, math.prod(after), self.facts)
            for link, after in zip(self.chain.links, self._extents[1:], strict=True)
        ]

    def _marked(self) -> list[Span]:
        spans, next_link = [], 0
        for span, _ in units_of(self.chain):
            spans += [Span(i, i) for i in range(next_link, span.first)]
            fits = isinstance(self.merged(span), Merged)
            spans += [span] if fits else [Span(i, i) for i in range(span.first, span.last + 1)]
            next_link = span.last + 1
        return spans + [Span(i, i) for i in range(next_link, len(self.chain.links))]


def _key(cost: Cost, policy: Policy, *, merges: int) -> tuple[int, ...]:
    if policy is Policy.ALWAYS:
        return (cost.nodes, cost.macs, cost.parameters, merges)
    return (cost.macs, cost.parameters, cost.nodes, merges)


def units_of(chain: Chain) -> Iterator[tuple[Span, Member]]:
    """The complete expanded units in a chain, in order."""
    members: Mapping[int, Member | None] = {
        i: unit_member(link.node) for i, link in enumerate(chain.links)
    }
    for start, member in members.items():
        if member is None or member.index:
            continue
        run = [members.get(start + i) for i in range(member.size)]
        if all(m is not None and (m.unit, m.index) == (member.unit, i) for i, m in enumerate(run)):
            yield Span(start, start + member.size - 1), member
