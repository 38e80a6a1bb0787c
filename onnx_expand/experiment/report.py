"""What an experiment did, for people and programs."""

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
    """What an experiment did.

    Attributes:
        data: The data, in one line.
        runs: For each run the model's name, the seed and its history.
        comparison: With the compact model, where that was asked for.
        folded: The folded model, where that was asked for.
        settings: All options.
        normalization: Mean and deviation, as `fold --mean --std` takes them.
        losses: The training losses of both models, where they were compared.
        meaning: The classes' order and the anchors, as far as there are any.
        gallery: Some test images, where that was asked for.
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
        """The first run's, whose weights are written."""
        return self.runs[0][2]

    def as_dict(self) -> dict[str, Any]:
        """This report as plain JSON types; the first run's epochs are at the top."""
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
