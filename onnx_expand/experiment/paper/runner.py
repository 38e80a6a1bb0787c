"""Execute one run: build, expand, train, fold, check and measure."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

import onnx_expand
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.loading import image_input
from onnx_expand.experiment.folding import fold_and_check
from onnx_expand.experiment.paper.analysis import GradientWatch, landscape
from onnx_expand.experiment.paper.datasets import data_of, fingerprint
from onnx_expand.experiment.paper.job import Job
from onnx_expand.experiment.paper.networks import builders
from onnx_expand.experiment.paper.store import Store
from onnx_expand.experiment.training.checkpoint import Checkpoints
from onnx_expand.experiment.training.distill import Distiller
from onnx_expand.experiment.training.history import DivergedError, Progress
from onnx_expand.experiment.training.loop import evaluate, train
from onnx_expand.model import load, read, save
from onnx_expand.passes import StripNonlinear
from onnx_expand.recipes import DistillOptions, TrainOptions
from onnx_expand.train import to_torch, write_back
from onnx_expand.train.initialize import initialize

__all__ = ["EXPANDED", "FOLDED", "key_of", "perform"]

# The files of a run: the trained model, and the model that it folds to.
EXPANDED, FOLDED = "trained.onnx", "folded.onnx"


def perform(job: Job, place: Path, progress: Progress | None = None) -> Mapping[str, Any]:
    """Return the stored result of a run, or execute the run.

    A stopped run resumes after its last epoch. The result of a diverged run has no score.

    Raises:
        ModelError: Network or data cannot be read, or do not fit.
        UsageError: A setting is invalid.
        DifferentError: The trained model folds to a model that computes something else.
    """
    compact = _compact(job)
    data = data_of(job, image_input(compact))
    store, key = Store(place), job.key(_content(job, data))
    found = store.result(key)
    if found is not None:
        return found
    model = _start(compact, job, place)
    result = {"key": key, **_figures(compact, model), **_machine()}
    try:
        teacher = _teacher(job, place)
        result.update(_trained(job, model, data, store.folder(key), progress, teacher))
    except DivergedError as error:
        result.update(score=None, loss=None, seconds=0.0, diverged=str(error))
    store.keep(key, result)
    return result


def key_of(job: Job) -> str:
    """Return the name under which the result of a run is stored."""
    return job.key(_content(job, data_of(job, image_input(_compact(job)))))


def _content(job: Job, data: Dataset) -> str:
    """Return a text that identifies the files that a run reads: the data and the network."""
    network = Path(job.network)
    if network.suffix != ".onnx":
        return fingerprint(data)
    return f"{fingerprint(data)} {hashlib.sha256(network.read_bytes()).hexdigest()}"


def _compact(job: Job) -> ir.Model:
    """Return the compact network, with new weights from the run's seed."""
    if Path(job.network).suffix == ".onnx":
        return initialize(load(job.network), job.seed)
    networks = builders()
    if job.network not in networks:
        raise UsageError(f"network '{job.network}' is none of {', '.join(networks)}")
    return read(networks[job.network].build(seed=job.seed, **job.build))


def _start(compact: ir.Model, job: Job, place: Path) -> ir.Model:
    """Return the network with which training begins."""
    if job.start is not None:
        result = perform(job.start, place)
        if result["score"] is None:
            raise UnsupportedError(f"the run to start from diverged: {result['diverged']}")
        model = load(place / result["key"] / EXPANDED)
        return StripNonlinear().call(model).model
    if job.expand is None:
        return compact
    expanded: ir.Model = onnx_expand.expand(compact, seed=job.seed, **job.expand)
    return expanded


def _teacher(job: Job, place: Path) -> Distiller | None:
    if job.teacher is None:
        return None
    result = perform(job.teacher, place)
    if result["score"] is None:
        raise UnsupportedError(f"the teacher's run diverged: {result['diverged']}")
    path = str(place / result["key"] / EXPANDED)
    return Distiller(path, DistillOptions(**{**job.distill, "teacher": path}))


def _figures(compact: ir.Model, model: ir.Model) -> dict[str, Any]:
    counts = {"compact": onnx_expand.inspect(compact), "trained": onnx_expand.inspect(model)}
    return {
        name: {"parameters": count.parameters, "macs": count.macs}
        for name, count in counts.items()
    }


def _machine() -> dict[str, Any]:
    return {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}


def _trained(
    job: Job,
    model: ir.Model,
    data: Dataset,
    folder: Path,
    progress: Progress | None,
    teacher: Distiller | None,
) -> dict[str, Any]:
    """Train and fold a model; return the figures of both."""
    options = TrainOptions(**{**job.train, "seed": job.seed})
    module = to_torch(model) if teacher is None else teacher.student(model)
    watch = progress
    if job.gradients:
        watch = GradientWatch(
            progress, module, data, job.gradients, options.batch, folder / "checkpoint.json"
        )
    checkpoints = Checkpoints(folder / "checkpoint.pt", resume=True)
    history = train(module, data, options, watch, teacher=teacher, checkpoints=checkpoints)
    trained = write_back(module, model)
    save(trained, folder / EXPANDED)
    linear = job.expand is not None and not job.expand.get("nonlinear")
    folded = fold_and_check(trained, job.network) if linear else None
    final = folded.model if folded is not None else trained
    save(final, folder / FOLDED)
    score = history.score if folded is None else evaluate(to_torch(final), data)
    last = history.epochs[history.kept - 1]
    return {
        "metric": history.metric,
        "score": score,
        "trained_score": history.score,
        "loss": last.loss,
        "train_score": last.train_score,
        "seconds": sum(epoch.seconds for epoch in history.epochs),
        "curve": [[e.loss, e.train_score, e.test_score] for e in history.epochs],
        "check": folded.verdict.summary() if folded and folded.verdict else None,
        "data": data.description,
        **_analysed(job, watch, final, data),
    }


def _analysed(job: Job, watch: Progress | None, final: ir.Model, data: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(watch, GradientWatch):
        found["similarities"] = watch.epochs()
    if job.landscape:
        module = to_torch(final)
        found["landscape"] = landscape(module, data, points=job.landscape, seed=job.seed)
    return found
