"""The demo: SmallNet with 7x7 kernels on distorted handwritten digits, compact and expanded.

Both are trained from the same seeds with the same settings, which were chosen on training digits
alone; then the expanded network is folded and compared.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import onnx_expand
from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.loading import load_data
from onnx_expand.experiment.demo.figures import KINDS, comparison, drift, figures, outputs
from onnx_expand.experiment.gallery import Gallery
from onnx_expand.experiment.paper import Job, in_pool, in_process
from onnx_expand.model import make_folder, replacing
from onnx_expand.passes import Expand
from onnx_expand.recipes import TrainOptions

__all__ = ["Demo", "DemoResult"]

DATA = "onnx_expand.experiment.distorted:distorted_digits"
SIZE = 16
# The number of images for the comparison of the folded and the expanded model in float64.
EXACT = 200


@dataclass(frozen=True)
class DemoResult:
    """The result of a demo.

    Attributes:
        report: All figures, as plain JSON types; also in report.json.
        gallery: Some test images with the predictions of the first seed's folded model.
    """

    report: Mapping[str, Any]
    gallery: Gallery | None


@dataclass(frozen=True)
class _Seed:
    """The result of one seed.

    Attributes:
        seed: The seed.
        results: Scores, losses and curves of the compact and of the expanded network.
        accuracy: The test accuracy of each kind in onnxruntime.
        changed: The number of test images that the folded and the expanded model classify
            differently.
    """

    seed: int
    results: Mapping[str, Mapping[str, Any]]
    accuracy: Mapping[str, float]
    changed: int


@dataclass(frozen=True)
class Demo:
    """The settings of a demo.

    Attributes:
        epochs: The length of each run.
        seeds: The number of pairs of runs.
        strategy: The strategy, as for `expand`.
        rate: The expansion rate.
        lr: The learning rate of both networks.
        images: The number of training images; all by default.

    Raises:
        UsageError: An option is invalid.
    """

    epochs: int = 20
    seeds: int = 8
    strategy: str = "ck"
    rate: float = 4.0
    lr: float = 0.02
    images: int | None = None

    def __post_init__(self) -> None:
        # Invalid options fail here, not in each of the parallel runs.
        Expand(strategy=self.strategy, rate=self.rate)
        TrainOptions(epochs=self.epochs, lr=self.lr)

    def run(
        self, out: Path, processes: int = 1, done: Callable[[str, int, int], None] | None = None
    ) -> DemoResult:
        """Train, fold and compare; write models, curves.png and report.json to a folder.

        Args:
            out: The folder. Finished runs in it are not repeated.
            processes: The number of parallel runs.
            done: Called after each run with its description, and how many of how many are done.

        Raises:
            UsageError: The folder cannot be created.
            UnsupportedError: A run diverged.
        """
        begun = time.perf_counter()
        make_folder(out)
        jobs = self._jobs()
        results = _train(jobs, out / "runs", processes, done)
        data = load_data(DATA, channels=3, size=(SIZE, SIZE), classes=10)
        pairs = zip(results[::2], results[1::2], strict=True)
        found = [
            _seed(out / "runs", seed, {"compact": compact, "expanded": expanded}, data)
            for seed, (compact, expanded) in enumerate(pairs)
        ]
        for kind in KINDS:
            shutil.copyfile(_file(out / "runs", found[0], kind), out / f"{kind}.onnx")
        report = _report(out, found, results[0]["data"], asdict(self), data.x_test)
        report["seconds"] = time.perf_counter() - begun
        _plot(out / "curves.png", found)
        with replacing(out / "report.json") as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return DemoResult(report, Gallery.of(data, onnx_expand.model.load(out / "folded.onnx")))

    def _jobs(self) -> list[Job]:
        """Return the compact and the expanded run of each seed, in turns."""
        train = {"epochs": self.epochs, "lr": self.lr, "batch": 64, "schedule": "cosine"}
        return [
            Job("smallnet", {"size": SIZE}, expand, DATA, {}, train, seed, images=self.images)
            for seed in range(self.seeds)
            for expand in (None, {"strategy": self.strategy, "rate": self.rate})
        ]


def _report(
    out: Path, found: Sequence[_Seed], data: str, options: Mapping[str, Any], x: Any
) -> dict[str, Any]:
    """Return all figures as plain JSON types."""
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


def _train(
    jobs: Sequence[Job],
    place: Path,
    processes: int,
    done: Callable[[str, int, int], None] | None,
) -> list[Any]:
    """Return the results of all runs, in their order."""
    results: list[Any] = [None] * len(jobs)
    run = in_pool(processes) if processes > 1 else in_process
    for count, (number, result) in enumerate(run(jobs, place), 1):
        job = jobs[number]
        score = "diverged" if result["score"] is None else f"test {result['score']:.2%}"
        if done is not None:
            what = "expanded" if job.expand else "compact"
            done(f"seed {job.seed}, {what}: {score}", count, len(jobs))
        results[number] = result
    for job, result in zip(jobs, results, strict=True):
        if result["score"] is None:
            raise UnsupportedError(f"seed {job.seed}: {result['diverged']}")
    return results


def _seed(
    place: Path, seed: int, results: Mapping[str, Mapping[str, Any]], data: Dataset
) -> _Seed:
    """Run the three models of a seed in onnxruntime."""
    x, y = data.x_test, data.y_test
    found = _Seed(seed, results, {}, 0)
    classes = {kind: outputs(_file(place, found, kind), x).argmax(axis=1) for kind in KINDS}
    accuracy = {kind: float(np.mean(predicted == y)) for kind, predicted in classes.items()}
    changed = int(np.sum(classes["folded"] != classes["expanded"]))
    return _Seed(seed, results, accuracy, changed)


def _file(place: Path, seed: _Seed, kind: str) -> Path:
    """Return the file of a kind of model in the folder of the runs."""
    folder = place / str(seed.results["compact" if kind == "compact" else "expanded"]["key"])
    return folder / ("folded.onnx" if kind == "folded" else "trained.onnx")


def _plot(path: Path, found: Sequence[_Seed]) -> None:
    """Plot accuracy over the epochs."""
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
