"""The outcome of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from onnx_expand.documents import plain, table
from onnx_expand.equivalence.compare import Figure, Place
from onnx_expand.equivalence.parts.proofs import DOUBT, Proof
from onnx_expand.equivalence.parts.region import Grade, Region
from onnx_expand.runtimes.base import Tensors

__all__ = ["Basis", "Verdict"]

_LARGE_SHARE = 0.05
_NOTHING = 1e-30  # outputs that are practically zero have no meaningful ratio


class Basis(StrEnum):
    """The evidence of a verdict."""

    IDENTITY = "identity"
    """The two graphs have equal nodes, with bitwise equal constants."""
    PROOF = "proof"
    """Each part in which they differ is proven, and all other nodes are equal."""
    BOUNDS = "bounds"
    """Each part is proven, or within its forward error bound; all other nodes are equal."""
    TESTS = "tests"
    """The results of both models on the tried inputs."""


@dataclass(frozen=True)
class Verdict:
    """Whether two models compute the same, with the supporting figures.

    Attributes:
        equal: Whether they compute the same.
        differences: The differences, one sentence each; empty if equal.
        outputs: One figure per output, input and provider.
        basis: The source of the tolerance.
        providers: Where the models ran.
        notes: Further remarks for the reader.
        inputs: The inputs on which the models ran, by the name of the sample.
        regions: The parts in which the graphs differ, each compared separately.
        rest: Why the graphs also differ outside these parts; empty if they do not.
    """

    equal: bool
    differences: tuple[str, ...]
    outputs: tuple[Figure, ...]
    basis: str
    providers: tuple[str, ...]
    notes: tuple[str, ...] = ()
    inputs: Mapping[str, Tensors] = field(default_factory=dict, repr=False, compare=False)
    regions: tuple[Region, ...] = ()
    rest: str = "the graphs were not compared part by part"

    @classmethod
    def of(
        cls,
        figures: Sequence[Figure],
        basis: str,
        providers: tuple[str, ...],
        inputs: Mapping[str, Tensors],
    ) -> Verdict:
        """Conclude from measured figures."""
        found = tuple(_differences(figures))
        notes = tuple(_notes(figures))
        return cls(not found, found, tuple(figures), basis, providers, notes, inputs)

    def with_regions(self, regions: Sequence[Region], rest: str) -> Verdict:
        """Combine this verdict with that of the parts in which the graphs differ."""
        beyond = tuple(region.summary() for region in regions if not region.holds)
        return replace(
            self,
            equal=self.equal and not beyond,
            differences=(*self.differences, *beyond),
            notes=(*self.notes, *_region_notes(regions)),
            regions=tuple(regions),
            rest=rest,
        )

    def excused(self, places: Set[Place], excuse: str) -> Verdict:
        """Excuse the distances at some places as A's own rounding."""
        gone = [f for f in self.distances if f.place in places]
        if not gone:
            return self
        figures = tuple(
            replace(f, problem="", excuse=excuse) if f in gone else f for f in self.outputs
        )
        old = set(_differences(self.outputs))
        others = [text for text in self.differences if text not in old]
        found = (*_differences(figures), *others)
        worst = max(gone, key=lambda figure: figure.ratio)
        note = f"output '{worst.place.output}': {worst.problem} ({worst.place.sample}): {excuse}"
        notes = (*self.notes, note)
        return replace(self, equal=not found, differences=found, outputs=figures, notes=notes)

    @property
    def distances(self) -> tuple[Figure, ...]:
        """The figures in which the two are too far apart and that have no other difference."""
        return tuple(figure for figure in self.outputs if _is_distance(figure))

    @property
    def rests_on(self) -> Basis:
        """The evidence of the verdict; an observed difference rests on tests."""
        if not self.equal or self.rest:
            return Basis.TESTS
        if not self.regions:
            return Basis.IDENTITY
        grades = {region.grade for region in self.regions}
        if grades == {Grade.PROVEN}:
            return Basis.PROOF
        return Basis.TESTS if Grade.UNCHECKED in grades else Basis.BOUNDS

    @property
    def worst(self) -> Figure | None:
        """The figure with the largest ratio, if anything ran."""
        return max(self.outputs, key=lambda figure: figure.ratio, default=None)

    @property
    def max_error(self) -> float:
        """The error of the worst figure."""
        return self.worst.max_error if self.worst else 0.0

    @property
    def floor(self) -> float:
        """The floor at the worst figure."""
        return self.worst.floor if self.worst else 0.0

    @property
    def ratio(self) -> float:
        """The ratio of error to tolerance of the worst figure; at most 1 if equal."""
        return self.worst.ratio if self.worst else (0.0 if self.equal else math.inf)

    def __bool__(self) -> bool:
        return self.equal

    def summary(self) -> str:
        """Return the verdict in one line."""
        if not self.equal:
            more = len(self.differences) - 1
            tail = f" (and {more} more)" if more else ""
            return f"different: {self.differences[0]}{tail}"
        places = {(figure.place.sample, figure.place.provider) for figure in self.outputs}
        return (
            f"equal on {len(places)} input{'s' if len(places) > 1 else ''} "
            f"({', '.join(self.providers)}): largest error "
            f"{self.max_error:.2g}, {self.ratio:.2f} of the tolerance ({self.basis})"
            f"{self._grounds()}"
        )

    def _grounds(self) -> str:
        """Return how much is proven, as the tail of a sentence."""
        count = len(self.regions)
        grounds = {
            Basis.IDENTITY: "; the graphs are the same",
            Basis.PROOF: f"; differing parts proven: {count} of {count}",
            Basis.BOUNDS: f"; differing parts within their bounds: {count} of {count}",
            Basis.TESTS: "",
        }[self.rests_on]
        proven = sum(region.grade is Grade.PROVEN for region in self.regions)
        if grounds or not proven:
            return grounds
        return f"; differing parts proven: {proven} of {count}"

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as strict JSON types, with non-finite values as strings."""
        said = {"schema": 2, "summary": self.summary(), "rests_on": str(self.rests_on)}
        figures = {name: plain(getattr(self, name)) for name in ("max_error", "floor", "ratio")}
        return said | table(self) | figures


_VAGUE = "it is larger than the numbers, since bounds grow with each layer"


def _is_distance(figure: Figure) -> bool:
    return bool(figure.problem) and math.isfinite(figure.ratio)


def _differences(figures: Sequence[Figure]) -> Iterator[str]:
    for output in dict.fromkeys(figure.place.output for figure in figures):
        mine = [figure for figure in figures if figure.place.output == output]
        wrong = [figure for figure in mine if not figure.equal]
        if wrong:
            worst = max(wrong, key=lambda figure: figure.ratio)
            where = f"on {worst.place.sample}, {worst.place.provider}"
            count = f"differs on {len(wrong)} of {len(mine)} inputs"
            yield f"output '{output}': {worst.problem} ({where}; {count})"


def _notes(figures: Sequence[Figure]) -> Iterator[str]:
    for output in dict.fromkeys(figure.place.output for figure in figures):
        mine = [figure for figure in figures if figure.place.output == output]
        odd = [figure for figure in mine if figure.non_finite]
        if odd:
            yield (
                f"output '{output}' has NaN or infinity, at the same places in both, on "
                f"{len(odd)} of {len(mine)} inputs"
            )
        shares = [figure.tolerance / figure.scale for figure in mine if figure.scale > _NOTHING]
        if max(shares, default=0.0) > _LARGE_SHARE:
            yield (
                f"output '{output}' is compared loosely, by {max(shares):.0%} of its largest "
                "value: A amplifies rounding that much"
            )


def _region_notes(regions: Sequence[Region]) -> Iterator[str]:
    bounded = [region for region in regions if region.grade is not Grade.UNCHECKED]
    if bounded:
        worst = max(bounded, key=lambda region: region.ratio)
        held = sum(region.ratio <= 1 for region in bounded)
        yield (
            f"differing parts within their forward error bounds: {held} of {len(bounded)}; "
            f"the largest error is {worst.ratio:.2g} of the bound, at '{worst.tensor}'"
        )
    proofs = [(region.proof, region) for region in regions if region.proof is not None]
    if proofs:
        proof, at = max(proofs, key=lambda pair: pair[0].relative)
        yield (
            f"differing parts proven: {len(proofs)} of {len(regions)}, each with confidence "
            f"1 - {DOUBT:g}: no weight is off by more than {_at_most(proofs):.2g}, nor by "
            f"more than {proof.relative:.2g} roundings of the norm of its row (at '{at.tensor}')"
        )
    for grade, what in (
        (Grade.TESTED, "tested, not proven"),
        (Grade.UNCHECKED, "without a useful forward error bound"),
    ):
        others = [region for region in regions if region.grade is grade and not region.fault]
        if others:
            why = others[0].obstacle or (_VAGUE if others[0].vague else others[0].reason)
            yield f"differing parts {what}: {len(others)}, such as '{others[0].tensor}': {why}"


def _at_most(proofs: Sequence[tuple[Proof, Region]]) -> float:
    """Return the largest deviation that any of the proofs allows."""
    return max(proof.deviation for proof, _ in proofs)
