"""The whole loop on real data: expand a compact network, train both, fold, and prove it.

Run as `python -m examples.digits --out demo`. It trains SmallNet with 7x7 kernels on distorted
handwritten digits, compact and expanded, from the same seeds and with the same settings, which
were chosen on training digits alone.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import onnx_expand
from examples.figures import KINDS, comparison, drift, figures, outputs, sentences, table
from examples.page import write_page
from onnx_expand.cli.render import print_table
from onnx_expand.errors import OnnxExpandError, UnsupportedError
from onnx_expand.model import replacing

DATA = "onnx_expand.experiment.distorted:distorted_digits"
SIZE = 16
# How many images the folded and the expanded model are compared on in float64.
EXACT = 200


@dataclass(frozen=True)
class Seed:
    """What one seed gave.

    Attributes:
        seed: The seed.
        results: Of the compact and of the expanded network: scores, losses, curves.
        accuracy: Test accuracy of each kind in onnxruntime.
        changed: How many test images the folded model classifies otherwise than the expanded one.
    """

    seed: int
    results: Mapping[str, Mapping[str, Any]]
    accuracy: Mapping[str, float]
    changed: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    try:
        result = command.main(arguments, prog_name="digits", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo("error: interrupted; the same command goes on", err=True)
        return 130
    except OnnxExpandError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    return int(result or 0)


@click.command()
@click.option("--out", type=Path, default=Path("demo"), show_default=True, help="Output folder.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seeds", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--strategy", default="ck", show_default=True, help="As for `expand`.")
@click.option("--rate", type=float, default=4.0, show_default=True, help="Expansion rate.")
@click.option("--lr", type=float, default=0.02, show_default=True, help="Learning rate of both.")
@click.option("--images", type=click.IntRange(min=20), help="Train on so many.  [default: all]")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one for each core",
    help="Runs side by side.",
)
def command(out: Path, seeds: int, processes: int, **said: Any) -> int:
    """Expand, train, fold and check SmallNet on distorted handwritten digits."""
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    jobs = _jobs(seeds, **said)
    console.print(f"{len(jobs)} runs, {processes} side by side; {said['epochs']} epochs each")
    results = _train(jobs, out / "runs", processes, console)
    console.print(f"data: {results[0]['data']}", markup=False)
    test = _test_images()
    pairs = zip(results[::2], results[1::2], strict=True)
    found = [
        _seed(out / "runs", seed, {"compact": compact, "expanded": expanded}, test)
        for seed, (compact, expanded) in enumerate(pairs)
    ]
    for kind in KINDS:
        shutil.copyfile(_file(out / "runs", found[0], kind), out / f"{kind}.onnx")
    report = _report(out, found, results[0]["data"], {"seeds": seeds, **said}, test[0])
    report["seconds"] = time.perf_counter() - begun
    _tell(console, report)
    curves = _plot(out / "curves.png", found)
    write_page(out / "index.html", report, curves, test)
    with replacing(out / "report.json") as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"wrote {', '.join(sorted(p.name for p in out.iterdir()))} to {out}")
    return 0 if report["equal"] else 1


def _report(
    out: Path, found: Sequence[Seed], data: str, options: Mapping[str, Any], x: Any
) -> dict[str, Any]:
    """All figures, as plain JSON types."""
    verdict = onnx_expand.check(out / "expanded.onnx", out / "folded.onnx")
    scores = [[seed.accuracy[kind] for seed in found] for kind in ("folded", "compact")]
    losses = [[seed.results[kind]["loss"] for seed in found] for kind in ("expanded", "compact")]
    runs = [
        {"seed": s.seed, "accuracy": dict(s.accuracy), "changed": s.changed, **s.results}
        for s in found
    ]
    return {
        "options": dict(options),
        "data": data,
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "models": figures(out, x),
        "comparison": comparison(scores[0], scores[1], 100.0),
        "training_loss": comparison(losses[0], losses[1], 1.0),
        "equal": bool(verdict),
        "check": verdict.as_dict(),
        "check_summary": verdict.summary(),
        "from_float64": drift(out, x[:EXACT]),
        "runs": runs,
    }


def _jobs(
    seeds: int, *, epochs: int, lr: float, strategy: str, rate: float, images: int | None
) -> list[Any]:
    """The compact and the expanded run of each seed, in turns."""
    from onnx_expand.experiment.paper import Job

    train = {"epochs": epochs, "lr": lr, "batch": 64, "schedule": "cosine"}
    return [
        Job("smallnet", {"size": SIZE}, expand, DATA, {}, train, seed, images=images)
        for seed in range(seeds)
        for expand in (None, {"strategy": strategy, "rate": rate})
    ]


def _train(jobs: Sequence[Any], place: Path, processes: int, console: Console) -> list[Any]:
    """The results of all runs, in their order."""
    from onnx_expand.experiment.paper import in_pool, in_process

    results: list[Any] = [None] * len(jobs)
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=len(jobs), last="")
        run = in_pool(processes) if processes > 1 else in_process
        for number, result in run(jobs, place):
            job = jobs[number]
            score = "diverged" if result["score"] is None else f"test {result['score']:.2%}"
            last = f"seed {job.seed}, {'expanded' if job.expand else 'compact'}: {score}"
            bar.update(task, advance=1, last=last)
            if not console.is_terminal:
                console.print(last, markup=False)
            results[number] = result
    for job, result in zip(jobs, results, strict=True):
        if result["score"] is None:
            raise UnsupportedError(f"seed {job.seed}: {result['diverged']}")
    return results


def _test_images() -> tuple[Any, Any]:
    """The test images as the networks take them, and their labels."""
    from onnx_expand.experiment import load_data

    data = load_data(DATA, channels=3, size=(SIZE, SIZE), classes=10)
    return data.x_test, data.y_test


def _seed(
    place: Path, seed: int, results: Mapping[str, Mapping[str, Any]], test: tuple[Any, Any]
) -> Seed:
    """Run the three models of a seed in onnxruntime."""
    x, y = test
    found = Seed(seed, results, {}, 0)
    classes = {kind: outputs(_file(place, found, kind), x).argmax(axis=1) for kind in KINDS}
    accuracy = {kind: float(np.mean(predicted == y)) for kind, predicted in classes.items()}
    changed = int(np.sum(classes["folded"] != classes["expanded"]))
    return Seed(seed, results, accuracy, changed)


def _file(place: Path, seed: Seed, kind: str) -> Path:
    """The model of a kind among the files of the runs."""
    folder = place / str(seed.results["compact" if kind == "compact" else "expanded"]["key"])
    return folder / ("folded.onnx" if kind == "folded" else "trained.onnx")


def _tell(console: Console, report: Mapping[str, Any]) -> None:
    print_table(console, *table(report))
    for line in sentences(report):
        console.print(line, markup=False)
    console.print(f"in {report['seconds']:.0f} seconds")


def _plot(path: Path, found: Sequence[Seed]) -> bytes:
    """Draw accuracy over the epochs; the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for kind, color in (("compact", "#3b6ea5"), ("expanded", "#b5672c")):
        curves = 100 * np.array([[e[2] for e in s.results[kind]["curve"]] for s in found])
        epochs = np.arange(1, curves.shape[1] + 1)
        axes.plot(epochs, curves.mean(axis=0), color=color, label=f"{kind} (mean)")
        axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2)
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="SmallNet 7x7 on distorted digits")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    plt.close(figure)
    return path.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
