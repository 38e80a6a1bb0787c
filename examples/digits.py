"""The whole loop on real data: expand a compact network, train both, fold, and prove it.

Run as `python -m examples.digits --out demo`. It trains SmallNet with 7x7 kernels on the 1,797
handwritten digits that come with scikit-learn, compact and expanded, from the same seeds.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from rich.console import Console

import onnx_expand
from models import smallnet
from onnx_expand.cli.render import print_table
from onnx_expand.cli.train import TrainingBar
from onnx_expand.equivalence import Verdict
from onnx_expand.errors import OnnxExpandError
from onnx_expand.model import load, replacing
from onnx_expand.runtimes import OnnxRuntime, latency

KINDS = ("compact", "expanded", "folded")


@dataclass(frozen=True)
class Run:
    """What one seed gave.

    Attributes:
        accuracy: Test accuracy of each kind at the end, in onnxruntime.
        curves: Test accuracy after each epoch, of the two kinds that are trained.
        verdict: Folded against expanded.
        drift: Largest difference of the outputs on the test images, folded against expanded, and
            of the expanded model in float32 against float64.
    """

    accuracy: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]
    verdict: Verdict
    drift: tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    try:
        result = command.main(arguments, prog_name="digits", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except OnnxExpandError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    return int(result or 0)


@click.command()
@click.option("--out", type=Path, default=Path("demo"), show_default=True, help="Output folder.")
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--seeds", type=click.IntRange(min=3), default=5, show_default=True)
@click.option("--rate", type=float, default=4.0, show_default=True, help="Expansion rate.")
@click.option("--lr", type=float, default=0.02, show_default=True, help="Learning rate.")
def command(out: Path, epochs: int, seeds: int, rate: float, lr: float) -> int:
    """Expand, train, fold and check SmallNet on handwritten digits."""
    from onnx_expand.train import TrainOptions, image_input, load_data

    out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    compact = out / "compact.onnx"
    onnx.save(smallnet.build(kernel=7, stages=3, classes=10), compact)
    images = image_input(load(compact))
    data = load_data("digits", channels=3, size=images.size, classes=10)
    console.print(f"data: {data.description}", markup=False)
    runs = []
    for seed in range(seeds):
        options = TrainOptions(epochs=epochs, lr=lr, batch=64, seed=seed, schedule="step")
        runs.append(_run(out, data, options, rate, console))
    figures = _figures(out, data.x_test)
    _print(console, figures, runs)
    _plot(out / "curves.png", runs)
    report = {"options": {"epochs": epochs, "seeds": seeds, "rate": rate, "lr": lr}}
    _write_report(out / "report.json", {**report, **figures}, runs)
    console.print(f"wrote {', '.join(sorted(p.name for p in out.iterdir()))} to {out}")
    return 0 if all(run.verdict for run in runs) else 1


def _run(out: Path, data: Any, options: Any, rate: float, console: Console) -> Run:
    """Train both kinds from one seed; the files of the last seed stay."""
    from onnx_expand.train import to_torch, train, write_back

    curves: dict[str, list[float]] = {}
    compact = smallnet.build(kernel=7, stages=3, classes=10, seed=options.seed)
    expanded = onnx_expand.expand(compact, strategy="ck+fc", rate=rate, seed=options.seed)
    for kind, model in (("compact", compact), ("expanded", expanded)):
        module = to_torch(model)
        with TrainingBar(console, f"seed {options.seed}, {kind:<8}", options.epochs) as bar:
            history = train(module, data, options, bar)
        curves[kind] = [epoch.test_accuracy for epoch in history.epochs]
        onnx.save(write_back(module, model), out / f"{kind}.onnx")
    onnx_expand.fold(out / "expanded.onnx", out / "folded.onnx")
    verdict = onnx_expand.check(out / "expanded.onnx", out / "folded.onnx")
    outputs = {kind: _outputs(out / f"{kind}.onnx", data.x_test) for kind in KINDS}
    exact = _outputs(out / "expanded.onnx", data.x_test, reference=True)
    drift = (
        float(np.max(np.abs(outputs["folded"] - exact))),
        float(np.max(np.abs(outputs["expanded"] - exact))),
    )
    accuracy = {
        kind: float(np.mean(scores.argmax(axis=1) == data.y_test))
        for kind, scores in outputs.items()
    }
    return Run(accuracy, curves, verdict, drift)


def _outputs(path: Path, x: Any, *, reference: bool = False) -> Any:
    from onnx_expand.runtimes import Reference

    runtime = Reference() if reference else OnnxRuntime()
    session = runtime.session(load(path), str(path))
    feeds = {"input": x.astype(np.float64) if reference else x}
    return next(iter(session.run(feeds).values()))


def _figures(out: Path, x: Any) -> dict[str, Any]:
    """Size, cost and speed of the three files."""
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
    return {"models": figures}


def _print(console: Console, figures: Mapping[str, Any], runs: Sequence[Run]) -> None:
    rows = []
    for kind in KINDS:
        f = figures["models"][kind]
        scores = [100 * run.accuracy[kind] for run in runs]
        rows.append(
            (
                kind,
                f"{f['nodes']}",
                f"{f['parameters']:,}",
                f"{f['macs'] / 1e6:.2f} M",
                f"{f['bytes'] / 1e6:.2f} MB",
                f"{f['latency_ms']:.2f} ms ({f['latency_ratio']:.2f}x)",
                f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}",
            )
        )
    header = ("", "nodes", "parameters", "MACs", "file", "latency", "test accuracy %")
    print_table(console, header, rows)
    gains = [100 * (run.accuracy["folded"] - run.accuracy["compact"]) for run in runs]
    per_seed = ", ".join(f"{gain:+.2f}" for gain in gains)
    console.print(
        f"folded against compact: {statistics.mean(gains):+.2f} points (per seed: {per_seed})"
    )
    for seed, run in enumerate(runs):
        same = run.accuracy["folded"] == run.accuracy["expanded"]
        console.print(
            f"seed {seed}: folded {run.verdict.summary()}; on the test images {run.drift[0]:.1e} "
            f"from float64, the expanded one {run.drift[1]:.1e}; accuracy "
            f"{'unchanged' if same else 'CHANGED'}",
            markup=False,
        )


def _plot(path: Path, runs: Sequence[Run]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for kind, color in (("compact", "#3b6ea5"), ("expanded", "#b5672c")):
        curves = np.array([run.curves[kind] for run in runs]) * 100
        epochs = np.arange(1, curves.shape[1] + 1)
        axes.plot(epochs, curves.mean(axis=0), color=color, label=f"{kind} (mean)")
        axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2)
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="SmallNet 7x7 on digits")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    plt.close(figure)


def _write_report(path: Path, report: dict[str, Any], runs: Sequence[Run]) -> None:
    report["runs"] = [
        {
            "seed": seed,
            "accuracy": dict(run.accuracy),
            "curves": {kind: list(curve) for kind, curve in run.curves.items()},
            "folded_from_float64": run.drift[0],
            "expanded_from_float64": run.drift[1],
            "verdict": run.verdict.as_dict(),
        }
        for seed, run in enumerate(runs)
    ]
    with replacing(path) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
