"""Custom loss functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.tasks.base import Meter, Task
from onnx_expand.experiment.user_code import user_errors

__all__ = ["CustomLoss"]


class CustomLoss(Task):
    """A user's function of outputs and targets that returns the mean loss of a batch."""

    metric = "test loss"
    greater = False

    def __init__(self, function: Callable[[Any, Any], torch.Tensor], label: str) -> None:
        self.function = function
        self.label = label

    def probe(self, outputs: Any, targets: Any) -> None:
        """See `Task`; the loss must be a single value with a gradient."""
        loss = self._called(_leaves(outputs), targets)
        if not loss.requires_grad:
            raise UnsupportedError(
                f"loss '{self.label}' returned a {loss.dtype} without a gradient; compute it from "
                "the outputs by operations that have one, and do not detach it"
            )

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        return self._called(outputs, targets).reshape(()) * len(targets)

    def _called(self, outputs: Any, targets: Any) -> torch.Tensor:
        with user_errors(f"loss '{self.label}'"):
            loss = self.function(outputs, targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise UnsupportedError(
                f"loss '{self.label}' returned {_kind(loss)}; it must be a tensor of one number"
            )
        return loss

    def meter(self) -> Meter:
        """See `Task`."""
        return _MeanLoss(self)


class _MeanLoss(Meter):
    def __init__(self, task: CustomLoss) -> None:
        self.task = task
        self.sums = torch.zeros(2, dtype=torch.float64)

    def update(self, outputs: Any, targets: Any) -> None:
        loss = self.task.loss(outputs, targets)
        self.sums = self.sums.to(loss.device)
        self.sums += torch.stack([loss.double(), loss.new_tensor(len(targets)).double()])

    def merge(self, world: World) -> None:
        self.sums = world.sum(self.sums)

    def figures(self) -> Mapping[str, float]:
        total, count = self.sums.tolist()
        return {"test loss": total / count}


def _leaves(outputs: Any) -> Any:
    """Return outputs with gradients, as those of a trained module."""
    if isinstance(outputs, tuple | list):
        return type(outputs)(_leaves(output) for output in outputs)
    return outputs.detach().requires_grad_(outputs.is_floating_point())


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)}"
    return f"a {type(value).__name__}"
