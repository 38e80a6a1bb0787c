"""Whether what is trained folds to a model that computes the same."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.equivalence import Verdict, check
from onnx_expand.errors import DifferentError, Reason, UnsupportedError
from onnx_expand.passes import Fold, FoldReport

__all__ = ["Folded", "fold_and_check"]

_QUIET = {Reason.COST, Reason.POLICY, Reason.OUTPUT, Reason.SHARED}


@dataclass(frozen=True)
class Folded:
    """A folded model, and what is known of it.

    Attributes:
        model: The folded model.
        report: What fold did.
        verdict: Whether it computes the same; None where that could not be found out.
        note: Why it could not.
    """

    model: ir.Model
    report: FoldReport
    verdict: Verdict | None
    note: str = ""

    def summary(self) -> str:
        """One line for people."""
        kept = [k for k in self.report.kept if k.refusal.reason not in _QUIET]
        text = f"{len(self.report.sites)} sites fold"
        if kept:
            text += f", {len(kept)} do not ({kept[0].nodes[0]}: {kept[0].refusal.reason})"
        return f"{text}; {self.verdict.summary() if self.verdict is not None else self.note}"


def fold_and_check(model: ir.Model, label: str) -> Folded:
    """Fold a copy of a model and compare it with the model.

    Args:
        model: The model; it is not changed.
        label: How an error names it.

    Raises:
        DifferentError: The folded model does not compute the same.
    """
    folded = model.clone()
    report = Fold().call(folded).report
    if not report.sites:
        return Folded(folded, report, None, "nothing folds")
    if importlib.util.find_spec("onnxruntime") is None:
        return Folded(folded, report, None, "not checked: onnxruntime is not installed")
    try:
        verdict = check(model, folded, samples=1)
    except UnsupportedError as error:
        return Folded(folded, report, None, f"not checked: {error}")
    if not verdict.equal:
        raise DifferentError(f"{label}: the folded model differs: {verdict.summary()}")
    return Folded(folded, report, verdict)
