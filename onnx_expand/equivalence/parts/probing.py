"""Probe the affine parts of two models separately with random inputs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_expand.equivalence.parts.cells import Cell
from onnx_expand.equivalence.parts.cutting import target
from onnx_expand.equivalence.parts.linearity import Dependence
from onnx_expand.equivalence.parts.magnitude import Rounding
from onnx_expand.equivalence.parts.proofs import (
    Array,
    Evidence,
    Finding,
    chunks,
    conclude,
    magnitudes,
    probes,
)
from onnx_expand.errors import UnsupportedError
from onnx_expand.runtimes.base import Tensors
from onnx_expand.runtimes.reference import ReferenceSession

__all__ = ["AffinePart", "PreparedPair", "prove"]

Shapes = dict[str, tuple[int, ...]]

_COUNTS = (32, 16, 8)
_BUDGET = 3 * 10**9  # products for one part, over all sizes and both models
_TOTAL = 3 * 10**10
_UNFIT = "it cannot be probed"


@dataclass(frozen=True)
class AffinePart:
    """A part that is affine in both models.

    Attributes:
        cell: The part.
        dependences: The forms in A and B.
        roundings: The roundings in A and B.
        work: The operations of both on the values that reach the part in A.
        symbolic: Whether A accepts images of any size.
        slack: The allowed difference as a multiple of the one that rounding explains.
    """

    cell: Cell
    dependences: tuple[Dependence, Dependence]
    roundings: tuple[Rounding, Rounding]
    work: int
    symbolic: bool
    slack: float = 1.0


@dataclass(frozen=True)
class PreparedPair:
    """The parts of both models in float64: as they are, and with absolute values."""

    a: ReferenceSession
    b: ReferenceSession
    sizes_a: ReferenceSession
    sizes_b: ReferenceSession

    def part(self, name: str) -> PreparedPair:
        """Return the bench of one of the parts."""
        sides = (self.a, self.b, self.sizes_a, self.sizes_b)
        return PreparedPair(*(side.part(name) for side in sides))


def prove(
    parts: Mapping[str, AffinePart], pair: PreparedPair, values: Tensors
) -> dict[str, Finding]:
    """Probe parts, each separately.

    Args:
        parts: The tasks by the name of the tensor that the part computes.
        pair: The models, whose outputs are named by `target`.
        values: The values that reach the parts in A, which determine ranks and integer inputs.
    """
    found, left = {}, _TOTAL
    for name, part in parts.items():
        plan = _Plan.of(part, values)
        found[name], spent = plan.carry_out(pair.part(target(name)), name, left)
        left -= spent
    return found


@dataclass(frozen=True)
class _Plan:
    """The sizes at which a part is tried, the most informative first."""

    part: AffinePart
    fixed: Tensors
    actual: Shapes
    sizes: tuple[Shapes, ...]
    beside: bool

    @classmethod
    def of(cls, part: AffinePart, values: Tensors) -> _Plan:
        given = {name: values[name] for name in part.cell.inputs}
        fixed = {name: array for name, array in given.items() if array.dtype.kind != "f"}
        actual = {name: array.shape for name, array in given.items() if name not in fixed}
        shapes = list(actual.values())
        ranks = {len(shape) for shape in shapes}
        alike = len(ranks) == 1 and min(ranks) > 1 and len({shape[0] for shape in shapes}) == 1
        if fixed or not alike:
            return cls(part, fixed, actual, (actual,), False)
        if all(one.window for one in part.dependences):
            sizes = _windows(actual, part)
            return cls(part, fixed, _samples(actual), tuple(map(_samples, sizes)), True)
        if all(one.rows for one in part.dependences) and _agree(shapes):
            short = {name: (1, *([2] * (len(s) - 2)), s[-1]) for name, s in actual.items()}
            return cls(part, fixed, _samples(actual), (_samples(short),), True)
        return cls(part, fixed, actual, (actual,), False)

    def carry_out(self, pair: PreparedPair, name: str, left: int) -> tuple[Finding, int]:
        """Probe the part and count the operations.

        A difference at a size that only probing chose does not count against models that never run
        at that size: it must also occur at their own size.
        """
        if not self.actual:
            return Finding(reason="it reads nothing that varies"), 0
        finding, spent = self._try(self.sizes, pair, name, left)
        own = self.part.symbolic or self.actual in self.sizes
        if finding.proof is not None or (finding.fault and own):
            return finding, spent
        # Sizes chosen for each input separately may be incompatible.
        fits = not finding.reason.startswith(_UNFIT) or len(self.sizes) == 1
        if self.actual in self.sizes and fits:
            return finding, spent
        finding, more = self._try((self.actual,), pair, name, left - spent)
        return finding, spent + more

    def _try(
        self, sizes: Sequence[Shapes], pair: PreparedPair, name: str, left: int
    ) -> tuple[Finding, int]:
        budget = min(_BUDGET, left)
        # If the extents are free, several sizes are more informative than many probes.
        few = 1 if not self.part.symbolic else len(sizes)
        options = [(_COUNTS[0], len(sizes)), *((count, few) for count in _COUNTS)]
        options.append((_COUNTS[-1], 1))
        for count, tried in options:
            cost = sum(self._cost(size) for size in sizes[:tried]) * 4 * (count + 2)
            if cost <= budget:
                break
        else:
            return Finding(reason="it is too large to be probed"), 0
        try:
            evidence = [
                self._evidence(pair, size, count, (0, zlib.crc32(name.encode()), place))
                for place, size in enumerate(sizes[:tried])
            ]
        except (UnsupportedError, MemoryError) as error:
            return Finding(reason=f"{_UNFIT}: {error}"), cost
        return conclude(evidence, *self.part.roundings, self.part.slack), cost

    def _cost(self, size: Shapes) -> int:
        """Return the number of operations for one input of a size."""
        own = max(_elements(shape) for shape in self.actual.values())
        new = max(_elements(shape) for shape in size.values())
        return int(self.part.work * new / max(1, own)) + 1

    def _evidence(
        self, pair: PreparedPair, shapes: Shapes, count: int, seed: Sequence[int]
    ) -> Evidence:
        drawn = probes(shapes, count, seed)
        sizes = magnitudes(drawn)
        text = ", ".join("x".join(map(str, shape)) for _, shape in sorted(shapes.items()))
        return Evidence(
            self._run(pair.a, drawn),
            self._run(pair.b, drawn),
            self._run(pair.sizes_a, sizes),
            self._run(pair.sizes_b, sizes),
            text,
        )

    def _run(self, session: ReferenceSession, drawn: Mapping[str, Array]) -> Array:
        if self.beside:
            # Each input is one sample, so the batch axis is dropped.
            feeds = {name: array[:, 0] for name, array in drawn.items()}
            (result,) = session.run({**self.fixed, **feeds}).values()
            return result.astype(np.float64)
        parts = []
        for feeds in chunks(drawn):
            (result,) = session.run({**self.fixed, **feeds}).values()
            parts.append(result.astype(np.float64))
        return np.stack(parts)


def _elements(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _samples(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return shapes of one sample each; the batch axis holds the probes."""
    return {name: (1, *shape[1:]) for name, shape in shapes.items()}


def _agree(shapes: Sequence[tuple[int, ...]]) -> bool:
    return len({shape[:-1] for shape in shapes}) == 1


def _windows(actual: Shapes, part: AffinePart) -> Iterator[Shapes]:
    """Yield sizes at which windows meet every border: a few positions, odd and even, and more."""
    rank = len(next(iter(actual.values())))
    reach = max(one.reach for one in part.dependences)
    stride = max(one.stride for one in part.dependences)
    full = [max(shape[axis] for shape in actual.values()) for axis in range(2, rank)]
    least = reach + stride - 1
    starts = [least, least + 2, 2 * least + 1] if part.symbolic else [least, least + stride]
    seen = set()
    for start in starts if full else [least]:
        extents = []
        for axis, extent in enumerate(full):
            wanted = start + axis % 2
            if not part.symbolic:
                # The windows meet the far border at the same phase as at the full extent.
                wanted = extent - stride * max(0, (extent - start) // stride)
            extents.append(wanted)
        size = {
            name: shape[:2]
            + tuple(
                1 if own == 1 < extent else -(-own * new // extent)
                for own, new, extent in zip(shape[2:], extents, full, strict=True)
            )
            for name, shape in actual.items()
        }
        if tuple(extents) not in seen:
            seen.add(tuple(extents))
            yield size
