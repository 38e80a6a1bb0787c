"""Partition long chains of matrices without enumerating all spans.

The product of a span of matrices maps the input channels of the first to the output channels of
the last. Apart from these, its cost depends only on whether it mixes channels, shifts or scales.
Of spans that agree in these traits and end at the same element, the best one starts after the
cheapest prefix, so that one comparison for each kind of start is sufficient.
"""

from __future__ import annotations

import functools
import sys
from bisect import insort
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost import Cost

__all__ = ["MatrixChain"]

_Key = tuple[int, ...]
_Prefix = tuple[_Key, int]  # the key of its best partition, and its length, negated
_MIXES, _SHIFTS, _SCALES = 1, 2, 4


@dataclass(frozen=True)
class MatrixChain:
    """A chain of matrices and maps per channel.

    Attributes:
        geometries: The maps, all of rank 0, with one group or one for each channel.
        shift_only: For each, whether it only adds.
        own: For each, the cost of its node as it is.
        positions: The number of vectors that are mapped.
        gemm: Whether a product with a bias is one node.
    """

    geometries: Sequence[Geometry]
    shift_only: Sequence[bool]
    own: Sequence[Cost]
    positions: int
    gemm: bool

    def partition(
        self,
        weights: Sequence[Sequence[int]],
        forbidden: Set[tuple[int, int]] = frozenset(),
        longest: int = sys.maxsize,
    ) -> tuple[Cost, list[tuple[int, int]]]:
        """Return the partition of least cost, as spans with both ends included.

        Ties are broken by fewer merges, then by shorter last spans.

        Args:
            weights: The costs to minimize in order, as weights of macs, parameters, nodes,
            elementwise steps, elements read and products.
            forbidden: Spans that must not be merged.
            longest: The maximum length of a merged span.
        """
        starts = self._starts(weights, forbidden, longest)
        spans, end = list[tuple[int, int]](), len(starts)
        while end:
            spans.append((starts[end - 1], end - 1))
            end = starts[end - 1]
        return sum((self._cost(*span) for span in spans), Cost()), spans[::-1]

    def _starts(
        self, weights: Sequence[Sequence[int]], forbidden: Set[tuple[int, int]], longest: int
    ) -> list[int]:
        """Return for each element the start of the last span of the best partition up to it."""

        def key(cost: Cost, merges: int) -> _Key:
            return (*(_weighted(row, cost) for row in weights), merges)

        @functools.cache
        def rates(traits: int, channels: int) -> tuple[_Key, _Key]:
            """Return the cost of a merged span without its input, and per input channel."""
            none, one = (key(self._merged(traits, reads, channels), 1) for reads in (0, 1))
            return none, tuple(b - a for a, b in zip(none, one, strict=True))

        best: list[_Key] = [(0,) * (len(weights) + 1)]
        starts: list[int] = []
        beginnings = _Beginnings()
        for last, own in enumerate(self.own):
            geometry = self.geometries[last]
            found: _Prefix = (_sum(best[last], key(own, 0)), -last)
            beginnings.go_on(self._traits[last])
            for traits, reads, (cheapest, start) in beginnings.best(last, longest, forbidden):
                fixed, rate = rates(traits, geometry.out_channels)
                total = tuple(
                    a + b + reads * c for a, b, c in zip(cheapest, fixed, rate, strict=True)
                )
                found = min(found, (total, start))
            beginnings.add(self._traits[last], geometry.in_channels, (best[last], -last))
            best.append(found[0])
            starts.append(-found[1])
        return starts

    def _cost(self, first: int, last: int) -> Cost:
        """Return the cost of a span, merged unless it is a single element."""
        if first == last:
            return self.own[last]
        traits = functools.reduce(int.__or__, self._traits[first : last + 1])
        reads = self.geometries[first].in_channels
        return self._merged(traits, reads, self.geometries[last].out_channels)

    def _merged(self, traits: int, reads: int, channels: int) -> Cost:
        """Return the cost of a merged span with these traits."""
        shifts, scales = bool(traits & _SHIFTS), bool(traits & _SCALES)
        if not traits & _MIXES:
            steps = max(1, scales + shifts)
            numbers = channels * (scales + shifts)
            return Cost(0, numbers, steps, channels * self.positions * steps)
        added = shifts and not self.gemm
        return Cost(
            reads * channels * self.positions,
            reads * channels + channels * shifts,
            1 + added,
            channels * self.positions * added,
            copied=reads * self.positions,
            starts=1,
        )

    @functools.cached_property
    def _traits(self) -> list[int]:
        """Return for each map whether it mixes channels, shifts, and scales."""
        return [
            _MIXES * (not g.is_per_channel) | _SHIFTS * g.bias | _SCALES * (not shift)
            for g, shift in zip(self.geometries, self.shift_only, strict=True)
        ]


class _Beginnings:
    """The elements at which a merged span that ends at the current element may start.

    They are grouped by the traits of the span and its input channels, the cheapest prefixes first.
    """

    def __init__(self) -> None:
        self._all: dict[int, dict[int, list[_Prefix]]] = {}

    def add(self, traits: int, reads: int, before: _Prefix) -> None:
        """Add an element with the cost of its prefix."""
        insort(self._all.setdefault(traits, {}).setdefault(reads, []), before)

    def go_on(self, traits: int) -> None:
        """Extend all spans by an element with these traits."""
        for known in [known for known in self._all if known | traits != known]:
            wider = self._all.setdefault(known | traits, {})
            for reads, prefixes in self._all.pop(known).items():
                less, more = sorted((prefixes, wider.get(reads, [])), key=len)
                for prefix in less:
                    insort(more, prefix)
                wider[reads] = more

    def best(
        self, last: int, longest: int, forbidden: Set[tuple[int, int]]
    ) -> Iterator[tuple[int, int, _Prefix]]:
        """Yield the best allowed start of a span for each kind.

        Starts with more input channels than one after a cheaper prefix are omitted.
        """
        for traits, kinds in self._all.items():
            least: _Prefix | None = None
            for reads in sorted(kinds):
                prefixes = kinds[reads]
                while prefixes and last + prefixes[0][1] >= longest:
                    del prefixes[0]  # all further spans would be too long
                if not prefixes or (least is not None and least < prefixes[0]):
                    continue
                for prefix in prefixes:
                    first = -prefix[1]
                    if last - first < longest and (first, last) not in forbidden:
                        least = prefix if least is None else min(least, prefix)
                        yield traits, reads, prefix
                        break


def _weighted(row: Sequence[int], cost: Cost) -> int:
    macs, parameters, nodes, elementwise, copied, starts = row
    return (
        macs * cost.macs
        + parameters * cost.parameters
        + nodes * cost.nodes
        + elementwise * cost.elementwise
        + copied * cost.copied
        + starts * cost.starts
    )


def _sum(a: _Key, b: _Key) -> _Key:
    return tuple(map(int.__add__, a, b))
