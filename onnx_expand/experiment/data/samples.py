"""Samples that a training step reads by index, in whole batches."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from onnx_expand.errors import ModelError, OnnxExpandError
from onnx_expand.experiment.data.augment import (
    Augment,
    center,
    color_jitter,
    resample,
    shift,
    whole,
)
from onnx_expand.experiment.data.targets import (
    Boxes,
    Extents,
    Labels,
    Masks,
    Pictures,
    UnreadableError,
)
from onnx_expand.experiment.data.user_augment import preserved_random_state, seed_all
from onnx_expand.experiment.user_code import user_errors

__all__ = [
    "ArraySamples",
    "Batch",
    "ItemSamples",
    "Normalization",
    "PictureSamples",
    "Samples",
]

Array: TypeAlias = npt.NDArray[Any]
Picks: TypeAlias = npt.NDArray[np.int64]
Draws: TypeAlias = npt.NDArray[np.float64]
Request: TypeAlias = "tuple[Picks, Draws | None]"

_CACHED = 2**29


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        inputs: The inputs of the model, [N, ...].
        targets: The targets, whose first axis is N.
        count: The number of samples that count: 0 for samples that only give every process
            something to run.
        unreadable: The indices of samples that could not be read.
    """

    inputs: torch.Tensor
    targets: Any
    count: int
    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class Normalization:
    """(x - mean) / std for each channel, in float64; the default is the identity.

    Attributes:
        mean: [C].
        std: [C].
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, x: Array) -> npt.NDArray[np.float32]:
        """Normalize images [N, C, H, W]."""
        if not self.mean:
            return np.ascontiguousarray(x, dtype=np.float32)
        shape = (1, -1, 1, 1)
        mean, std = (np.asarray(v, np.float64).reshape(shape) for v in (self.mean, self.std))
        result: npt.NDArray[np.float32] = ((x - mean) / std).astype(np.float32)
        return result


class Samples(ABC):
    """Samples with targets, by index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def fetch(self, picks: Picks, draws: Draws | None) -> Batch:
        """Read some samples.

        Args:
            picks: The indices.
            draws: Random numbers [N, DRAWS] for augmentation; None for no augmentation, as in
                tests.
        """

    def __getitem__(self, request: Request) -> Batch | OnnxExpandError:
        """Return a batch or an error; torch's loader would wrap a raised error in a traceback."""
        try:
            return self.fetch(*request)
        except OnnxExpandError as error:
            # The error is sent without its cause.
            error.add_note(traceback.format_exc())
            return error

    def name(self, index: int) -> str:
        """Return a name by which the user can identify a sample."""
        return f"sample {index}"

    def fingerprint(self) -> bytes:
        """Return bytes that identify these samples, as far as possible without reading files."""
        return b""

    def stack(self) -> tuple[Array, Array]:
        """Return all samples and targets without augmentation, in memory."""
        batch = self.fetch(np.arange(len(self)), None)
        return batch.inputs.numpy(), batch.targets.numpy()


@dataclass
class ArraySamples(Samples):
    """Arrays in memory.

    Args:
        x: Images [N, C, H, W], uint8 or floating-point.
        y: Targets [N, ...]; integers [N, H, W] are masks, which are augmented with their images.
        normalization: Applied to brightnesses from 0 to 1, or to values as they are.
        augment: The augmentation of training images.
        beyond: The label of pixels beyond the border of a mask.
    """

    x: Array
    y: Array
    normalization: Normalization = Normalization()
    augment: Augment = field(default_factory=Augment)
    beyond: int = 255
    _ready: Array | None = None

    def __post_init__(self) -> None:
        floats = 4 * self.x.size
        if self.augment.none and floats <= _CACHED and self.x.dtype.kind in "fu":
            self._ready = self._normal(self.x)

    def __len__(self) -> int:
        return len(self.y)

    def fetch(self, picks: Picks, draws: Draws | None) -> Batch:
        """See `Samples`."""
        y = self.y[picks]
        if self._ready is not None:
            x = self._ready[picks]
        elif draws is None or self.augment.none:
            x = self._normal(self.x[picks])
        elif self.augment.shifts_only:
            x = self._normal(shift(self.x[picks], self.augment, draws))
            if self.masks:
                y = shift(y[:, None], self.augment, draws, fill=self.beyond)[:, 0]
        else:
            x, y = self._resampled(self.x[picks], y, draws)
        return Batch(torch.from_numpy(x), torch.from_numpy(y), len(picks))

    def fingerprint(self) -> bytes:
        """See `Samples`."""
        found = hashlib.sha256()
        for array in (self.x, self.y):
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return found.digest()

    @property
    def masks(self) -> bool:
        """Whether the targets are masks."""
        return self.y.ndim == 3 and self.y.dtype.kind == "i"

    def _normal(self, x: Array) -> Array:
        if x.dtype == np.uint8:
            x = x.astype(np.float32) / 255
        return self.normalization(x) if x.dtype.kind == "f" else x

    def _resampled(self, x: Array, y: Array, draws: Draws) -> tuple[Array, Array]:
        scale = 255 if x.dtype == np.uint8 else 1
        extents = (x.shape[2], x.shape[3])
        images = []
        views = [self.augment.view(extents, extents, row) for row in draws]
        pixels = torch.from_numpy(x.astype(np.float32) / scale)
        for image, view, row in zip(pixels, views, draws, strict=True):
            seen = color_jitter(resample(image, view, extents), view.gains)
            images.append(self.augment.last(seen, row))
        if self.masks:
            marks = zip(torch.from_numpy(y)[:, None], views, strict=True)
            shown = [resample(mark, view, extents, fill=self.beyond)[0] for mark, view in marks]
            y = torch.stack(shown).numpy()
        return self.normalization(torch.stack(images).numpy()), y


@dataclass
class PictureSamples(Samples):
    """Image files of any size, resampled to the model's.

    Args:
        pictures: The images.
        targets: Their targets.
        extents: The height and width that the model takes.
        normalization: Applied to brightnesses from 0 to 1.
        augment: The augmentation of training images.
        middle: See `DataOptions.center_crop`.
    """

    pictures: Pictures
    targets: Labels | Masks | Boxes
    extents: Extents
    normalization: Normalization = Normalization()
    augment: Augment = field(default_factory=Augment)
    middle: float | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        """See `Samples`: its file."""
        return str(self.pictures.paths[index])

    def fingerprint(self) -> bytes:
        """See `Samples`: the names of the files, and what goes with them."""
        found = hashlib.sha256(f"{self.extents}".encode())
        for path in self.pictures.paths:
            found.update("/".join(path.parts[-2:]).encode() + b"\n")
        for part in self.targets.content():
            found.update(part)
        return found.digest()

    def fetch(self, picks: Picks, draws: Draws | None) -> Batch:
        """See `Samples`.

        In training, another image replaces one that cannot be read, so that batches keep their
        size; in testing, it is left out.
        """
        images, targets = [], []
        unreadable: list[int] = []
        for row, index in enumerate(picks):
            found = self._sample(int(index), None if draws is None else draws[row], unreadable)
            if found is not None:
                images.append(found[0])
                targets.append(found[1])
        if not images and draws is not None:
            raise ModelError(f"{self.name(int(picks[0]))}: none of the images can be read")
        if not images:
            nothing = torch.zeros(0, len(self.normalization.mean) or 1, *self.extents)
            return Batch(nothing, torch.zeros(0), 0, (*unreadable,))
        x = self.normalization(torch.stack(images).numpy())
        return Batch(torch.from_numpy(x), torch.stack(targets), len(images), (*unreadable,))

    def _sample(
        self, index: int, draws: Draws | None, unreadable: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        for _ in range(len(self)):
            try:
                return self._seen(index, draws)
            except UnreadableError:
                unreadable.append(index)
                if draws is None:
                    return None
                index = (index + 1) % len(self)
        return None

    def _seen(self, index: int, draws: Draws | None) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(self.pictures[index].astype(np.float32) / 255)
        source = (image.shape[1], image.shape[2])
        if draws is not None and not self.augment.none:
            view = self.augment.view(source, self.extents, draws)
        elif self.middle is not None:
            view = center(source, self.extents, self.middle)
        else:
            view = whole(source)
        shown = color_jitter(resample(image, view, self.extents), view.gains)
        if draws is not None:
            shown = self.augment.last(shown, draws)
        return shown, self.targets.seen(index, view, source, self.extents)


class ItemSamples(Samples):
    """A torch dataset, `dataset[i] == (input, target)`, with its own augmentation.

    The generators of torch, numpy and Python are seeded for each training sample by its position
    in the run, as for the built-in augmentation.
    """

    def __init__(self, items: Any, label: str = "") -> None:
        self.items = items
        self.label = f"data '{label}'" if label else "the dataset"

    def __len__(self) -> int:
        with user_errors(self.label):
            return len(self.items)

    def fetch(self, picks: Picks, draws: Draws | None) -> Batch:
        """See `Samples`.

        Raises:
            UsageError: The dataset raises an exception.
            ModelError: A sample is not a pair, or samples have different shapes.
        """
        pairs = []
        with contextlib.nullcontext() if draws is None else preserved_random_state():
            for row, index in enumerate(picks):
                if draws is not None:
                    seed_all(int(draws[row, 0] * 2**32))
                pairs.append(self._pair(int(index)))
        inputs, targets = zip(*pairs, strict=True)
        return Batch(
            self._stacked("inputs", inputs), self._stacked("targets", targets), len(picks)
        )

    def _pair(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with user_errors(f"{self.label}, sample {index},"):
            pair = self.items[index]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ModelError(
                f"{self.label}: sample {index} is a {type(pair).__name__}; it must be a pair of "
                "an input and a target"
            )
        try:
            return torch.as_tensor(pair[0]), torch.as_tensor(pair[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{self.label}: sample {index} is not a tensor: {error}") from error

    def _stacked(self, what: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        shapes = dict.fromkeys(tuple(tensor.shape) for tensor in tensors)
        if len(shapes) > 1:
            first, other, *_ = ([*shape] for shape in shapes)
            raise ModelError(f"{self.label}: {what} are {first} and {other}; they must be alike")
        stacked = torch.stack([*tensors])
        whole = what == "targets" and not stacked.is_floating_point()
        return stacked.long() if whole else stacked
