"""The cost of running a chain, composed or layer by layer, and the cheapest way to run it.

The cost is multiply-accumulates, forward and backward, plus overheads that matter for small
computations: convolutions process channels in blocks and groups one by one, kernels are multiplied
at two thirds of the speed of layers that run on images, and every pass has a fixed cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.train.composed.chain import Branches, Chain, Element

__all__ = ["EXECUTIONS", "Piece", "Pieces", "Situation", "best", "layer_by_layer", "products"]

EXECUTIONS = ("auto", "composed", "layerwise")


# Fitted to steps of single chains on one CPU core, in products; about 50 products take 1 ns.
_BLOCK = 16
_GROUP = 20_000
_RUN, _RUN_MATRIX = 1_500_000, 500_000
_MOVED, _POOLED = 10, 40  # per written element, and per averaged tap
_COMPOSE, _COMPOSE_MATRIX, _SPREAD = 4_000_000, 1_500_000, 6_500_000


class Piece(NamedTuple):
    """A stretch of a chain that runs at once.

    Attributes:
        first: The index of its first element.
        last: The index of its last element.
        whole: Whether it is composed to one map; otherwise it is one element, run as is.
        branches: How to run the branches of a sum that is not composed.
    """

    first: int
    last: int
    whole: bool
    branches: tuple[Pieces | None, ...] = ()


Pieces: TypeAlias = "tuple[Piece, ...]"


@dataclass(frozen=True)
class Situation:
    """The input and setting of a run.

    Attributes:
        batch: The number of samples; for matrices, the rows of all samples.
        extents: The spatial extents of the input.
        backward: Whether gradients will be computed.
        input: Whether the chain's input needs a gradient.
        trained: The tensors that have gradients.
        parts: How many times a kernel is used before the weights change.
        plain: Whether to count products only, without overheads.
    """

    batch: int
    extents: tuple[int, ...]
    backward: bool
    input: bool
    trained: frozenset[str]
    parts: int = 1
    plain: bool = False

    def trains(self, elements: Sequence[Element]) -> bool:
        """Return whether some tensor of these elements has a gradient."""
        return self.backward and any(p in self.trained for e in elements for p in e.paths)

    def running(
        self, geometry: Geometry, extents: tuple[int, ...], moves: bool, trains: bool
    ) -> int:
        """Return the cost of running a map: forward, and for the gradients of input and weight."""
        products = self.batch * geometry.macs(extents)
        if self.plain:
            return products * (1 + self.backward * (trains + moves))
        group, extra = geometry.group, _RUN if geometry.rank else _RUN_MATRIX
        m, n = geometry.in_channels // group, geometry.out_channels // group
        outputs, inputs = n, m
        if geometry.rank and (group == 1 or m * n > 1):
            outputs, inputs = _blocks(n), _blocks(m)
            extra += self.batch * group * _GROUP if group > 1 else 0
        onwards = products * outputs // n + extra
        back = products * inputs // m + extra
        return onwards * (1 + (trains and self.backward)) + back * (moves and self.backward)

    def moving(self, geometry: Geometry, extents: tuple[int, ...], moves: bool) -> int:
        """Return the cost of a map without weights, which runs without products."""
        if self.plain:
            return 0
        positions = math.prod(geometry.output_extents(extents)) if geometry.rank else 1
        taps = math.prod(geometry.kernel)
        each = _POOLED * taps if taps > 1 else _MOVED
        extra = _RUN if geometry.rank else _RUN_MATRIX
        onwards = self.batch * positions * geometry.out_channels * each + extra
        return onwards * (1 + (moves and self.backward))

    def composing(self, products: int, trained: int, extra: int = _COMPOSE) -> int:
        """Return the cost of multiplying two kernels, of which `trained` have gradients."""
        return (products if self.plain else products * 3 // 2 + extra) * (1 + trained)


def _blocks(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK


def best(chain: Chain, situation: Situation, execution: str) -> Pieces:
    """Return the cheapest way to run a chain, forward and backward.

    `composed` minimizes the number of pieces with weights first and composes every sum;
    `layerwise` runs each layer separately.
    """
    if execution == "layerwise":
        return layer_by_layer(chain)
    return _Planner(situation, execution).chain(chain, situation.extents, situation.input)[1]


def products(chain: Chain, pieces: Pieces, situation: Situation) -> int:
    """Return the multiply-accumulates of one way to run a chain, forward and backward."""
    planner = _Planner(replace(situation, plain=True), "auto")
    return planner.price(chain, pieces, situation.extents, situation.input)


def layer_by_layer(chain: Chain) -> Pieces:
    """Return the way to run a chain layer by layer."""
    pieces = []
    for index, element in enumerate(chain.elements):
        branches = element.branches if isinstance(element, Branches) else ()
        ways = tuple(None if branch is None else layer_by_layer(branch) for branch in branches)
        pieces.append(Piece(index, index, False, ways))
    return tuple(pieces)


# The number of pieces, or 0 where it does not count; then products.
_Cost: TypeAlias = "tuple[int, int]"


class _Planner:
    """Plans one chain and its branches."""

    def __init__(self, situation: Situation, execution: str) -> None:
        self.situation = situation
        self.forced = execution == "composed"

    def chain(self, chain: Chain, extents: tuple[int, ...], moves: bool) -> tuple[_Cost, Pieces]:
        """Return the least cost of a chain, and how to run it at that cost."""
        sizes, moving = self._sizes(chain, extents, moves)
        costs: list[_Cost] = [(0, 0)]
        ways: list[Pieces] = [()]
        for j in range(len(chain)):
            options = []
            for i in range(j + 1):
                for cost, piece in self._pieces(chain, i, j, sizes[i], moving[i]):
                    total = (costs[i][0] + cost[0], costs[i][1] + cost[1])
                    options.append((total, (*ways[i], piece)))
            least = options[0]
            for option in options[1:]:
                # At equal cost, fewer pieces take less time.
                if (option[0], len(option[1])) < (least[0], len(least[1])):
                    least = option
            costs.append(least[0])
            ways.append(least[1])
        return costs[-1], ways[-1]

    def price(self, chain: Chain, pieces: Pieces, extents: tuple[int, ...], moves: bool) -> int:
        """Return the cost of one way to run a chain."""
        sizes, moving = self._sizes(chain, extents, moves)
        total = 0
        for piece in pieces:
            i = piece.first
            element = chain.elements[i]
            if isinstance(element, Branches) and not piece.whole:
                for branch, way in zip(element.branches, piece.branches, strict=True):
                    if branch is not None and way is not None:
                        total += self.price(branch, way, sizes[i], moving[i])
                continue
            options = self._pieces(chain, i, piece.last, sizes[i], moving[i])
            total += next(cost[1] for cost, option in options if option.whole == piece.whole)
        return total

    def _sizes(
        self, chain: Chain, extents: tuple[int, ...], moves: bool
    ) -> tuple[list[tuple[int, ...]], list[bool]]:
        """Return the extents before each element, and whether the value there has a gradient."""
        sizes, moving = [extents], [moves]
        for element in chain.elements:
            geometry = element.geometry
            sizes.append(geometry.output_extents(sizes[-1]) if geometry.rank else ())
            moving.append(moving[-1] or self.situation.trains([element]))
        return sizes, moving

    def _pieces(
        self, chain: Chain, i: int, j: int, extents: tuple[int, ...], moves: bool
    ) -> list[tuple[_Cost, Piece]]:
        """Return the ways to run a stretch as one piece."""
        span = chain.spans.get((i, j))
        if span is None or span.geometry is None:
            return []
        found: list[tuple[_Cost, Piece]] = []
        element = chain.elements[i]
        trains = self.situation.trains(chain.elements[i : j + 1])
        running = self.situation.running(span.geometry, extents, moves, trains)
        if i < j or isinstance(element, Branches):
            composing = -(-self._composing(chain, i, j) // self.situation.parts)
            found.append(((int(self.forced), running + composing), Piece(i, j, True)))
        if i == j and not isinstance(element, Branches):
            if element.fixed:
                running = self.situation.moving(span.geometry, extents, moves)
            count = int(self.forced and not element.fixed)
            found.append(((count, running), Piece(i, j, False)))
        if i == j and isinstance(element, Branches) and not self.forced:
            found.append(self._branches(element, i, extents, moves))
        return found

    def _branches(
        self, element: Branches, i: int, extents: tuple[int, ...], moves: bool
    ) -> tuple[_Cost, Piece]:
        products = 0
        ways: list[Pieces | None] = []
        for branch in element.branches:
            if branch is None:
                ways.append(None)
                continue
            cost, way = self.chain(branch, extents, moves)
            products += cost[1]
            ways.append(way)
        return (0, products), Piece(i, i, False, tuple(ways))

    def _composing(self, chain: Chain, i: int, j: int) -> int:
        """Return the cost of composing a kernel, and of the gradients of its parts."""
        if i == j:
            element = chain.elements[i]
            if not isinstance(element, Branches):
                return 0
            trains = self.situation.trains([element])
            size = element.geometry.macs_per_position
            total = len(element.branches) * self.situation.composing(size, trains)
            chains = [branch for branch in element.branches if branch is not None]
            return total + sum(self._composing(b, 0, len(b) - 1) for b in chains)
        span = chain.spans[i, j]
        left = self.situation.trains(chain.elements[i : span.split + 1])
        right = self.situation.trains(chain.elements[span.split + 1 : j + 1])
        inner = ((i, span.split), (span.split + 1, j))
        below = sum(self._composing(chain, first, last) for first, last in inner)
        taps = [chain.spans[part].taps.kernel for part in inner]
        extra = _SPREAD if min(map(math.prod, taps)) > 1 else _COMPOSE
        extra = extra if chain.elements[0].geometry.rank else _COMPOSE_MATRIX
        return self.situation.composing(span.work, left + right, extra) + below
