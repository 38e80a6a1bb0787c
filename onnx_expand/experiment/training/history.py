"""The results of a training run, by epoch."""

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
    """The results of one epoch.

    Attributes:
        epoch: The number of the epoch, from 1.
        lr: The learning rate of the last step.
        loss: The mean training loss over the epoch's batches.
        train_score: The share of training samples that were classified correctly during training;
            None if the task does not define it.
        test_score: The score of the test data after the epoch: `History.metric`.
        seconds: The duration, including the test.
        figures: All figures of the test data, by name.
        unreadable: The number of distinct images that could not be read so far.
    """

    epoch: int
    lr: float
    loss: float
    train_score: float | None
    test_score: float
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True)
class History:
    """The results of a training run, by epoch.

    Attributes:
        epochs: The epochs.
        metric: The name of the score.
        greater: Whether greater scores are better.
        kept: The epoch whose weights were kept, from 1.
        left_out: The names of samples that could not be read when needed.
    """

    epochs: tuple[EpochResult, ...]
    metric: str = "accuracy"
    greater: bool = True
    kept: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The test score of the kept weights."""
        return self.epochs[self.kept - 1].test_score

    def as_dict(self) -> Mapping[str, Any]:
        """Return the history as plain JSON types."""
        return {
            "metric": self.metric,
            "kept_epoch": self.epochs[self.kept - 1].epoch,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }


class Progress(Protocol):
    """Receives the progress of a run."""

    def on_batch(self, done: int, total: int) -> None:
        """Receive the number of finished steps of the epoch, after each step."""

    def on_epoch(self, result: EpochResult) -> None:
        """Receive the result of each epoch, while the module has the weights that were tested."""
