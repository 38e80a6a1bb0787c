"""The request to a source of data, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.experiment.data.targets import Boxes, Labels, Masks, Pictures
from onnx_expand.recipes import DataOptions

__all__ = ["Array", "Kind", "Request", "Size", "SourceData", "Subset", "every_fifth", "numbered"]

Array: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = "tuple[int | None, int | None]"
# `numbers`: targets of any shape, for a custom loss.
Kind = Literal["classify", "segment", "detect", "numbers"]

_EVERY = 5


@dataclass(frozen=True)
class Request:
    """What a model takes, and how to load the data.

    Attributes:
        channels: Channels of the images; 0 for a model of other inputs.
        size: Height and width; None where any is accepted.
        classes: The number of classes of the model, if known.
        options: The settings.
        numbers: Whether targets may be any values, for a custom loss.
    """

    channels: int
    size: Size = (None, None)
    classes: int | None = None
    options: DataOptions = field(default_factory=DataOptions)
    numbers: bool = False


@dataclass(frozen=True)
class Subset:
    """Training or test data of a source.

    Attributes:
        x: An array [N, ...], or image files.
        y: Targets: an array [N], or the targets of image files.
    """

    x: Array | Pictures
    y: Array | Labels | Masks | Boxes


@dataclass(frozen=True)
class SourceData:
    """The data of a source."""

    train: Subset
    test: Subset
    classes: tuple[str, ...]
    pixels: bool
    kind: Kind = "classify"
    left_out: tuple[str, ...] = ()


def every_fifth(labels: Array) -> npt.NDArray[np.bool_]:
    """Select test samples: every fifth of a class, or the last one of fewer than five."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        chosen = places[_EVERY - 1 :: _EVERY]
        test[chosen if len(chosen) else places[1:][-1:]] = True
    return test


def numbered(labels: Array) -> tuple[str, ...]:
    """Return numbers as names of unnamed labels."""
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
