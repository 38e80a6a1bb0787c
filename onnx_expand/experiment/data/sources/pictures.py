"""Image files: reading them, and finding out which cannot be read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.experiment.data.targets import Pictures, UnreadableError
from onnx_expand.recipes import DataOptions

__all__ = ["SUFFIXES", "decode", "gather", "images_in", "mode_of"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TRIED = 16
# 65535 / 255: what 16 bits are divided by to be 8.
_STEP = 257
_GIB = 2**30


def mode_of(channels: int, label: object) -> str:
    """Pillow's name for images of so many channels.

    Raises:
        UnsupportedError: Image files do not have so many.
    """
    if channels not in _MODES:
        raise UnsupportedError(
            f"{label}: image files have 1, 3 or 4 channels, the model takes {channels}"
        )
    return _MODES[channels]


def images_in(path: Path) -> list[Path]:
    """The image files in a directory, in order; hidden ones are some system's notes on others."""
    return sorted(
        file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )


def decode(path: Path, mode: str | None) -> npt.NDArray[np.uint8]:
    """An image file as [C, H, W].

    Args:
        path: The file.
        mode: Pillow's mode; None for a mask, whose numbers are taken as they are.

    Raises:
        UnreadableError: It is no image, or a damaged one.
        UnsupportedError: Pillow is not installed.
    """
    image_module = _pillow(path)
    try:
        with image_module.open(path) as image:
            # Numbers of a palette are classes; anything but one channel of bytes is no mask.
            if mode:
                array = np.asarray(_bytes(image, image_module, path).convert(mode))
            else:
                array = np.asarray(image.convert("L") if image.mode == "1" else image)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise UnreadableError(f"{path}: not an image, or a damaged one: {error}") from None
    if mode is None and (array.ndim != 2 or array.dtype != np.uint8):
        raise UnreadableError(
            f"{path}: not a mask: its pixels are {array.dtype} {list(array.shape[2:])}; wanted "
            "is one number from 0 to 255 for each"
        )
    array = array if array.ndim == 3 else array[:, :, None]
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _bytes(image: Any, image_module: Any, path: Path) -> Any:
    """An image whose pixels are bytes: Pillow would clip others at 255.

    Raises:
        UnreadableError: What its numbers mean as brightnesses is not known.
    """
    # Before some version Pillow called 16-bit PNG files 32-bit ones.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if deep:
        numbers = np.asarray(image).astype(np.int64)
        return image_module.fromarray(((numbers + _STEP // 2) // _STEP).astype(np.uint8))
    if image.mode in {"I", "F"}:
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise UnreadableError(
            f"{path}: its pixels are {kind}, of which no white is known; write 8 or 16 bits"
        )
    # A palette with transparency loses it by way of RGBA only without a warning.
    return image.convert("RGBA") if "transparency" in image.info else image


def gather(
    paths: Sequence[Path], mode: str | None, options: DataOptions
) -> tuple[Pictures, list[int], tuple[str, ...]]:
    """Image files without those that cannot be read, as far as that is known now.

    Few images are all read and stay in memory. Of many, only the first are tried, and the others
    when training comes to them, unless `strict` has them all read first.

    Args:
        paths: The files.
        mode: See `decode`.
        options: `strict` and `cache`.

    Returns:
        The images, the places of those in `paths`, and what is wrong with the others.

    Raises:
        ModelError: An image cannot be read, with `strict`.
    """
    reader = functools.partial(decode, mode=mode)
    tried = paths[:: max(1, len(paths) // _TRIED)][:_TRIED]
    sizes = [image.nbytes for path in tried if (image := _try(path, mode)) is not None]
    # Where none of them can be read all are tried, so that the reason is known.
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
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError(
            f"{path}: image files need Pillow: pip install 'onnx-expand[train]'"
        ) from error
    return Image
