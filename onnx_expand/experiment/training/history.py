"""What a training run reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from onnx_expand.errors import UnsupportedError
from onnx_expand.recipes import TrainOptions

__all__ = ["DivergedError", "EpochResult", "History", "Progress", "TrainOptions"]


class DivergedError(UnsupportedError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did.

    Attributes:
        epoch: Its number, from 1.
        lr: Its learning rate, in the last step.
        loss: The mean training loss over the epoch's batches.
        train_score: The share of the training samples that were classified rightly on the way;
            None where the task has no such thing.
        test_score: The score of the test data at its end: `History.metric`.
        seconds: How long it took, the test included.
        figures: All figures of the test data, by name.
        unreadable: How many different images could not be read so far.
    """

    epoch: int
    lr: float
    loss: float
    train_score: float | None
    test_score: float
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    unreadable: int = 0

    @property
    def train_accuracy(self) -> float:
        """The training score of a classifier."""
        return float("nan") if self.train_score is None else self.train_score

    @property
    def test_accuracy(self) -> float:
        """The test score of a classifier."""
        return self.test_score


@dataclass(frozen=True)
class History:
    """What a training run did, epoch by epoch.

    Attributes:
        epochs: The epochs.
        metric: What the score is called.
        greater: Whether more of it is better.
        kept: The epoch whose weights stayed, from 1.
        left_out: What could not be read when it was wanted, by name.
    """

    epochs: tuple[EpochResult, ...]
    metric: str = "accuracy"
    greater: bool = True
    kept: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The test score of the weights that stayed."""
        return self.epochs[self.kept - 1].test_score

    @property
    def accuracy(self) -> float:
        """The test score of a classifier."""
        return self.score

    def as_dict(self) -> Mapping[str, Any]:
        """This history as plain JSON types."""
        return {
            "metric": self.metric,
            "kept_epoch": self.epochs[self.kept - 1].epoch,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }


class Progress(Protocol):
    """Is told how far a run is."""

    def on_batch(self, done: int, total: int) -> None:
        """After each step: how many of the epoch's steps are done."""

    def on_epoch(self, result: EpochResult) -> None:
        """After each epoch: what it did. The module has the weights that were tested."""
