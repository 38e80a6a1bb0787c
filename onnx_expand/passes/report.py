"""The report of a fold: the merged nodes, the kept nodes with their reasons, and the costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnx_expand.cost import Cost, Inspection
from onnx_expand.documents import table
from onnx_expand.errors import Refusal
from onnx_expand.graph.editing import label
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.bridges import Border
from onnx_expand.linear.writing.copies import Copy
from onnx_expand.passes.clean.outcome import Cleaned

__all__ = ["FoldReport", "Kept", "Measured", "Site", "Verification"]


@dataclass(frozen=True)
class Site:
    """Nodes that were merged.

    Attributes:
        nodes: The labels of the replaced nodes.
        result: The labels of the new nodes.
        before: The cost of the replaced nodes.
        after: The cost of the new nodes.
        border: How a padded border was bridged; `exact` if none had to be.
        ops: The op types of the replaced nodes.
        result_ops: The op types of the new nodes.
    """

    nodes: tuple[str, ...]
    result: tuple[str, ...]
    before: Cost
    after: Cost
    border: Border = Border.EXACT
    ops: tuple[str, ...] = ()
    result_ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """Nodes that were not merged, the reason, and the tensor between them if there is one."""

    nodes: tuple[str, ...]
    refusal: Refusal
    value: str = ""

    @classmethod
    def of(cls, nodes: Sequence[ir.Node], refusal: Refusal, value: str = "") -> Kept:
        """Name the nodes by their labels."""
        return cls(tuple(map(label, nodes)), refusal, value)


@dataclass(frozen=True)
class Measured:
    """The time of a folded model relative to another, measured in turns.

    Attributes:
        ratio: The estimate.
        low: The lower end of its 95 % interval, which holds at any time that one stops at.
        high: The upper end.
        blocks: The number of blocks of new sessions.
        conditions: The extents of the inputs and the provider.
        is_clear: Whether more blocks would not change the decision.
    """

    ratio: float
    low: float
    high: float
    blocks: int
    conditions: str
    is_clear: bool

    @property
    def numbers(self) -> dict[str, float]:
        """The figures, for programs."""
        return {"ratio": self.ratio, "low": self.low, "high": self.high, "blocks": self.blocks}

    @property
    def text(self) -> str:
        """The figures in one line."""
        doubt = "" if self.is_clear else "; the time did not suffice to be sure"
        return (
            f"{self.ratio:.3f} of the time ({self.low:.3f} to {self.high:.3f} with 95 % "
            f"confidence, {self.blocks} blocks of new sessions, measured at {self.conditions}"
            f"{doubt})"
        )


@dataclass(frozen=True)
class Verification:
    """The outcome of comparing a pass's result with its input.

    Attributes:
        verdict: The `onnx_expand.equivalence.Verdict`; None if the two were not compared.
        text: The verdict in one line, or why there is none.
    """

    verdict: Any = None
    text: str = "not checked: not requested"

    @property
    def equal(self) -> bool | None:
        """Whether both compute the same; None if unknown."""
        return None if self.verdict is None else bool(self.verdict)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON types."""
        return {"checked": self.verdict is not None, "equal": self.equal, "text": self.text}


@dataclass(frozen=True)
class FoldReport:
    """The result of fold, with the costs of the model before and after.

    Attributes:
        policy: The policy that was applied; never `auto`.
        sites: The merged nodes.
        kept: The nodes that were not merged, each with its reason.
        before: The model before folding, if it was inspected.
        after: The folded model, if it was inspected.
        copies: Weights that are now stored in two versions, and by how much the model grew.
        cleaned: The changes of cleaning.
        measured: The time of the folded model, by the policy `latency`.
        verification: Whether both models compute the same; the pass itself runs no model.
    """

    policy: Policy
    sites: tuple[Site, ...]
    kept: tuple[Kept, ...]
    before: Inspection | None
    after: Inspection | None
    copies: tuple[Copy, ...] = ()
    cleaned: Cleaned = field(default_factory=Cleaned)
    measured: Measured | None = None
    verification: Verification = field(default_factory=Verification)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        own = table(self)
        kept = [
            {"nodes": list(k.nodes), "value": k.value, **k.refusal.as_dict()} for k in self.kept
        ]
        return {"schema": 1, "folded": own.pop("sites"), **own, "kept": kept}
