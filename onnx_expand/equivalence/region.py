"""A part in which two models differ, and how much is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from onnx_expand.equivalence.compare import number
from onnx_expand.equivalence.proofs import Proof

__all__ = [
    "Grade",
    "Region",
]


class Grade(StrEnum):
    """How much is known of a part in which two models differ."""

    PROVEN = "proven"
    """Affine in both, with the same weights up to a stated deviation, and within its bound."""
    TESTED = "tested"
    """Within its forward error bound, on the values that reach it in A."""
    UNCHECKED = "unchecked"
    """Seen through the outputs of the models only."""


@dataclass(frozen=True)
class Region:
    """A part in which two models differ.

    Attributes:
        tensor: What it computes.
        nodes_a: The nodes of A.
        nodes_b: The nodes of B in their place.
        provider: Where B's ran.
        error: The largest distance of B's result from A's in float64, both given the same values.
        bound: What rounding can amount to, where the error is largest by it.
        ratio: The error over the bound; above 1 no rounding explains it.
        obstacle: Why there is no bound, empty if there is one.
        proof: What probes of this part alone prove, if anything.
        fault: What probes of this part alone found to differ, empty if nothing.
        reason: Why nothing is proven, empty if something is.
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

    @property
    def holds(self) -> bool:
        """Whether rounding explains the error, as far as is known."""
        return not self.fault and (bool(self.obstacle) or self.ratio <= 1)

    @property
    def grade(self) -> Grade:
        """What is known of this part."""
        if self.obstacle:
            return Grade.UNCHECKED
        return Grade.TESTED if self.proof is None else Grade.PROVEN

    def summary(self) -> str:
        """The region in one line."""
        nodes = ", ".join(self.nodes_b) or "nothing"
        if self.fault:
            return f"'{self.tensor}', computed by {nodes} in B: {self.fault}"
        return (
            f"'{self.tensor}', computed by {nodes} in B, is {self.error:.2g} off for what reaches "
            f"it in A, where rounding is {self.bound:.2g} at most ({self.provider})"
        )

    def as_dict(self) -> dict[str, Any]:
        """This region as strict JSON types."""
        return {
            "tensor": self.tensor,
            "nodes_a": list(self.nodes_a),
            "nodes_b": list(self.nodes_b),
            "provider": self.provider,
            "error": number(self.error),
            "bound": number(self.bound),
            "ratio": number(self.ratio),
            "obstacle": self.obstacle,
            "grade": str(self.grade),
            "proof": None if self.proof is None else self.proof.as_dict(),
            "fault": self.fault,
            "reason": self.reason,
        }
