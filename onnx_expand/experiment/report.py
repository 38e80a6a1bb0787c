"""The report of an experiment, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx_expand.experiment.compare import Comparison
from onnx_expand.experiment.folding import Folded
from onnx_expand.experiment.gallery import Gallery
from onnx_expand.experiment.training.history import History

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """The results of an experiment.

    Attributes:
        data: The data, in one line.
        runs: The model's name, the seed and the history of each run.
        comparison: The comparison with the compact model, if requested.
        folded: The folded model, if requested.
        settings: All options.
        normalization: Mean and deviation, as `fold --mean --std` takes them.
        losses: The comparison of the training losses of both models, if requested.
        meaning: The order of classes and the anchors, if there are any.
        gallery: Some test images, if requested.
    """

    data: str
    runs: tuple[tuple[str, int, History], ...]
    comparison: Comparison | None
    folded: Folded | None
    settings: dict[str, Any]
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    losses: Comparison | None = None
    meaning: dict[str, Any] = field(default_factory=dict)
    gallery: Gallery | None = None

    @property
    def history(self) -> History:
        """The history of the first run, whose weights are written."""
        return self.runs[0][2]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types, with the first run's epochs at the top level."""
        folded = self.folded
        return {
            **self.history.as_dict(),
            **self.meaning,
            "data": self.data,
            "mean": list(self.normalization[0]),
            "std": list(self.normalization[1]),
            "settings": self.settings,
            "runs": [
                {"model": name, "seed": seed, **history.as_dict()}
                for name, seed, history in self.runs
            ],
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "training_loss": None if self.losses is None else self.losses.as_dict(),
            "fold": None if folded is None else folded.report.as_dict(),
            "check": folded.verdict.as_dict() if folded and folded.verdict else None,
        }
