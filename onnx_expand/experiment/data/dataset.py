"""Labelled data for training and for testing."""

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
    """Labelled data for training and for testing.

    Attributes:
        train: The training samples.
        test: The test samples.
        classes: The names of the labels.
        description: A description in one line.
        kind: The task of the labels.
        normalization: The normalization of brightnesses from 0 to 1.
        left_out: The unreadable images, as far as known on loading.
        anchors: The shapes of boxes as shares of the image, for detection.
        ignore_label: The label of pixels that do not count, for segmentation.
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
        """Create a dataset of arrays in the form that the model takes.

        Args:
            x_train: Training inputs [N, ...]; bytes are divided by 255.
            y_train: Training targets: classes [N], or a class for each pixel [N, H, W];
                floating-point values of any shape [N, ...] require a custom loss.
            x_test: Test inputs.
            y_test: Test targets.
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
        """All training targets."""
        return self.train.stack()[1]

    @property
    def x_test(self) -> npt.NDArray[Any]:
        """All test inputs."""
        return self.test.stack()[0]

    @property
    def y_test(self) -> npt.NDArray[Any]:
        """All test targets."""
        return self.test.stack()[1]


def _targets(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
