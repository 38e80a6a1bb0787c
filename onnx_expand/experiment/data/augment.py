"""Random augmentation, as pure functions of an image and a row of random numbers.

Every geometric change is a window: a rectangle of the source, possibly extending beyond it, that
is resized to the model's extents and possibly mirrored. One description thus transforms images,
masks and boxes alike. The random numbers make a run repeatable, whichever process reads the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UsageError

__all__ = [
    "DRAWS",
    "Augment",
    "ImageView",
    "boxes_seen",
    "center",
    "color_jitter",
    "resample",
    "shift",
    "whole",
]

# The number of random numbers per sample, and the purpose of each.
DRAWS = 24
_FLIP, _DOWN, _RIGHT, _ZOOM, _GAINS, _PART, _OWN = 0, 1, 2, 3, slice(4, 7), 7, 23
_RATIO = (3 / 4, 4 / 3)
_AREA = 0.08
_ATTEMPTS = 4
# Luma coefficients of red, green and blue, ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ImageView:
    """How one image is transformed.

    Attributes:
        top: The window's first row in the source; may be negative.
        left: The window's first column.
        height: The window's height, in source pixels.
        width: The window's width, in source pixels.
        flip: Whether it is mirrored left to right.
        gains: Factors of brightness, contrast and saturation.
    """

    top: float
    left: float
    height: float
    width: float
    flip: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)


def whole(source: tuple[int, int]) -> ImageView:
    """Return the view of a whole image."""
    return ImageView(0, 0, source[0], source[1])


def center(source: tuple[int, int], target: tuple[int, int], share: float) -> ImageView:
    """Return the centered view: a share of the largest window with the target's aspect ratio."""
    scale = share * min(source[0] / target[0], source[1] / target[1])
    height, width = target[0] * scale, target[1] * scale
    return ImageView((source[0] - height) / 2, (source[1] - width) / 2, height, width)


@dataclass(frozen=True)
class Augment:
    """The random changes of training images; the default is none.

    Attributes:
        flip: Mirror half of the images left to right.
        pad: Shift by up to this many pixels of the result, filling with zeros.
        area: Crop a part of at least this share of the area, with an aspect ratio of 3/4 to 4/3.
        zoom: Enlarge by a factor between these two; a factor below 1 pads with zeros.
        jitter: Change brightness, contrast and saturation by up to this share.
        own: A user's function of the resized image and a random number in [0, 1).
    """

    flip: bool = False
    pad: int = 0
    area: float | None = None
    zoom: tuple[float, float] | None = None
    jitter: float = 0.0
    own: Callable[[torch.Tensor, float], torch.Tensor] | None = None

    @classmethod
    def parse(cls, names: Sequence[str]) -> Augment:
        """Parse descriptions such as `flip`, `crop:4`, `resized-crop:0.08`.

        Raises:
            UsageError: A description is unknown, or its numbers are invalid.
        """
        found: dict[str, Any] = {}
        for text in names:
            name, *rest = text.strip().split(":")
            try:
                numbers = [float(part) for part in rest]
            except ValueError:
                raise UsageError(f"augment '{text}': '{':'.join(rest)}' is not a number") from None
            found.update(_parse(text, name, numbers))
        return cls(**found)

    @property
    def none(self) -> bool:
        """Whether images are unchanged."""
        return self == Augment()

    @property
    def shifts_only(self) -> bool:
        """Whether no image is resampled, recolored or changed by a user's function."""
        plain = self.area is None and self.zoom is None and not self.jitter
        return plain and self.own is None

    def last(self, image: torch.Tensor, draws: npt.NDArray[np.float64]) -> torch.Tensor:
        """Apply the user's function, if there is one, to an image [C, H, W]."""
        return image if self.own is None else self.own(image, float(draws[_OWN]))

    def view(
        self, source: tuple[int, int], target: tuple[int, int], draws: npt.NDArray[np.float64]
    ) -> ImageView:
        """Return the view of one image.

        Args:
            source: The image's height and width.
            target: The height and width of the result.
            draws: `DRAWS` numbers in [0, 1).
        """
        view = whole(source)
        if self.area is not None:
            view = self._part(source, draws[_PART:])
        if self.zoom is not None:
            low, high = self.zoom
            factor = low * (high / low) ** draws[_ZOOM]
            height, width = view.height / factor, view.width / factor
            top = view.top + (view.height - height) * draws[_DOWN]
            left = view.left + (view.width - width) * draws[_RIGHT]
            view = ImageView(top, left, height, width)
        if self.pad:
            span = 2 * self.pad + 1
            down, right = int(draws[_DOWN] * span) - self.pad, int(draws[_RIGHT] * span) - self.pad
            top = view.top + down * view.height / target[0]
            left = view.left + right * view.width / target[1]
            view = ImageView(top, left, view.height, view.width)
        gains = tuple(1 + self.jitter * (2 * float(d) - 1) for d in draws[_GAINS])
        flip = self.flip and bool(draws[_FLIP] < 0.5)
        return ImageView(view.top, view.left, view.height, view.width, flip, (*gains,))  # type: ignore[arg-type]

    def _part(self, source: tuple[int, int], draws: npt.NDArray[np.float64]) -> ImageView:
        """Return a random part of the image, or the largest of a valid aspect if none fits."""
        height, width = source
        assert self.area is not None
        for attempt in range(_ATTEMPTS):
            u, v, down, right = draws[4 * attempt : 4 * attempt + 4]
            area = height * width * (self.area + (1 - self.area) * u)
            aspect = math.exp(math.log(_RATIO[0]) + v * math.log(_RATIO[1] / _RATIO[0]))
            part = (math.sqrt(area / aspect), math.sqrt(area * aspect))
            if part[0] <= height and part[1] <= width:
                top, left = (height - part[0]) * down, (width - part[1]) * right
                return ImageView(float(top), float(left), part[0], part[1])
        aspect = min(max(width / height, _RATIO[0]), _RATIO[1])
        rows, columns = min(height, width / aspect), min(width, height * aspect)
        return ImageView((height - rows) / 2, (width - columns) / 2, rows, columns)


def _parse(text: str, name: str, numbers: list[float]) -> dict[str, Any]:
    """Parse one description to fields of `Augment`."""
    if name == "flip" and not numbers:
        return {"flip": True}
    if name == "crop" and len(numbers) == 1 and numbers[0] >= 1 and numbers[0] == int(numbers[0]):
        return {"pad": int(numbers[0])}
    if name == "resized-crop" and len(numbers) <= 1 and all(0 < n <= 1 for n in numbers):
        return {"area": numbers[0] if numbers else _AREA}
    if name == "zoom" and len(numbers) == 2 and 0 < numbers[0] <= numbers[1] < math.inf:
        return {"zoom": (numbers[0], numbers[1])}
    if name == "jitter" and len(numbers) == 1 and 0 <= numbers[0] <= 1:
        return {"jitter": numbers[0]}
    raise UsageError(
        f"augment '{text}' is none of flip, crop:P, resized-crop[:AREA], zoom:A:B, jitter:S"
    )


def resample(
    image: torch.Tensor, view: ImageView, target: tuple[int, int], *, fill: float | None = None
) -> torch.Tensor:
    """Resample a view of an image to the target's extents.

    Args:
        image: [C, H, W]; floating-point brightnesses, or a mask of integers.
        view: The view.
        target: Height and width of the result.
        fill: For a mask, the label beyond the border; masks use the nearest pixel. None for an
            image, which is filled with zeros and interpolated with antialiasing.
    """
    top, left = round(view.top), round(view.left)
    # The window has whole pixels, so that the content does not depend on the interpolation's
    # phase.
    height = max(1, round(view.top + view.height) - top)
    width = max(1, round(view.left + view.width) - left)
    part = _window(image, top, left, height, width, 0 if fill is None else fill)
    if (height, width) != target:
        if fill is None:
            part = F.interpolate(
                part[None], size=target, mode="bilinear", align_corners=False, antialias=True
            )[0]
        else:
            part = F.interpolate(part[None].double(), size=target, mode="nearest-exact")[0]
            part = part.to(image.dtype)
    return part.flip(-1) if view.flip else part


def _window(
    image: torch.Tensor, top: int, left: int, height: int, width: int, fill: float
) -> torch.Tensor:
    rows, columns = image.shape[-2:]
    inner = image[..., max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    pads = (
        min(max(-left, 0), width), min(max(left + width - columns, 0), width),
        min(max(-top, 0), height), min(max(top + height - rows, 0), height),
    )  # fmt: skip
    return F.pad(inner, pads, value=fill) if any(pads) else inner


def color_jitter(image: torch.Tensor, gains: tuple[float, float, float]) -> torch.Tensor:
    """Change brightness, contrast and saturation of an image [C, H, W] in [0, 1]."""
    bright, contrast, saturation = gains
    if bright != 1:
        image = (image * bright).clamp(0, 1)
    if image.shape[0] == 3:
        grey = (image * image.new_tensor(_LUMA)[:, None, None]).sum(0, keepdim=True)
    else:
        grey = image.mean(0, keepdim=True)
    if contrast != 1:
        mean = grey.mean()
        image, grey = ((i - mean) * contrast + mean for i in (image, grey))
        image = image.clamp(0, 1)
    if saturation != 1 and image.shape[0] == 3:
        image = ((image - grey) * saturation + grey).clamp(0, 1)
    return image


def shift(
    images: npt.NDArray[Any],
    augment: Augment,
    draws: npt.NDArray[np.float64],
    *,
    fill: float = 0,
) -> npt.NDArray[Any]:
    """Shift and mirror a batch [N, C, H, W], with the same result as `view` and `resample`."""
    count, _, height, width = images.shape
    rows = np.tile(np.arange(height), (count, 1))
    columns = np.tile(np.arange(width), (count, 1))
    if augment.flip:
        mirrored = draws[:, _FLIP] < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    if augment.pad:
        pad, span = augment.pad, 2 * augment.pad + 1
        images = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
        rows += (draws[:, _DOWN] * span).astype(np.int64)[:, None]
        columns += (draws[:, _RIGHT] * span).astype(np.int64)[:, None]
    picks = np.arange(count)[:, None, None]
    # Separated index arrays put their axes first: [N, H, W, C].
    seen: npt.NDArray[Any] = images[picks, :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(seen.transpose(0, 3, 1, 2))


def boxes_seen(boxes: npt.NDArray[np.float64], view: ImageView) -> npt.NDArray[np.float64]:
    """Return the boxes in a view, as shares of it, without those whose center lies outside.

    Args:
        boxes: [N, 5]: label, left, top, right, bottom, in source pixels.
        view: The view.

    Returns:
        [M, 5]: label, then the corners from 0 to 1.
    """
    corners = boxes[:, 1:] - [view.left, view.top, view.left, view.top]
    corners = corners / [view.width, view.height, view.width, view.height]
    if view.flip:
        corners = np.stack(
            [1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], axis=1
        )
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    inside = ((middle > 0) & (middle < 1)).all(axis=1)
    clipped = corners.clip(0, 1)
    inside &= ((clipped[:, 2:] - clipped[:, :2]) > 0).all(axis=1)
    seen: npt.NDArray[np.float64] = np.concatenate([boxes[:, :1], clipped], axis=1)[inside]
    return seen
