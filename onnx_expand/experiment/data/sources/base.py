"""What a source of data is asked, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.experiment.data.targets import Boxes, Labels, Masks, Pictures
from onnx_expand.recipes import DataOptions

__all__ = ["Array", "Found", "Kind", "Part", "Request", "Size", "every_fifth", "numbered"]

Array: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = "tuple[int | None, int | None]"
# `numbers`: targets of any shape, for a loss of one's own.
Kind = Literal["classify", "segment", "detect", "numbers"]

_EVERY = 5


@dataclass(frozen=True)
class Request:
    """What a model takes, and how the data is wanted.

    Attributes:
        channels: Channels of the images; 0 for a model that takes something else.
        size: Height and width; None where any will do.
        classes: How many classes the model knows, where that is known.
        options: The settings.
        numbers: Whether targets may be any numbers, since the loss is one's own.
    """

    channels: int
    size: Size = (None, None)
    classes: int | None = None
    options: DataOptions = field(default_factory=DataOptions)
    numbers: bool = False


@dataclass(frozen=True)
class Part:
    """Training or test data, as a source has it.

    Attributes:
        x: An array [N, ...], or image files.
        y: Targets: an array [N], or what goes with image files.
    """

    x: Array | Pictures
    y: Array | Labels | Masks | Boxes


@dataclass(frozen=True)
class Found:
    """What a source has.

    Attributes:
        train: For training.
        test: For testing.
        classes: The labels' names.
        pixels: Whether the numbers are brightnesses, which want normalising.
        kind: What the data is labelled for.
        left_out: The images that cannot be read, which are in neither part.
    """

    train: Part
    test: Part
    classes: tuple[str, ...]
    pixels: bool
    kind: Kind = "classify"
    left_out: tuple[str, ...] = ()


def every_fifth(labels: Array) -> npt.NDArray[np.bool_]:
    """Which samples are for testing: every fifth of a class; of fewer than five, the last."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        chosen = places[_EVERY - 1 :: _EVERY]
        test[chosen if len(chosen) else places[1:][-1:]] = True
    return test


def numbered(labels: Array) -> tuple[str, ...]:
    """Names for labels that have none."""
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
