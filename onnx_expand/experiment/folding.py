"""Check whether a trained model folds to one that computes the same."""

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
    """A folded model, with its report.

    Attributes:
        model: The folded model.
        report: The report of fold, with the result of the check.
    """

    model: ir.Model
    report: FoldReport

    @property
    def verdict(self) -> Verdict | None:
        """The check's verdict; None if there is none."""
        found: Verdict | None = self.report.verification.verdict
        return found

    def summary(self) -> str:
        """Return a summary in one line."""
        kept = [k for k in self.report.kept if k.refusal.reason not in _QUIET]
        text = f"{len(self.report.sites)} sites fold"
        if kept:
            text += f", {len(kept)} kept ({kept[0].nodes[0]}: {kept[0].refusal.reason})"
        if not self.report.sites:
            return f"{text}; nothing folds"
        return f"{text}; {self.report.verification.text.removeprefix('checked: ')}"


def fold_and_check(model: ir.Model, label: str) -> Folded:
    """Fold a copy of a model and compare it with the model.

    Raises:
        DifferentError: The folded model does not compute the same, or does not run although the
            model does.
    """
    folded = model.clone()
    result = Fold().call(folded)
    if not result.modified:
        return Folded(folded, result.report)
    found = require_equal(verify(model, folded), f"{label}: the folded model differs")
    return Folded(folded, replace(result.report, verification=found))
