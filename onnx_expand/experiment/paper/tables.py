"""The findings of a study as Markdown and as JSON."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnx_expand.experiment.paper.job import code_version
from onnx_expand.experiment.paper.pictures import draw
from onnx_expand.experiment.paper.study import Findings, Row
from onnx_expand.model import replacing

__all__ = ["as_dict", "markdown", "write"]


def write(findings: Findings, folder: Path) -> list[Path]:
    """Write NAME.md, NAME.json, and NAME.png if matplotlib is installed.

    Returns:
        The paths of the written files.
    """
    name = findings.study.name
    texts = {"md": markdown(findings), "json": json.dumps(as_dict(findings), indent=1) + "\n"}
    written = []
    for kind, text in texts.items():
        written.append(folder / f"{name}.{kind}")
        with replacing(written[-1]) as partial:
            partial.write_text(text, encoding="utf-8")
    if draw(findings, folder / f"{name}.png"):
        written.append(folder / f"{name}.png")
    return written


def markdown(findings: Findings) -> str:
    """Return a table with a row for each arm beside the paper's figures, and the conditions."""
    study, setting = findings.study, findings.setting
    columns = list(dict.fromkeys(name for arm in study.arms for name in arm.paper))
    head = [
        "", "parameters in training", "rate", f"{_metric(findings)} %", "difference",
        "95 % interval", "training loss",
        *(name for name, values in _analyses(findings.rows[0]) if values),
        *(("epoch time", "MACs") if study.timed else ()),
        *(f"paper: {name}" for name in columns),
    ]  # fmt: skip
    lines = [f"## {study.source}: {study.title}", "", _line(head), _line(["---"] * len(head))]
    for row in findings.rows:
        extra = [_spread(values) for _, values in _analyses(row) if values]
        costs = _costs(row, findings.rows[0]) if study.timed else []
        lines.append(_line([*_cells(row), *extra, *costs, *_beside(row, columns)]))
    train = ", ".join(f"{name} {value}" for name, value in setting.train.items())
    first = findings.rows[0].results[0]
    ran = first.get("data", setting.data)
    rates = ", ".join(f"{lr:g}" for lr in setting.rates)
    chosen = (
        f"Each arm has its best rate of {rates}, tried once without the last fifth of the "
        "training data, on that fifth."
        if len(setting.rates) > 1
        else "All arms have the same rate."
    )
    lines += [
        "",
        f"{study.network}, {ran}; {train}; seeds {_numbers(findings.seeds)}. {chosen} Scores are "
        "the last epoch's, mean ± standard deviation; differences are paired by seed, with "
        f"Student's t. {os.cpu_count()} CPU cores ({first.get('machine', '')}), torch "
        f"{first.get('torch', '')}, code {code_version()}, {_minutes(findings.rows)} of training.",
        "",
    ]
    return "\n".join(lines)


def _metric(findings: Findings) -> str:
    """Return the name of the score."""
    results = (result for row in findings.rows for result in row.results)
    return next((str(r["metric"]) for r in results if "metric" in r), "score")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    parameters = f"{row.results[0]['trained']['parameters']:,}"
    difference, interval = "", ""
    if row.comparison is not None:
        difference = f"{100 * statistics.mean(row.comparison.differences):+.2f}"
        if row.comparison.interval is not None:
            interval = " to ".join(f"{100 * value:+.2f}" for value in row.comparison.interval)
    losses = [r["loss"] for r in row.results if r["loss"] is not None]
    loss = f"{statistics.mean(losses):.4f}" if losses else ""
    score = _spread([100 * s for s in row.scores])
    diverged = len(row.results) - len(row.scores)
    score += f" ({diverged} diverged)" if diverged else ""
    return [row.arm.name, parameters, f"{row.lr:g}", score, difference, interval, loss]


def _analyses(row: Row) -> list[tuple[str, list[float]]]:
    """Return the additional measurements of each seed."""
    finished = [result for result in row.results if result["score"] is not None]
    similar = [r["similarities"] for r in finished if r.get("similarities")]
    around = [r["landscape"] for r in finished if r.get("landscape")]
    return [
        ("least gradient similarity", [min(epochs[-1]) for epochs in similar]),
        ("its mean over epochs", [statistics.mean(map(min, epochs)) for epochs in similar]),
        ("loss half a filter away", [_half_way(loss) for loss in around]),
    ]


def _half_way(loss: Sequence[Sequence[float]]) -> float:
    """Return the mean loss at half the filter norm along both axes in both directions."""
    middle, near = len(loss) // 2, max(1, len(loss) // 4)
    ends = (middle - near, middle + near)
    return statistics.mean(
        [*(loss[end][middle] for end in ends), *(loss[middle][end] for end in ends)]
    )


def _costs(row: Row, first: Row) -> list[str]:
    """Return the time of an epoch relative to the first arm's, and the products of a pass."""
    times = [
        [r["seconds"] / len(r["curve"]) for r in part if r["score"] is not None]
        for part in (row.results, first.results)
    ]
    ratio = (
        f"{statistics.median(times[0]) / statistics.median(times[1]):.2f}" if all(times) else ""
    )
    macs = row.results[0]["trained"]["macs"]
    return [ratio, "" if macs is None else f"{macs / 1e6:.2f} M"]


def _beside(row: Row, columns: Sequence[str]) -> list[str]:
    figures = [row.arm.paper.get(name) for name in columns]
    return ["" if f is None else f"{f:,.0f}" if f >= 1000 else f"{f:.2f}" for f in figures]


def _spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation, if there are values."""
    if not values:
        return "none"
    text = f"{statistics.mean(values):.2f}"
    return f"{text} ± {statistics.stdev(values):.2f}" if len(values) > 1 else text


def _numbers(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 2 and list(seeds) == [*range(seeds[0], seeds[-1] + 1)]
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def _minutes(rows: Sequence[Row]) -> str:
    minutes = sum(r["seconds"] for row in rows for r in row.results) / 60
    return f"{math.ceil(minutes)} minutes"


def as_dict(findings: Findings) -> dict[str, Any]:
    """Return the findings as plain JSON types."""
    return {
        "study": asdict(findings.study),
        "setting": asdict(findings.setting),
        "seeds": list(findings.seeds),
        "code": code_version(),
        "rows": [
            {
                "arm": row.arm.name,
                "lr": row.lr,
                "held_out": {f"{lr:g}": score for lr, score in row.tried.items()},
                "comparison": None if row.comparison is None else row.comparison.as_dict(),
                "results": [dict(result) for result in row.results],
            }
            for row in findings.rows
        ],
    }
