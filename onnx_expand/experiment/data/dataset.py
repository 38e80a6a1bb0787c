"""Labelled data for training, and other for testing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.experiment.data.samples import ArraySamples, Normalization, Samples
from onnx_expand.experiment.data.sources.base import Kind

__all__ = ["Dataset"]

_AS_IS = Normalization()


@dataclass(frozen=True)
class Dataset:
    """Labelled data for training, and other for testing.

    Attributes:
        train: What is trained on.
        test: What is tested on.
        classes: The names of the labels.
        description: One line for people.
        kind: What the data is labelled for.
        normalization: What was done to brightnesses from 0 to 1.
        left_out: The images that cannot be read, as far as that was known on loading.
        anchors: The shapes of boxes, as shares of the image, for detection.
        ignore_label: The label of pixels that count for nothing, for segmentation.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    description: str
    kind: Kind = "classify"
    normalization: Normalization = _AS_IS
    left_out: tuple[str, ...] = ()
    anchors: tuple[tuple[float, float], ...] = ()
    ignore_label: int = 255

    @classmethod
    def of(
        cls,
        x_train: npt.NDArray[Any],
        y_train: npt.NDArray[Any],
        x_test: npt.NDArray[Any],
        y_test: npt.NDArray[Any],
        classes: tuple[str, ...] = (),
    ) -> Dataset:
        """Data of arrays that are as the model takes them.

        Args:
            x_train: Training inputs [N, ...]; bytes are divided by 255.
            y_train: Their classes [N], or a class for each pixel [N, H, W]; floating-point
                numbers of any shape [N, ...] are for a loss of one's own.
            x_test: Test inputs.
            y_test: Their targets.
            classes: The names of the classes.
        """
        train, test = (
            ArraySamples(np.asarray(x), _targets(np.asarray(y)))
            for x, y in ((x_train, y_train), (x_test, y_test))
        )
        kind: Kind = "segment" if train.y.ndim == 3 else "classify"
        if train.y.dtype.kind == "f":
            kind = "numbers"
        described = f"{len(train):,} training and {len(test):,} test samples"
        return cls(train, test, classes, described, kind)

    @property
    def x_train(self) -> npt.NDArray[Any]:
        """All training inputs [N, ...], without augmentation."""
        return self.train.stack()[0]

    @property
    def y_train(self) -> npt.NDArray[Any]:
        """Their targets."""
        return self.train.stack()[1]

    @property
    def x_test(self) -> npt.NDArray[Any]:
        """All test inputs."""
        return self.test.stack()[0]

    @property
    def y_test(self) -> npt.NDArray[Any]:
        """Their targets."""
        return self.test.stack()[1]


def _targets(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
