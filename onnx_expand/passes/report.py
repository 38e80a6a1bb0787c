"""What a fold reports: what was merged, what was not and why, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnx_expand.cost import Cost, Inspection
from onnx_expand.errors import Refusal
from onnx_expand.graph.editing import label
from onnx_expand.linear.bridges import Border
from onnx_expand.linear.copies import Copy
from onnx_expand.linear.policy import Policy
from onnx_expand.passes.clean.outcome import Cleaned

__all__ = ["Break", "FoldReport", "Kept", "Site", "Verification", "kept_of"]


@dataclass(frozen=True)
class Site:
    """Nodes that were merged.

    Attributes:
        nodes: What was there.
        result: What is there now.
        before: The cost of what was there.
        after: The cost of what is there now.
        border: How a padded border was bridged, `exact` where nothing had to be.
        ops: The op types of what was there.
        result_ops: The op types of what is there now.
    """

    nodes: tuple[str, ...]
    result: tuple[str, ...]
    before: Cost
    after: Cost
    border: Border = Border.EXACT
    ops: tuple[str, ...] = ()
    result_ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Break:
    """Why nodes are not one, or why a node of a linear op is no map.

    Attributes:
        nodes: The nodes concerned.
        refusal: The reason.
        value: The name of the tensor between them, where there is one.
    """

    nodes: tuple[ir.Node, ...]
    refusal: Refusal
    value: str = ""


@dataclass(frozen=True)
class Kept:
    """Nodes that were not merged, the tensor between them if there is one, and why."""

    nodes: tuple[str, ...]
    refusal: Refusal
    value: str = ""


@dataclass(frozen=True)
class Verification:
    """Whether a pass's result was compared with what the pass was given.

    Attributes:
        verdict: The `onnx_expand.equivalence.Verdict`; None where the two were not compared.
        text: The verdict in one line, or why there is none.
    """

    verdict: Any = None
    text: str = "not checked: this was not asked for"

    @property
    def equal(self) -> bool | None:
        """Whether both compute the same; None where that is not known."""
        return None if self.verdict is None else bool(self.verdict)

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON types."""
        return {"checked": self.verdict is not None, "equal": self.equal, "text": self.text}


@dataclass(frozen=True)
class FoldReport:
    """What fold did, what it left alone, and what the model cost before and after.

    Attributes:
        policy: The policy that decided; never `auto`.
        sites: What was merged.
        kept: What was not, each with its reason.
        before: The model as it came, where it was measured.
        after: The model as it is.
        copies: Weights that are stored in two versions since, and by how much the model grew.
        cleaned: What was cleaned besides.
        verification: Whether it computes the same; the pass itself runs no model.
    """

    policy: Policy
    sites: tuple[Site, ...]
    kept: tuple[Kept, ...]
    before: Inspection | None
    after: Inspection | None
    copies: tuple[Copy, ...] = ()
    cleaned: Cleaned = field(default_factory=Cleaned)
    verification: Verification = field(default_factory=Verification)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return {
            "schema": 1,
            "policy": str(self.policy),
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
            "verification": self.verification.as_dict(),
            "folded": [
                {
                    "nodes": list(site.nodes),
                    "result": list(site.result),
                    "ops": list(site.ops),
                    "result_ops": list(site.result_ops),
                    "before": vars(site.before),
                    "after": vars(site.after),
                    "border": str(site.border),
                }
                for site in self.sites
            ],
            "copies": [copy.as_dict() for copy in self.copies],
            "cleaned": self.cleaned.as_dict(),
            "kept": [
                {"nodes": list(k.nodes), "value": k.value, **k.refusal.as_dict()}
                for k in self.kept
            ],
        }


def kept_of(found: Break) -> Kept:
    """A break as the report has it."""
    return Kept(tuple(map(label, found.nodes)), found.refusal, found.value)
