"""A part in which two models differ, and the evidence about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from onnx_expand.documents import table
from onnx_expand.equivalence.parts.proofs import Proof

__all__ = [
    "Grade",
    "Region",
]


class Grade(StrEnum):
    """The strength of the evidence about a part in which two models differ."""

    PROVEN = "proven"
    """Affine in both, with the same weights up to a stated deviation, and within its bound."""
    TESTED = "tested"
    """Within its forward error bound, on the values that reach it in A."""
    UNCHECKED = "unchecked"
    """Compared only through the outputs of the models."""


@dataclass(frozen=True)
class Region:
    """A part in which two models differ.

    Attributes:
        tensor: The tensor that it computes.
        nodes_a: The nodes of A.
        nodes_b: The nodes of B in their place.
        provider: The provider on which B's part ran.
        error: The largest distance of B's result from A's in float64, on equal values.
        bound: The bound on rounding errors at the element with the largest ratio.
        ratio: The error over the bound; rounding cannot explain a ratio above 1.
        strain: The largest error over the tolerance of an output, a few times A's own error.
        vague: Whether the bound exceeds the values, so that it would allow any others.
        obstacle: Why there is no bound, empty if there is one.
        proof: The proof from probes of this part alone, if there is one.
        fault: The difference that probes of this part alone found, empty if none.
        reason: Why there is no proof, empty if there is one.
    """

    tensor: str
    nodes_a: tuple[str, ...]
    nodes_b: tuple[str, ...]
    provider: str
    error: float = 0.0
    bound: float = 0.0
    ratio: float = 0.0
    obstacle: str = ""
    proof: Proof | None = None
    fault: str = ""
    reason: str = ""
    strain: float = 0.0
    vague: bool = field(default=False, repr=False)

    @property
    def holds(self) -> bool:
        """Whether rounding explains the error, as far as is known."""
        return not self.fault and (bool(self.obstacle) or self.ratio <= 1)

    @property
    def grade(self) -> Grade:
        """The strength of the evidence about this part."""
        if self.obstacle or (self.vague and not self.is_near):
            return Grade.UNCHECKED
        return Grade.TESTED if self.proof is None else Grade.PROVEN

    @property
    def is_near(self) -> bool:
        """Whether B's result is as good as A's: proven, or no further off than A's own error."""
        return not self.obstacle and (self.proof is not None or self.strain <= 1)

    def summary(self) -> str:
        """Return the region in one line."""
        nodes = ", ".join(self.nodes_b) or "nothing"
        if self.fault:
            return f"'{self.tensor}', computed by {nodes} in B: {self.fault}"
        return (
            f"'{self.tensor}', computed by {nodes} in B, has an error of {self.error:.2g} on the "
            f"values that reach it in A, and rounding explains {self.bound:.2g} ({self.provider})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the region as strict JSON types."""
        return {**table(self), "grade": str(self.grade)}
