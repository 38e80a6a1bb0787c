"""Segmentation: the cross-entropy of each pixel, and the mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.tasks.base import Meter, first_output
from onnx_expand.experiment.training.tasks.classify import Classify

__all__ = ["Segment"]


class Segment(Classify):
    """One class for each pixel."""

    metric = "mIoU"
    name, rank, needed = "segmentation", 4, ("[N, classes, H, W]", "masks [N, H, W]")

    def scores(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Classify`: at the masks' extents."""
        return _at(first_output(outputs), targets)

    def weight(self, targets: Any) -> float:
        """See `Task`: the number of pixels that count."""
        return float((targets != self.ignore).sum())

    def meter(self) -> Meter:
        """See `Task`."""
        return _Confusion(self.ignore)


class _Confusion(Meter):
    """Counts of pixels by label and predicted class."""

    def __init__(self, ignore: int | None) -> None:
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
