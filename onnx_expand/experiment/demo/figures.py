"""Measure the models of the demo, and present the results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import onnx_expand
from onnx_expand.model import load
from onnx_expand.runtimes import OnnxRuntime, Reference, latency

__all__ = ["KINDS", "comparison", "drift", "figures", "outputs", "sentences", "table"]

KINDS = ("compact", "expanded", "folded")
"""The models of the demo."""


def outputs(path: Path, x: Any, *, reference: bool = False) -> Any:
    """Return the outputs of a model for images, in onnxruntime or in float64."""
    runtime = Reference() if reference else OnnxRuntime()
    session = runtime.session(load(path), str(path))
    feeds = {"input": x.astype(np.float64) if reference else x}
    return next(iter(session.run(feeds).values()))


def drift(out: Path, x: Any) -> dict[str, float]:
    """Return the largest differences of outputs from the expanded model in float64."""
    exact = outputs(out / "expanded.onnx", x, reference=True)
    return {
        kind: float(np.max(np.abs(outputs(out / f"{kind}.onnx", x) - exact)))
        for kind in ("expanded", "folded")
    }


def comparison(first: Sequence[float], second: Sequence[float], scale: float) -> dict[str, Any]:
    """Compare two sets of scores, paired by seed: mean difference and 95 % interval."""
    from onnx_expand.experiment import Comparison

    metric = "accuracy" if scale != 1.0 else "training loss"
    compared = Comparison(metric, scale != 1.0, ("expanded", "compact"), first, second)
    low, high = compared.interval or (float("nan"), float("nan"))
    return {
        "mean": scale * statistics.mean(compared.differences),
        "low": scale * low,
        "high": scale * high,
        "per_seed": [scale * difference for difference in compared.differences],
        "better": compared.better,
        "summary": compared.summary(),
    }


def figures(out: Path, x: Any) -> dict[str, Any]:
    """Measure size, cost and speed of the three files."""
    models = {kind: load(out / f"{kind}.onnx") for kind in KINDS}
    runtime = OnnxRuntime(optimize=True)
    sessions = {kind: runtime.session(model, kind) for kind, model in models.items()}
    times = latency(sessions, {"input": x[:1]}, seconds=3.0)
    figures = {}
    for kind, model in models.items():
        counts = onnx_expand.inspect(model)
        figures[kind] = {
            "nodes": counts.nodes,
            "parameters": counts.parameters,
            "macs": counts.macs,
            "bytes": (out / f"{kind}.onnx").stat().st_size,
            "latency_ms": 1e3 * times[kind][0],
            "latency_ratio": times[kind][0] / times["compact"][0],
        }
    return figures


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table of the three models: header and rows."""
    rows = []
    for kind in KINDS:
        f = report["models"][kind]
        scores = [100 * run["accuracy"][kind] for run in report["runs"]]
        rows.append(
            [
                kind,
                f"{f['nodes']}",
                f"{f['parameters']:,}",
                f"{f['macs'] / 1e6:.2f} M",
                f"{f['bytes'] / 1e6:.2f} MB",
                f"{f['latency_ms']:.2f} ms ({f['latency_ratio']:.2f}x)",
                f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}",
            ]
        )
    return ["", "nodes", "parameters", "MACs", "file", "latency", "test accuracy %"], rows


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Return the results, one line each."""
    gain, loss = report["comparison"], report["training_loss"]
    per_seed = ", ".join(f"{g:+.2f}" for g in gain["per_seed"])
    told = {"expanded": "expansion wins", "compact": "expansion loses", None: "inconclusive"}
    changed = sum(run["changed"] for run in report["runs"])
    drift = report["from_float64"]
    return [
        f"expanded and folded against compact: {gain['mean']:+.2f} points, 95 % interval "
        f"{gain['low']:+.2f} to {gain['high']:+.2f}: {told[gain['better']]}",
        f"per seed: {per_seed}",
        f"training loss: {loss['mean']:+.4f}, 95 % interval {loss['low']:+.4f} to "
        f"{loss['high']:+.4f}",
        f"folding changed {changed} predictions of all seeds; check: folded "
        f"{report['check_summary']}",
        f"from float64: folded {drift['folded']:.1e}, expanded {drift['expanded']:.1e}",
    ]
