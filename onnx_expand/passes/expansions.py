"""What expand did, and what it left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_expand.cost import Inspection
from onnx_expand.errors import Refusal
from onnx_expand.passes.plans import How
from onnx_expand.passes.report import Verification

__all__ = [
    "ExpandReport",
    "Expansion",
    "Skipped",
]


@dataclass(frozen=True)
class Expansion:
    """One layer that was expanded.

    Attributes:
        node: The layer's name.
        op: Its op type.
        kernel: Extents of its kernel, empty for a matrix.
        how: How it was expanded, complete.
        result: The names of the nodes that replace it.
        widths: Channels before, between and after the layers of the chain, or main branch.
        parameters: Before and after.
        macs: Products before and after; None where a shape is not static.
        residual: With `preserve`, the relative norm of what the new layers miss of the weight.
        condition: With `preserve`, how many times faster the unit learns in one direction than in
            another, compared with a single layer; infinite if some cannot be learned.
        is_exact: Whether the new layers compute what the layer did, up to rounding.
    """

    node: str
    op: str
    kernel: tuple[int, ...]
    how: How
    result: tuple[str, ...]
    widths: tuple[int, ...]
    parameters: tuple[int, int] = (0, 0)
    macs: tuple[int | None, int | None] = (None, None)
    residual: float | None = None
    condition: float | None = None
    is_exact: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The expansion as plain JSON types; an infinite number is the text `inf`."""
        known = {k: v for k, v in vars(self.how).items() if v is not None}
        endless = self.condition is not None and not np.isfinite(self.condition)
        return {
            "node": self.node,
            "op": self.op,
            "kernel": list(self.kernel),
            "how": known,
            "result": list(self.result),
            "widths": list(self.widths),
            "parameters": list(self.parameters),
            "macs": list(self.macs),
            "residual": self.residual,
            "condition": "inf" if endless else self.condition,
            "exact": self.is_exact,
        }


@dataclass(frozen=True)
class Skipped:
    """One layer that was left as it is, and why."""

    node: str
    refusal: Refusal


@dataclass(frozen=True)
class ExpandReport:
    """What expand did, and what the model costs before and after.

    Attributes:
        expanded: What was replaced.
        skipped: What was not, each with its reason.
        before: The model as it came.
        after: The expanded model; for the initial values `contracted`, before it was contracted.
        init: How the new layers start.
        verification: Whether the model computes the same; the pass itself runs no model.
    """

    expanded: tuple[Expansion, ...]
    skipped: tuple[Skipped, ...]
    before: Inspection
    after: Inspection
    init: str = "random"
    verification: Verification = field(default_factory=Verification)

    @property
    def residual(self) -> float:
        """The largest relative norm of what the new layers miss of a weight."""
        return max((e.residual or 0.0 for e in self.expanded), default=0.0)

    @property
    def is_exact(self) -> bool:
        """Whether the expanded model claims to compute what the model did."""
        return self.init == "preserve" and all(e.is_exact for e in self.expanded)

    @property
    def plan(self) -> dict[str, How]:
        """How each layer was expanded, by name: expand does the same again with this plan."""
        return {e.node: e.how for e in self.expanded}

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return {
            "schema": 1,
            "init": self.init,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "verification": self.verification.as_dict(),
            "expanded": [e.as_dict() for e in self.expanded],
            "skipped": [{"node": s.node, **s.refusal.as_dict()} for s in self.skipped],
        }
