"""The lines of text that an experiment prints."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_expand.experiment.compare import Comparison
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.report import Report
from onnx_expand.experiment.training.history import History
from onnx_expand.recipes import Setup

__all__ = ["compare", "conclusion", "introduction"]

_SHOWN = 3  # images that are listed as left out


def introduction(
    model: ir.Model, data: Dataset, setup: Setup, processes: int, device: str
) -> list[str]:
    """Describe the data and the training settings."""
    lines = [f"data: {data.description}"]
    lines += [f"left out: {line}" for line in data.left_out[:_SHOWN]]
    if data.normalization.mean:
        mean, std = (
            ",".join(f"{v:.6g}" for v in values)
            for values in (data.normalization.mean, data.normalization.std)
        )
        lines.append(f"brightnesses from 0 to 1 are normalised: --mean {mean} --std {std}")
    if setup.notes:
        lines.append(f"recipe {setup.notes}")
    if processes > 1:
        lines.append(f"{processes} processes share each step ({device})")
        normalized = any(node.op_type == "BatchNormalization" for node in model.graph)
        if normalized and not setup.train.sync_bn:
            lines.append("batch normalization sees each process's part; --sync-bn joins them")
    return lines


def compare(
    names: tuple[str, str], main: Sequence[History], base: Sequence[History]
) -> tuple[Comparison, Comparison]:
    """Compare two models by their scores, and by the training losses of the kept weights."""
    scores = ([history.score for history in part] for part in (main, base))
    losses = ([h.epochs[h.kept - 1].loss for h in part] for part in (main, base))
    return (
        Comparison(main[0].metric, main[0].greater, names, *scores),
        Comparison("training loss", False, names, *losses),
    )


def conclusion(report: Report, setup: Setup) -> list[str]:
    """Describe the results."""
    history = report.history
    kept = history.epochs[history.kept - 1]
    lines = []
    if kept.unreadable:
        lines.append(f"{kept.unreadable} images could not be read, and were left out")
        lines += [f"left out: {line}" for line in history.left_out[:_SHOWN]]
    figures = ", ".join(f"{k} {_figure(k, v)}" for k, v in kept.figures.items())
    head = "" if figures.startswith("test ") else "test "
    lines.append(f"{head}{figures} after {kept.epoch} epochs, loss {kept.loss:.4f}")
    if report.comparison is not None:
        lines.append(report.comparison.summary())
        if report.losses is not None:
            lines.append(report.losses.summary())
        if setup.train.keep == "best":
            lines.append("each run counts with its best test epoch, which flatters all of them")
        if not setup.run.reinit:
            lines.append(
                "the seeds differ in the order of samples, not in the initial weights; "
                "--reinit draws these anew"
            )
    return lines


def _figure(name: str, value: float) -> str:
    return f"{value:.4g}" if "loss" in name else f"{value:.2%}"
