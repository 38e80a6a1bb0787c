"""The description of one independent training run, by which its result can be found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import onnx_expand
from onnx_expand.errors import UsageError
from onnx_expand.experiment.paper.networks import sources

__all__ = ["Job", "Part", "code_version"]

Part: TypeAlias = Literal["test", "held-out"]


@dataclass(frozen=True)
class Job:
    """All inputs that determine the result of one run.

    Attributes:
        network: The name of a network in `models`, or an ONNX file.
        build: Keyword arguments of the network's builder.
        expand: Keyword arguments of `onnx_expand.expand`; None trains the compact network.
        data: As for `load_data`.
        options: Fields of `DataOptions`.
        train: Fields of `TrainOptions`.
        seed: The seed of initial weights, order and augmentation.
        part: The data to test on: the test data, or the last fifth of each class of the training
            data, which is then excluded from training.
        images: The number of training samples, balanced over the classes; None for all.
        noise: The share of training labels that are replaced by random ones from all classes.
        teacher: The run whose trained network is distilled, in addition to the labels.
        distill: Fields of `DistillOptions`, for the teacher.
        start: The run whose trained network provides the initial weights, without the activations
            that `expand` inserted between linear layers; it has the same network and expansion.
        gradients: The number of pairs of batches whose gradient similarity is measured after each
            epoch.
        landscape: The number of points on each of two axes at which the loss around the trained
            and folded weights is measured.
    """

    network: str
    build: Mapping[str, Any] = field(default_factory=dict)
    expand: Mapping[str, Any] | None = None
    data: str = "digits"
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    part: Part = "test"
    images: int | None = None
    noise: float = 0.0
    teacher: Job | None = None
    distill: Mapping[str, Any] = field(default_factory=dict)
    start: Job | None = None
    gradients: int = 0
    landscape: int = 0

    @property
    def needs(self) -> tuple[Job, ...]:
        """The runs that must finish before."""
        return tuple(job for job in (self.teacher, self.start) if job is not None)

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise is {self.noise}; it must be between 0 and 1")
        if self.images is not None and self.images < 1:
            raise UsageError(f"images is {self.images}; it must be at least 1")

    def key(self, content: str) -> str:
        """Return the name under which the result is stored.

        Args:
            content: Identifies the content of the files that the run reads.
        """
        facts = {"job": asdict(self), "content": content, "code": code_version()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


@cache
def code_version() -> str:
    """Return a text that identifies the versions and the sources of the training code."""
    import torch

    found = hashlib.sha256(f"{onnx_expand.__version__} torch {torch.__version__}".encode())
    above = Path(onnx_expand.__file__).parent.parent
    for path in sorted(path for folder in sources() for path in folder.rglob("*.py")):
        found.update(path.relative_to(above).as_posix().encode() + b"\0")
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
