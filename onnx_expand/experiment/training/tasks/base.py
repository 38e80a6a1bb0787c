"""The interface of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from onnx_expand.errors import ModelError
from onnx_expand.experiment.training.parallel import World

__all__ = ["Meter", "Task", "check_labels", "first_output"]


def first_output(outputs: Any) -> torch.Tensor:
    """Return the first output of a module, or its only one."""
    first: torch.Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return first


def check_labels(labels: torch.Tensor, classes: int, ignore: int | None = None) -> None:
    """Check that labels are classes of the model; a device would report an unspecific failure.

    Raises:
        ModelError: A label is out of range.
    """
    wrong = (labels < 0) | (labels >= classes)
    if ignore is not None:
        wrong &= labels != ignore
    if bool(wrong.any()):
        end = "" if ignore is None else f", nor {ignore}, which is ignored"
        raise ModelError(
            f"the data has the label {int(labels[wrong][0])}, which is not in 0..{classes - 1}, "
            f"the model's classes{end}"
        )


class Meter(ABC):
    """Accumulates the data of a score, batch by batch."""

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Add the outputs of a module for a batch."""

    @abstractmethod
    def merge(self, world: World) -> None:
        """Combine the data of all processes."""

    @abstractmethod
    def figures(self) -> Mapping[str, float]:
        """Return the figures, the score first."""


class Task(ABC):
    """A learning task."""

    metric: str
    greater: bool = True

    def wrap(self, module: torch.nn.Module, extras: int = 0) -> torch.nn.Module:
        """Return a module with the same parameters and the outputs that the loss takes.

        Args:
            module: The module.
            extras: The number of last outputs that must not change.
        """
        return module

    @abstractmethod
    def probe(self, outputs: Any, targets: Any) -> None:
        """Check that the outputs of a module fit.

        Raises:
            UnsupportedError: They do not.
        """

    def inspect(self, targets: Any) -> None:  # noqa: B027  (not all targets can be wrong)
        """Check the targets of a batch, while they are in main memory.

        Raises:
            ModelError: They are invalid.
        """

    def weight(self, targets: Any) -> float:
        """Return the divisor of the sum of a step's losses: the number of samples or pixels."""
        return float(len(targets))

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """Return the sum of the losses of a batch."""

    @abstractmethod
    def meter(self) -> Meter:
        """Create a meter of the test data."""

    def right(self, outputs: Any, targets: Any) -> torch.Tensor | None:
        """Return how much of a training batch is correct, out of `weight`; None if undefined."""
        return None
