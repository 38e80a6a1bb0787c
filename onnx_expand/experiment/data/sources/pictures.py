"""Read image files, and find those that cannot be read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.experiment.data.targets import Pictures, UnreadableError
from onnx_expand.plugins import optional
from onnx_expand.recipes import DataOptions

__all__ = ["SUFFIXES", "decode", "gather", "images_in", "mode_of"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TRIED = 16
# 65535 / 255: the divisor that converts 16 bits to 8.
_STEP = 257
_GIB = 2**30


def mode_of(channels: int, label: object) -> str:
    """Return Pillow's name for images of this number of channels.

    Raises:
        UnsupportedError: Image files cannot have this number.
    """
    if channels not in _MODES:
        raise UnsupportedError(
            f"{label}: image files have 1, 3 or 4 channels, the model takes {channels}"
        )
    return _MODES[channels]


def images_in(path: Path) -> list[Path]:
    """List the image files in a directory in order, without hidden files of the system."""
    return sorted(
        file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )


def decode(path: Path, mode: str | None) -> npt.NDArray[np.uint8]:
    """Read an image file as [C, H, W].

    Args:
        path: The file.
        mode: Pillow's mode; None for a mask, whose values are kept.

    Raises:
        UnreadableError: It is not an image, or is damaged.
        UnsupportedError: Pillow is not installed.
    """
    image_module = _pillow(path)
    try:
        with image_module.open(path) as image:
            # Palette indices are classes; anything but one channel of bytes is not a mask.
            if mode:
                array = np.asarray(_bytes(image, image_module, path).convert(mode))
            else:
                array = np.asarray(image.convert("L") if image.mode == "1" else image)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise UnreadableError(f"{path}: not an image, or a damaged one: {error}") from None
    if mode is None and (array.ndim != 2 or array.dtype != np.uint8):
        raise UnreadableError(
            f"{path}: not a mask: its pixels are {array.dtype} {list(array.shape[2:])}; each "
            "must be one number from 0 to 255"
        )
    array = array if array.ndim == 3 else array[:, :, None]
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _bytes(image: Any, image_module: Any, path: Path) -> Any:
    """Convert an image to bytes; Pillow would clip larger values at 255.

    Raises:
        UnreadableError: The brightness that its values represent is unknown.
    """
    # Older versions of Pillow open 16-bit PNG files as 32-bit ones.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if deep:
        numbers = np.asarray(image).astype(np.int64)
        return image_module.fromarray(((numbers + _STEP // 2) // _STEP).astype(np.uint8))
    if image.mode in {"I", "F"}:
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise UnreadableError(
            f"{path}: its pixels are {kind}, of which no white is known; write 8 or 16 bits"
        )
    # A palette with transparency must be converted through RGBA to avoid a warning.
    return image.convert("RGBA") if "transparency" in image.info else image


def gather(
    paths: Sequence[Path], mode: str | None, options: DataOptions
) -> tuple[Pictures, list[int], tuple[str, ...]]:
    """Collect image files without those that cannot be read, as far as known now.

    Few images are all read and cached in memory. Of many, only a sample is read; the others are
    read in training, unless `strict` requires reading all of them first.

    Returns:
        The images, their indices in `paths`, and the errors of the others.

    Raises:
        ModelError: An image cannot be read, with `strict`.
    """
    reader = functools.partial(decode, mode=mode)
    tried = paths[:: max(1, len(paths) // _TRIED)][:_TRIED]
    sizes = [image.nbytes for path in tried if (image := _try(path, mode)) is not None]
    # If none of these can be read, all are tried, so that the reason is known.
    few = not sizes or float(np.mean(sizes)) * len(paths) <= options.cache * _GIB
    if not few and not options.strict:
        return Pictures(paths, reader), list(range(len(paths))), ()
    images: list[Any] = []
    places: list[int] = []
    problems: list[str] = []
    for place, path in enumerate(paths):
        try:
            image = reader(path)
        except UnreadableError as error:
            if options.strict:
                raise ModelError(str(error)) from None
            problems.append(str(error))
            continue
        places.append(place)
        if few:
            images.append(image)
    pictures = Pictures([paths[place] for place in places], reader, dict(enumerate(images)))
    return pictures, places, tuple(problems)


def _try(path: Path, mode: str | None) -> npt.NDArray[np.uint8] | None:
    try:
        return decode(path, mode)
    except UnreadableError:
        return None


def _pillow(path: Path) -> Any:
    return optional(
        "PIL.Image", f"{path}: image files need Pillow: pip install 'onnx-expand[train]'"
    )
