"""Classification: the cross-entropy of one output, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.tasks.base import Meter, Task, check_labels, first_output
from onnx_expand.train.head import log_probabilities

__all__ = ["Classify"]

_TOP = 5


class Classify(Task):
    """One class for each sample.

    Args:
        smoothing: The share of the target that is distributed over all classes.
    """

    metric = "accuracy"

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing
        self.classes = 0

    def wrap(self, module: torch.nn.Module, extras: int = 0) -> torch.nn.Module:
        """See `Task`: the first output becomes log probabilities."""
        return log_probabilities(module, extras=extras)

    def probe(self, outputs: Any, targets: Any) -> None:
        """See `Task`."""
        first = first_output(outputs)
        scores = _flat(first)
        if scores.ndim != 2 or scores.shape[0] != len(targets) or not scores.is_floating_point():
            raise UnsupportedError(
                f"the first output of a batch of {len(targets)} is {list(first.shape)}; "
                "classification needs [N, classes]"
            )
        if targets.ndim != 1:
            raise UnsupportedError(
                f"the targets are {list(targets.shape)}; classification needs one for each sample"
            )
        if targets.is_floating_point():
            raise UnsupportedError(
                f"the targets are {targets.dtype}; classification needs integers, and other "
                "targets a --loss"
            )
        self.classes = scores.shape[1]

    def inspect(self, targets: Any) -> None:
        """See `Task`."""
        check_labels(targets, self.classes)

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        scores = _flat(first_output(outputs))
        loss = F.nll_loss(scores, targets, reduction="sum")
        if self.smoothing:
            spread = -scores.mean(dim=1).sum()
            loss = (1 - self.smoothing) * loss + self.smoothing * spread
        return loss

    def right(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        found = _flat(first_output(outputs)).detach().argmax(dim=1)
        right: torch.Tensor = (found == targets).sum()
        return right

    def meter(self) -> Meter:
        """See `Task`."""
        return _Hits()


class _Hits(Meter):
    def __init__(self) -> None:
        # Counts of correct, top-5 correct and all samples; and the number of classes.
        self.counts = torch.zeros(3, dtype=torch.float64)
        self.classes = 0

    def update(self, outputs: Any, targets: Any) -> None:
        scores = _flat(first_output(outputs))
        self.classes = scores.shape[1]
        right = (scores.argmax(dim=1) == targets).sum()
        best = scores.topk(min(_TOP, self.classes), dim=1).indices
        near = (best == targets[:, None]).any(dim=1).sum()
        self.counts = self.counts.to(scores.device)
        self.counts += torch.stack([right, near, right.new_tensor(len(targets))]).double()

    def merge(self, world: World) -> None:
        self.classes = max(world.gather(self.classes))
        self.counts = world.sum(self.counts)

    def figures(self) -> Mapping[str, float]:
        right, near, total = self.counts.tolist()
        figures = {"accuracy": right / total}
        if self.classes > 2 * _TOP:
            figures["top-5 accuracy"] = near / total
        return figures


def _flat(first: torch.Tensor) -> torch.Tensor:
    # Outputs of pooling or a convolution have trailing axes of extent 1.
    return first.flatten(1) if first.ndim > 2 and first.shape[2:].numel() == 1 else first
