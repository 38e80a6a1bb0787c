"""Plots of the findings of a study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.experiment.paper.study import Findings, Row
from onnx_expand.model import replacing

__all__ = ["draw"]

Results: TypeAlias = "Sequence[Mapping[str, Any]]"

_BLUE, _ORANGE = "#3b6ea5", "#b5672c"


def draw(findings: Findings, path: Path) -> bool:
    """Plot the scores and the curves; return whether matplotlib is installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = findings.rows
    finished = [[r for r in row.results if r["score"] is not None] for row in rows]
    panels = [_scores, _curves]
    if any(r.get("similarities") for row in finished for r in row):
        panels += [_similarities, _density]
    around = [(row, r) for row, some in zip(rows, finished, strict=True) for r in some[:1]]
    around = [(row, r) for row, r in around if r.get("landscape")]
    count = len(panels) + len(around)
    figure, axes = plt.subplots(
        -(-count // 2),
        2,
        figsize=(11, -(-count // 2) * (1.8 + 0.4 * max(5, len(rows)))),
        layout="constrained",
        squeeze=False,
    )
    places = list(axes.flat)
    for panel in panels:
        panel(places.pop(0), rows, finished)
    for row, result in around:
        _landscape(places.pop(0), row, result["landscape"])
    for place in places:
        place.axis("off")
    figure.suptitle(f"{findings.study.source}: {findings.study.title}")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=130, format="png")
    plt.close(figure)
    return True


def _scores(axes: Any, rows: Sequence[Row], finished: Sequence[Results]) -> None:
    """Plot the scores of each seed, and their mean."""
    for place, row in enumerate(rows):
        scores = [100 * s for s in row.scores]
        color = _BLUE if row.arm.expand is None else _ORANGE
        axes.plot(scores, [place] * len(scores), "o", color=color, alpha=0.5)
        if scores:
            axes.plot([statistics.mean(scores)], [place], "|", color=color, markersize=22)
    axes.set(yticks=range(len(rows)), yticklabels=[row.arm.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("test score, %; each seed, and the mean")
    axes.grid(alpha=0.3)


def _curves(axes: Any, rows: Sequence[Row], finished: Sequence[Results]) -> None:
    """Plot the mean test score over the epochs."""
    for row, results in zip(rows, finished, strict=True):
        curves = np.array([[100 * point[2] for point in r["curve"]] for r in results])
        _over_epochs(axes, curves, row.arm.name)
    axes.set(xlabel="epoch", ylabel="test score, %, mean")
    _legend(axes)


def _similarities(axes: Any, rows: Sequence[Row], finished: Sequence[Results]) -> None:
    """Plot the least similarity of gradients over the epochs."""
    for row, results in zip(rows, finished, strict=True):
        least = np.array([[min(pairs) for pairs in r["similarities"]] for r in results])
        _over_epochs(axes, least, row.arm.name)
    axes.set(xlabel="epoch", ylabel="least similarity of gradients, mean")
    _legend(axes)


def _over_epochs(axes: Any, curves: npt.NDArray[np.float64], name: str) -> None:
    if curves.size:
        axes.plot(np.arange(1, curves.shape[1] + 1), curves.mean(axis=0), label=name)
    axes.grid(alpha=0.3)


def _density(axes: Any, rows: Sequence[Row], finished: Sequence[Results]) -> None:
    """Plot the distribution of the similarities of the last epoch."""
    for row, results in zip(rows, finished, strict=True):
        last = np.ravel([r["similarities"][-1] for r in results])
        if last.size:
            axes.hist(last, bins=40, range=(-1, 1), density=True, histtype="step",
                      label=row.arm.name)  # fmt: skip
    axes.set(xlabel="similarity of gradients after the last epoch", ylabel="density")
    _legend(axes)


def _legend(axes: Any) -> None:
    """Add a legend, if there are any lines."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _landscape(axes: Any, row: Row, loss: Sequence[Sequence[float]]) -> None:
    """Plot contours of the loss around the first seed's weights."""
    steps = np.linspace(-1, 1, len(loss))
    heights = np.log10(np.maximum(np.array(loss), 1e-6))
    lines = axes.contour(steps, steps, heights, levels=16)
    axes.clabel(lines, fontsize=7)
    axes.set(title=f"{row.arm.name}: log10 of the training loss", aspect="equal")
