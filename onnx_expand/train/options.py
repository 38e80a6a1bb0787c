"""What a training run is asked for, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

from onnx_expand.errors import UnsupportedError, UsageError

__all__ = ["DivergedError", "EpochResult", "History", "Progress", "Schedule", "TrainOptions"]

Schedule = Literal["constant", "step", "cosine"]


class DivergedError(UnsupportedError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class TrainOptions:
    """The settings of stochastic gradient descent.

    Attributes:
        epochs: Passes over the training data.
        lr: The learning rate at the start.
        batch: Samples in a step.
        seed: Fixes the order of the samples, and dropout.
        momentum: The share of the last step that the next one keeps.
        weight_decay: The weight of half the parameters' squared norm in the loss.
        schedule: `constant`; `step`, a tenth of the rate after each third of the epochs; or
            `cosine`, down to nearly zero.
    """

    epochs: int = 10
    lr: float = 0.01
    batch: int = 128
    seed: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"epochs is {self.epochs}; it must be at least 1")
        if self.batch < 1:
            raise UsageError(f"batch is {self.batch}; it must be at least 1")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UsageError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}; it must be at least 0 and below 1")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise UsageError(f"weight_decay is {self.weight_decay}; it must be at least 0")
        if self.schedule not in get_args(Schedule):
            valid = ", ".join(get_args(Schedule))
            raise UsageError(f"schedule '{self.schedule}' is none of {valid}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "step":
            return float(self.lr * 0.1 ** (3 * epoch // self.epochs))
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did.

    Attributes:
        epoch: Its number, from 1.
        lr: Its learning rate.
        loss: The mean training loss over the epoch's batches.
        train_accuracy: The share of the training samples that were classified rightly on the way.
        test_accuracy: The share of the test samples classified rightly at its end.
        seconds: How long it took, the test included.
    """

    epoch: int
    lr: float
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class History:
    """What a training run did, epoch by epoch."""

    epochs: tuple[EpochResult, ...]

    @property
    def accuracy(self) -> float:
        """The test accuracy at the end."""
        return self.epochs[-1].test_accuracy

    def as_dict(self) -> Mapping[str, Any]:
        """This history as plain JSON types."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}


class Progress(Protocol):
    """Is told how far a run is."""

    def on_batch(self, done: int, total: int) -> None:
        """After each step: how many of the epoch's steps are done."""

    def on_epoch(self, result: EpochResult) -> None:
        """After each epoch: what it did."""
