"""The data of a study: loaded once per process, then reduced and corrupted for each run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.data.augment import Augment
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.loading import ImageInput, load_data
from onnx_expand.experiment.data.samples import ArraySamples, PictureSamples, Samples
from onnx_expand.experiment.data.targets import Labels
from onnx_expand.experiment.paper.job import Job
from onnx_expand.recipes import DataOptions

__all__ = ["data_of", "fingerprint"]

_NOISE = 0x401E


def data_of(job: Job, images: ImageInput) -> Dataset:
    """Return the data of a run.

    Raises:
        ModelError: The data cannot be read, or does not fit the network.
        UnsupportedError: It must be reduced or corrupted, but is not labelled by classes.
    """
    data = _loaded(job.data, json.dumps(dict(job.options), sort_keys=True), images)
    train, test = data.train, data.test
    if job.part == "held-out":
        held = _last_fifth(_groups(train))
        test = replace(_taken(train, held), augment=Augment())
        train = _taken(train, ~held)
    if job.images is not None:
        train = _taken(train, _balanced(_groups(train), job.images))
    if job.noise:
        train = _corrupted(train, job.noise, len(data.classes), job.seed)
    described = f"{data.description}; trained on {len(train):,}, tested on {len(test):,}"
    return replace(data, train=train, test=test, description=described)


def fingerprint(data: Dataset) -> str:
    """Return a hash that identifies the data."""
    found = hashlib.sha256()
    for part in (data.train, data.test):
        found.update(part.fingerprint())
    return found.hexdigest()


@lru_cache(maxsize=2)
def _loaded(spec: str, options: str, images: ImageInput) -> Dataset:
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(options).items()
    }
    return load_data(
        spec,
        channels=images.channels,
        size=images.size,
        classes=images.classes,
        options=DataOptions(**values),
    )


def _labels(samples: Samples) -> npt.NDArray[np.int64] | None:
    """Return the class of each sample, or None if samples have no single class."""
    if isinstance(samples, ArraySamples) and samples.y.ndim == 1:
        return samples.y.astype(np.int64)
    if isinstance(samples, PictureSamples) and isinstance(samples.targets, Labels):
        return samples.targets.values
    return None


def _groups(samples: Samples) -> npt.NDArray[np.int64]:
    """Return the groups to sample evenly: classes, or one group for masks or boxes."""
    labels = _labels(samples)
    return np.zeros(len(samples), dtype=np.int64) if labels is None else labels


def _taken(samples: Samples, chosen: npt.NDArray[Any]) -> Any:
    """Select some of the samples, by index or by mask.

    Raises:
        UnsupportedError: The samples are of a user-defined kind.
    """
    picks = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    if isinstance(samples, ArraySamples):
        return replace(samples, x=samples.x[picks], y=samples.y[picks], _ready=None)
    if isinstance(samples, PictureSamples):
        pictures, targets = samples.pictures.part(picks), samples.targets.part(picks)
        return replace(samples, pictures=pictures, targets=targets)
    raise UnsupportedError(
        "a study can reduce arrays and image files, but not your own dataset; use all of it, and "
        "one rate by --lr"
    )


def _last_fifth(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Select the last fifth of each class, which keeps neighbours such as copies together."""
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        held[places[-max(1, len(places) // 5) :]] = True
    return held


def _balanced(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Select the first samples of each class, `count` in all, if there are that many."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        rank[places] = np.arange(len(places))
    order = np.lexsort((labels, rank))
    return np.sort(order[:count])


def _corrupted(samples: Any, share: float, classes: int, seed: int) -> Any:
    """Replace a share of the labels by random ones from all classes."""
    labels = _labels(samples)
    if labels is None:
        raise UnsupportedError("random labels require one class for each sample")
    random = np.random.default_rng([seed, _NOISE])
    changed = random.random(len(labels)) < share
    drawn = np.where(changed, random.integers(0, classes, len(labels)), labels)
    if isinstance(samples, ArraySamples):
        return replace(samples, y=drawn)
    return replace(samples, targets=Labels(drawn))
