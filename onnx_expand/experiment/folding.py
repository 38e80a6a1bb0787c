"""Whether what is trained folds to a model that computes the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_expand.equivalence import Verdict
from onnx_expand.errors import Reason
from onnx_expand.passes import Fold, FoldReport
from onnx_expand.workflow.verification import require_equal, verify

__all__ = ["Folded", "fold_and_check"]

_QUIET = {Reason.COST, Reason.POLICY, Reason.OUTPUT, Reason.SHARED, Reason.BRANCHES}


@dataclass(frozen=True)
class Folded:
    """A folded model, and what is known of it.

    Attributes:
        model: The folded model.
        report: What fold did, and whether the model computes the same.
    """

    model: ir.Model
    report: FoldReport

    @property
    def verdict(self) -> Verdict | None:
        """Whether the model computes the same; None where that could not be found out."""
        found: Verdict | None = self.report.verification.verdict
        return found

    def summary(self) -> str:
        """One line for people."""
        kept = [k for k in self.report.kept if k.refusal.reason not in _QUIET]
        text = f"{len(self.report.sites)} sites fold"
        if kept:
            text += f", {len(kept)} do not ({kept[0].nodes[0]}: {kept[0].refusal.reason})"
        if not self.report.sites:
            return f"{text}; nothing folds"
        return f"{text}; {self.report.verification.text.removeprefix('checked: ')}"


def fold_and_check(model: ir.Model, label: str) -> Folded:
    """Fold a copy of a model and compare it with the model.

    Args:
        model: The model; it is not changed.
        label: How an error names it.

    Raises:
        DifferentError: The folded model does not compute the same, or does not run where the
            model does.
    """
    folded = model.clone()
    result = Fold().call(folded)
    if not result.modified:
        return Folded(folded, result.report)
    found = require_equal(verify(model, folded), f"{label}: the folded model differs")
    return Folded(folded, replace(result.report, verification=found))
