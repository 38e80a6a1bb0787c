"""What a task provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from onnx_expand.errors import ModelError
from onnx_expand.experiment.training.parallel import World

__all__ = ["Meter", "Task", "check_labels", "first_output"]


def first_output(outputs: Any) -> torch.Tensor:
    """The first of a module's outputs, or its only one."""
    first: torch.Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return first


def check_labels(labels: torch.Tensor, classes: int, ignore: int | None = None) -> None:
    """See that labels are those of a model's classes; a device would only say that it failed.

    Args:
        labels: Integers.
        classes: How many classes the model has.
        ignore: A label that counts for nothing.

    Raises:
        ModelError: One is not.
    """
    wrong = (labels < 0) | (labels >= classes)
    if ignore is not None:
        wrong &= labels != ignore
    if bool(wrong.any()):
        end = "" if ignore is None else f", nor {ignore}, which counts for nothing"
        raise ModelError(
            f"the data has the label {int(labels[wrong][0])}, which is not in 0..{classes - 1}, "
            f"the model's classes{end}"
        )


class Meter(ABC):
    """Collects what a score needs, batch by batch."""

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Take in what a module gave for a batch."""

    @abstractmethod
    def merge(self, world: World) -> None:
        """Take in what all processes have collected."""

    @abstractmethod
    def figures(self) -> Mapping[str, float]:
        """The figures, the score first."""


class Task(ABC):
    """One kind of learning.

    Attributes:
        metric: What the score is called.
        greater: Whether more of it is better.
    """

    metric: str
    greater: bool = True

    def wrap(self, module: torch.nn.Module, extras: int = 0) -> torch.nn.Module:
        """A module of the same parameters whose outputs the loss takes.

        Args:
            module: The module.
            extras: How many of its last outputs must stay as they are.
        """
        return module

    @abstractmethod
    def probe(self, outputs: Any, targets: Any) -> None:
        """See that the outputs of a module fit.

        Raises:
            UnsupportedError: They do not.
        """

    def inspect(self, targets: Any) -> None:  # noqa: B027  (not all targets can be wrong)
        """See that the targets of a batch are possible ones, while they are in main memory.

        Raises:
            ModelError: They are not.
        """

    def weight(self, targets: Any) -> float:
        """By what the sum of a step's losses is divided: samples, or pixels."""
        return float(len(targets))

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The sum of the losses of a batch."""

    @abstractmethod
    def meter(self) -> Meter:
        """A meter of the test data."""

    def right(self, outputs: Any, targets: Any) -> torch.Tensor | None:
        """How much of a training batch is right, of `weight`; None where that has no meaning."""
        return None
