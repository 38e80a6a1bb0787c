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
_NONE = -100  # no label: torch's own for targets that do not count


class Classify(Task):
    """One class for each sample.

    Args:
        smoothing: The share of the target that is distributed over all classes.
        ignore: The label of targets that do not count, if there is one.
    """

    metric = "accuracy"
    name, rank, needed = "classification", 2, ("[N, classes]", "one for each sample")

    def __init__(self, smoothing: float = 0.0, ignore: int | None = None) -> None:
        self.smoothing, self.ignore = smoothing, ignore
        self.classes = 0

    def wrap(self, module: torch.nn.Module, extras: int = 0) -> torch.nn.Module:
        """See `Task`: the first output becomes log probabilities over axis 1."""
        return log_probabilities(module, dense=self.rank > 2, extras=extras)

    def scores(self, outputs: Any, targets: Any) -> torch.Tensor:
        """Return the log probabilities for the targets, [N, classes, ...]."""
        return _flat(first_output(outputs))

    def probe(self, outputs: Any, targets: Any) -> None:
        """See `Task`."""
        first = first_output(outputs)
        scores = _flat(first) if self.rank == 2 else first
        fits = scores.ndim == self.rank and scores.shape[0] == len(targets)
        if not fits or not scores.is_floating_point():
            raise UnsupportedError(
                f"the first output of a batch of {len(targets)} is {list(first.shape)}; "
                f"{self.name} needs {self.needed[0]}"
            )
        if targets.ndim != self.rank - 1:
            raise UnsupportedError(
                f"the targets are {list(targets.shape)}; {self.name} needs {self.needed[1]}"
            )
        if targets.is_floating_point():
            raise UnsupportedError(
                f"the targets are {targets.dtype}; {self.name} needs integers, and other targets "
                "a --loss"
            )
        self.classes = scores.shape[1]

    def inspect(self, targets: Any) -> None:
        """See `Task`."""
        check_labels(targets, self.classes, self.ignore)

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        scores, ignore = (
            self.scores(outputs, targets),
            _NONE if self.ignore is None else self.ignore,
        )
        loss = F.nll_loss(scores, targets, ignore_index=ignore, reduction="sum")
        if self.smoothing:
            spread = -(scores.mean(dim=1) * (targets != ignore)).sum()
            loss = (1 - self.smoothing) * loss + self.smoothing * spread
        return loss

    def right(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        scores = self.scores(outputs, targets).detach()
        right: torch.Tensor = (scores.argmax(dim=1) == targets).sum()
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
