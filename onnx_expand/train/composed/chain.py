"""Chains of linear layers: which stretches are one map, and in which order to multiply kernels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.train.composed.kernels import Numbers, added, after, embedded, work
from onnx_expand.train.composed.layers import LinearNode, Tensors

__all__ = ["Branches", "Chain", "Element", "Segment"]


@dataclass(frozen=True)
class Branches:
    """Branches of one value whose results are summed.

    Attributes:
        branches: The branches, each a chain, or None for the identity.
        factors: The factor of each branch.
        geometry: The geometry of the sum.
    """

    branches: tuple[Chain | None, ...]
    factors: tuple[float, ...]
    geometry: Geometry

    @classmethod
    def of(cls, branches: Sequence[Chain | None], factors: Sequence[float]) -> Branches | Refusal:
        """Create the sum of branches, of which at least one has a layer, or refuse it."""
        known = [branch for branch in branches if branch is not None]
        first = known[0].whole
        if isinstance(first, Refusal):
            return first
        if len({branch.axis for branch in known}) > 1:
            return Refusal(Reason.GEOMETRY, "the branches map different axes")
        same = _identity(first)
        parts = [same if branch is None else branch.whole for branch in branches]
        total = parts[0]
        for part in parts[1:]:
            if isinstance(total, Refusal) or isinstance(part, Refusal):
                break
            total = total.plus(part)
        refusal = next((p for p in (total, *parts) if isinstance(p, Refusal)), None)
        if refusal is not None or isinstance(total, Refusal):
            assert refusal is not None
            return refusal
        return cls(tuple(branches), tuple(factors), total).at_rank(total.rank)

    @property
    def axis(self) -> int:
        """The channel axis."""
        return next(branch.axis for branch in self.branches if branch is not None)

    @property
    def fixed(self) -> bool:
        """Whether it has no weights."""
        return all(branch is None or not branch.is_weighted for branch in self.branches)

    def at_rank(self, rank: int) -> Branches:
        """Return the same map with this number of spatial axes, in every branch."""
        branches = tuple(None if b is None else b.at_rank(rank) for b in self.branches)
        return replace(self, branches=branches, geometry=self.geometry.at_rank(rank))

    @property
    def label(self) -> str:
        """The name in messages."""
        return " + ".join("x" if b is None else b.label for b in self.branches)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the tensors that it reads."""
        return tuple(path for b in self.branches if b is not None for path in b.paths)

    def numbers(self, tensors: Tensors) -> Numbers:
        """Compute weight and bias of the sum."""
        total: Numbers | None = None
        for branch, factor in zip(self.branches, self.factors, strict=True):
            own: Geometry | Refusal = _identity(self.geometry)
            weight, bias = None, None
            if branch is not None:
                own, (weight, bias) = branch.whole, branch.numbers(tensors)
            assert isinstance(own, Geometry)
            if weight is None:
                weight = next(iter(tensors.values())).new_ones(own.weight_shape)
            weight = weight.reshape(own.weight_shape)
            if factor != 1:
                weight, bias = weight * factor, None if bias is None else bias * factor
            part = embedded(Numbers(weight, bias), own, self.geometry)
            total = part if total is None else added(total, part)
        assert total is not None
        return total


Element: TypeAlias = "LinearNode | Branches"


@dataclass(frozen=True)
class Segment:
    """A stretch of elements as one map.

    Attributes:
        geometry: The geometry; None if the stretch is not one map, though its kernels compose.
        taps: The geometry without padding and bias.
        split: The last element of the first of the two parts to compose; the element itself if
            there is only one.
        work: The multiplications of composing these two parts.
    """

    geometry: Geometry | None
    taps: Geometry
    split: int
    work: int


@dataclass(frozen=True)
class Chain:
    """A sequence of elements, each of which maps the result of the previous one.

    Attributes:
        elements: The elements, at least one.
        spans: Stretches of elements by first and last index.
        ends: By element, why a stretch that ends there cannot continue.
    """

    elements: tuple[Element, ...]
    spans: Mapping[tuple[int, int], Segment]
    ends: Mapping[int, Refusal]

    @classmethod
    def of(cls, elements: Sequence[Element]) -> Chain:
        """Create the chain of some elements; a matrix among kernels acts as a 1x1 kernel."""
        rank = max(element.geometry.rank for element in elements)
        elements = [element.at_rank(rank) for element in elements]
        return cls(tuple(elements), *_spans(elements))

    def at_rank(self, rank: int) -> Chain:
        """Return the same map with this number of spatial axes."""
        if rank == self.rank:
            return self
        return Chain.of([element.at_rank(rank) for element in self.elements])

    def __len__(self) -> int:
        return len(self.elements)

    @property
    def axis(self) -> int:
        """The channel axis of its input."""
        return self.elements[0].axis

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return self.elements[0].geometry.rank

    @property
    def composes(self) -> bool:
        """Whether several layers of it compose to one map."""
        longer = any(s.geometry is not None and i < j for (i, j), s in self.spans.items())
        return longer or any(isinstance(element, Branches) for element in self.elements)

    @property
    def is_weighted(self) -> bool:
        """Whether some element has weights."""
        return not all(element.fixed for element in self.elements)

    def weighted(self) -> list[Chain]:
        """Return the chains of several layers between maps without weights."""
        runs = itertools.groupby(self.elements, key=lambda element: element.fixed)
        chains = [Chain.of(list(run)) for fixed, run in runs if not fixed]
        return [c for c in chains if c.composes and (0, len(c) - 1) in c.spans]

    @property
    def label(self) -> str:
        """The name in messages: its first and last layer."""
        names = [element.label for element in self.elements]
        return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the tensors that it reads, without duplicates."""
        return tuple(dict.fromkeys(path for e in self.elements for path in e.paths))

    @property
    def whole(self) -> Geometry | Refusal:
        """The geometry of all elements, or why there is none."""
        span = self.spans.get((0, len(self) - 1))
        if span is not None and span.geometry is not None:
            return span.geometry
        return next(refusal for _, refusal in sorted(self.ends.items()))

    def numbers(self, tensors: Tensors, first: int = 0, last: int | None = None) -> Numbers:
        """Compute weight and bias of a stretch, [n, m / group, *kernel] and [n]."""
        last = len(self) - 1 if last is None else last
        if first == last:
            return self.elements[first].numbers(tensors)
        split = self.spans[first, last].split
        return after(
            self.spans[first, split].taps,
            self.spans[split + 1, last].taps,
            self.numbers(tensors, first, split),
            self.numbers(tensors, split + 1, last),
        )


def _spans(
    elements: Sequence[Element],
) -> tuple[dict[tuple[int, int], Segment], dict[int, Refusal]]:
    """Return all stretches, each with its cheapest order of composition, as in matrix products."""
    count = len(elements)
    spans: dict[tuple[int, int], Segment] = {}
    cost: dict[tuple[int, int], int] = {}
    ends: dict[int, Refusal] = {}
    for i, element in enumerate(elements):
        taps = _taps(element.geometry)
        spans[i, i], cost[i, i] = Segment(element.geometry, taps, i, 0), 0
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            options = []
            for k in range(i, j):
                if (i, k) in spans and (k + 1, j) in spans:
                    products = work(spans[i, k].taps, spans[k + 1, j].taps)
                    options.append((cost[i, k] + cost[k + 1, j] + products, k, products))
            if not options:
                continue
            cost[i, j], split, products = min(options)
            taps_of_both = spans[i, split].taps.then(spans[split + 1, j].taps)
            if isinstance(taps_of_both, Refusal):
                ends.setdefault(j - 1, taps_of_both)
                continue
            geometry: Geometry | None = None
            before = spans[i, j - 1].geometry if (i, j - 1) in spans else None
            if before is not None:
                # The decision that fold makes, from left to right.
                joined = before.then(elements[j].geometry)
                if isinstance(joined, Refusal):
                    ends.setdefault(j - 1, joined)
                else:
                    geometry = joined
            spans[i, j] = Segment(geometry, taps_of_both, split, products)
    return spans, ends


def _taps(geometry: Geometry) -> Geometry:
    nothing = (0,) * len(geometry.pads)
    return replace(geometry, pads=nothing, bias=False, extension=(), auto_pad="", output_shape=())


def _identity(like: Geometry) -> Geometry:
    m = like.in_channels
    return Geometry(m, m, (1,) * like.rank, group=m)


def wide(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Convert tensors of half precision to float32, in which kernels are multiplied."""
    short = {torch.float16, torch.bfloat16}
    return {k: t.float() if t.dtype in short else t for k, t in tensors.items()}
