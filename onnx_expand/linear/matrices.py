"""The partition of long chains of matrices, by arrays instead of span by span.

The product of a span of matrices maps the channels that its first one reads to those that its last
one writes, whatever lies between, so that its cost is known from its two ends. All spans with one
end are costed at once.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost import Cost

__all__ = ["MatrixChain"]

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MatrixChain:
    """A chain of matrices and maps per channel.

    Attributes:
        geometries: The maps, all of rank 0, with one group or one for each channel.
        shift_only: For each, whether it only adds.
        own: For each, what its node costs as it stands.
        positions: How many vectors are mapped.
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
        """The partition of least cost, as spans with both ends included.

        Of equal partitions the one with fewer merges and shorter last spans is chosen.

        Args:
            weights: What is minimized in turn: weights of macs, parameters, nodes, elementwise
                steps, numbers read and products.
            forbidden: Spans that must not be merged.
            longest: No longer span is merged.
        """
        count = len(self.geometries)
        # Per prefix: what `_costs` has of its best partition.
        best = np.zeros((count + 1, 7), dtype=np.int64)
        starts: list[int] = []
        rows = np.array([*((*row, 0) for row in weights), (0, 0, 0, 0, 0, 0, 1)], dtype=np.float64)
        for last in range(count):
            totals = best[: last + 1] + self._costs(last)
            candidates = np.arange(max(0, last + 1 - longest), last + 1)
            if forbidden:
                candidates = candidates[[(int(i), last) not in forbidden for i in candidates]]
            for row in rows:
                if len(candidates) == 1:
                    break
                values = totals[candidates] @ row  # beyond 2**53, what is less is equal
                candidates = candidates[values == values.min()]
            starts.append(int(candidates[-1]))
            best[last + 1] = totals[starts[-1]]
        spans = []
        while count:
            spans.append((starts[count - 1], count - 1))
            count = starts[count - 1]
        macs, parameters, nodes, elementwise, copied, begun, _ = map(int, best[-1])
        cost = Cost(macs, parameters, nodes, elementwise, copied, starts=begun)
        return cost, spans[::-1]

    def _costs(self, last: int) -> _Integers:
        """The costs of every span that ends at an element.

        These are macs, parameters, nodes, elementwise steps, numbers read, products and merges.
        """
        reads, traits = self._traits
        ends = np.logical_or.accumulate(traits[last::-1], axis=0)[::-1].astype(np.int64)
        dense, bias, scale = ends.T
        n = self.geometries[last].out_channels
        products, steps = dense * reads[: last + 1] * n, np.maximum(1, scale + bias)
        added = bias * (not self.gemm)
        costs = np.stack(
            [
                products * self.positions,
                products + n * np.where(dense, bias, scale + bias),
                np.where(dense, 1 + added, steps),
                n * self.positions * np.where(dense, added, steps),
                dense * reads[: last + 1] * self.positions,
                dense,
                np.ones_like(products),
            ],
            axis=1,
        )
        own = self.own[last]
        costs[last] = (
            own.macs,
            own.parameters,
            own.nodes,
            own.elementwise,
            own.copied,
            own.starts,
            0,
        )
        return costs

    @functools.cached_property
    def _traits(self) -> tuple[_Integers, _Integers]:
        """Per map: the channels that it reads; whether it mixes channels, shifts, scales."""
        reads = np.array([g.in_channels for g in self.geometries])
        traits = [
            (not g.is_per_channel, g.bias, not shift)
            for g, shift in zip(self.geometries, self.shift_only, strict=True)
        ]
        return reads, np.array(traits, dtype=np.int64)
