"""Segmentation: the cross-entropy of each pixel, and the mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.tasks.base import Meter, Task, check_labels, first_output
from onnx_expand.train.head import log_probabilities

__all__ = ["Segment"]


class Segment(Task):
    """One class for each pixel.

    Args:
        ignore: The label of pixels that do not count.
        smoothing: The share of the target that is distributed over all classes.
    """

    metric = "mIoU"

    def __init__(self, ignore: int, smoothing: float = 0.0) -> None:
        self.ignore = ignore
        self.smoothing = smoothing
        self.classes = 0

    def wrap(self, module: torch.nn.Module, extras: int = 0) -> torch.nn.Module:
        """See `Task`: the first output becomes log probabilities over axis 1."""
        return log_probabilities(module, dense=True, extras=extras)

    def probe(self, outputs: Any, targets: Any) -> None:
        """See `Task`."""
        first = first_output(outputs)
        if first.ndim != 4 or first.shape[0] != len(targets) or not first.is_floating_point():
            raise UnsupportedError(
                f"the first output of a batch of {len(targets)} is {list(first.shape)}; "
                "segmentation needs [N, classes, H, W]"
            )
        if targets.ndim != 3:
            raise UnsupportedError(
                f"the targets are {list(targets.shape)}; segmentation needs masks [N, H, W]"
            )
        if targets.is_floating_point():
            raise UnsupportedError(
                f"the targets are {targets.dtype}; segmentation needs integers, and other targets "
                "a --loss"
            )
        self.classes = first.shape[1]

    def inspect(self, targets: Any) -> None:
        """See `Task`."""
        check_labels(targets, self.classes, self.ignore)

    def weight(self, targets: Any) -> float:
        """See `Task`: the number of pixels that count."""
        return float((targets != self.ignore).sum())

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        scores = _at(first_output(outputs), targets)
        loss = F.nll_loss(scores, targets, ignore_index=self.ignore, reduction="sum")
        if self.smoothing:
            spread = -(scores.mean(dim=1) * (targets != self.ignore)).sum()
            loss = (1 - self.smoothing) * loss + self.smoothing * spread
        return loss

    def right(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        scores = _at(first_output(outputs).detach(), targets)
        right: torch.Tensor = (scores.argmax(dim=1) == targets).sum()
        return right

    def meter(self) -> Meter:
        """See `Task`."""
        return _Confusion(self.ignore)


class _Confusion(Meter):
    """Counts of pixels by label and predicted class."""

    def __init__(self, ignore: int) -> None:
        self.ignore = ignore
        self.counts: torch.Tensor | None = None

    def update(self, outputs: Any, targets: Any) -> None:
        scores = _at(first_output(outputs), targets)
        classes = scores.shape[1]
        counted = targets != self.ignore
        cells = targets[counted] * classes + scores.argmax(dim=1)[counted]
        counts = torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
        self.counts = counts if self.counts is None else self.counts + counts

    def merge(self, world: World) -> None:
        gathered = [c for c in world.gather(self.counts) if c is not None]
        self.counts = torch.stack([c.cpu() for c in gathered]).sum(0)

    def figures(self) -> Mapping[str, float]:
        """Return the figures over the classes that are labelled or predicted at least once."""
        assert self.counts is not None
        counts = self.counts.double().cpu()
        both = counts.diag()
        either = counts.sum(0) + counts.sum(1) - both
        there = either > 0
        mean = float((both[there] / either[there]).mean()) if there.any() else 0.0
        total = float(counts.sum())
        return {"mIoU": mean, "pixel accuracy": float(both.sum()) / total if total else 0.0}


def _at(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Resize scores bilinearly to the masks' extents, if the model's are smaller."""
    if scores.shape[2:] == targets.shape[1:]:
        return scores
    return F.interpolate(
        scores, size=list(targets.shape[1:]), mode="bilinear", align_corners=False
    )
