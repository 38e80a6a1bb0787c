"""Image files and their targets: a class, a mask or boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from onnx_expand.errors import ModelError
from onnx_expand.experiment.data.augment import ImageView, boxes_seen, resample

__all__ = ["Boxes", "Extents", "Labels", "Masks", "Pictures", "UnreadableError"]

Extents: TypeAlias = tuple[int, int]
Picks: TypeAlias = "npt.NDArray[np.int64]"


class UnreadableError(Exception):
    """An image cannot be decoded; the message names it."""


@dataclass
class Pictures:
    """Image files, decoded on access, or once for all.

    Args:
        paths: The files.
        decode: Reads one as uint8 [C, H, W]; raises `UnreadableError`.
    """

    paths: Sequence[Path]
    decode: Callable[[Path], npt.NDArray[np.uint8]]
    kept: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        return self.kept[index] if index in self.kept else self.decode(self.paths[index])

    def part(self, picks: Picks) -> Pictures:
        """Select some images by index."""
        kept = {new: self.kept[int(was)] for new, was in enumerate(picks) if int(was) in self.kept}
        return Pictures([self.paths[int(was)] for was in picks], self.decode, kept)


class Labels:
    """One class for each sample.

    Args:
        values: int64 [N].
    """

    def __init__(self, values: npt.NDArray[np.int64]) -> None:
        self.values = values

    def content(self) -> Iterator[bytes]:
        """Yield bytes that identify these targets."""
        yield self.values.tobytes()

    def part(self, picks: Picks) -> Labels:
        """Select the targets of some samples by index."""
        return Labels(self.values[picks])

    def seen(self, index: int, view: ImageView, source: Extents, extents: Extents) -> torch.Tensor:
        """Return the target of one sample in a view."""
        return torch.tensor(int(self.values[index]))


class Masks:
    """A class for each pixel of each sample.

    Args:
        pictures: Images of one channel whose values are classes.
        classes: The number of classes; None if any value is allowed.
        ignore: The value of pixels that do not count.
        table: The class of each value, [256]; None if values are classes.
    """

    def __init__(
        self,
        pictures: Pictures,
        classes: int | None,
        ignore: int,
        table: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.pictures = pictures
        self.classes = classes
        self.ignore = ignore
        self.table = table

    def content(self) -> Iterator[bytes]:
        """Yield bytes that identify these targets: the names of the files."""
        yield from (path.name.encode() + b"\n" for path in self.pictures.paths)

    def part(self, picks: Picks) -> Masks:
        """Select the targets of some samples by index."""
        return Masks(self.pictures.part(picks), self.classes, self.ignore, self.table)

    def load(self, index: int) -> npt.NDArray[np.int64]:
        """Read the mask of one sample, [H, W].

        Raises:
            ModelError: It contains an invalid class.
        """
        mask: npt.NDArray[np.int64] = self.pictures[index][0].astype(np.int64)
        if self.table is not None:
            mask = self.table[mask]
        if self.classes is not None:
            wrong = (mask >= self.classes) & (mask != self.ignore)
            if wrong.any():
                label = int(mask[wrong][0])
                raise ModelError(
                    f"{self.pictures.paths[index]}: label {label} is not in "
                    f"0..{self.classes - 1}, the model's classes, nor {self.ignore}, which is "
                    f"ignored; to ignore {label} instead, give --ignore-label {label}"
                )
        return mask

    def mismatch(self, index: int, found: tuple[int, ...], image: tuple[int, ...]) -> str:
        """Describe a mask whose extents are not those of its image."""
        return f"{self.pictures.paths[index]}: is {found}, its image {image} high and wide"

    def seen(self, index: int, view: ImageView, source: Extents, extents: Extents) -> torch.Tensor:
        """Return the target of one sample in a view, [H, W].

        Raises:
            UnreadableError: The mask is not as high and wide as its image.
        """
        mask = torch.from_numpy(self.load(index))[None]
        if mask.shape[1:] != source:
            raise UnreadableError(self.mismatch(index, tuple(mask.shape[1:]), source))
        return resample(mask, view, extents, fill=self.ignore)[0]


class Boxes:
    """Labelled boxes for each sample.

    Args:
        values: For each sample [M, 6]: label, left, top, right, bottom in pixels, and 1 for a
            difficult object, which does not count.
    """

    def __init__(self, values: Sequence[npt.NDArray[np.float64]]) -> None:
        self.values = values
        self.most = max(1, max(len(boxes) for boxes in values))

    def content(self) -> Iterator[bytes]:
        """Yield bytes that identify these targets."""
        yield from (boxes.tobytes() + b"\n" for boxes in self.values)

    def part(self, picks: Picks) -> Boxes:
        """Select the targets of some samples by index."""
        return Boxes([self.values[int(pick)] for pick in picks])

    def seen(self, index: int, view: ImageView, source: Extents, extents: Extents) -> torch.Tensor:
        """Return [most, 6], with corners as shares of the view and unused rows of label -1."""
        result = torch.full((self.most, 6), -1.0)
        easy = self.values[index][:, 5] == 0
        row = 0
        for difficult, part in ((0.0, easy), (1.0, ~easy)):
            for box in boxes_seen(self.values[index][part, :5], view):
                result[row, :5] = torch.from_numpy(box)
                result[row, 5] = difficult
                row += 1
        return result
