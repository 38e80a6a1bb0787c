"""Where labelled images come from: scikit-learn's digits, a directory, an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import ModelError, UnsupportedError

__all__ = ["Raw", "digits", "folder", "npz"]

Array: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = "tuple[int | None, int | None]"

_EVERY = 5
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Raw:
    """Images as a source has them.

    Attributes:
        x_train: Training images, [N, C, H, W].
        y_train: Their labels, [N].
        x_test: Test images.
        y_test: Their labels.
        classes: The labels' names.
        pixels: Whether the numbers are brightnesses, which want normalising.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    classes: tuple[str, ...]
    pixels: bool


def digits(size: Size) -> Raw:
    """Handwritten digits of 8x8 pixels, enlarged bilinearly to a size."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UnsupportedError(
            "the digits need scikit-learn: pip install 'onnx-expand[train]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 16).to(torch.float32)
    target = [size[0] or 8, size[1] or 8]
    if target != [8, 8]:
        x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    return _split(x.numpy(), labels.astype(np.int64), tuple("0123456789"), pixels=True)


def folder(path: Path, channels: int, size: Size) -> Raw:
    """Image files in one directory for each class.

    Raises:
        ModelError: There are no classes, a class has no images, or a file is no image.
        UnsupportedError: Pillow is not installed, or has no images of so many channels.
    """
    if channels not in _MODES:
        raise UnsupportedError(
            f"{path}: image files have 1, 3 or 4 channels, the model takes {channels}"
        )
    if not (path / "train").is_dir():
        names = _classes(path)
        x, y, _ = _read(path, names, channels, size)
        return _split(x, y, names, pixels=True)
    tests = [path / name for name in ("test", "val") if (path / name).is_dir()]
    if not tests:
        raise ModelError(f"{path}: has train/, but neither test/ nor val/")
    names = _classes(path / "train")
    unknown = sorted(set(_classes(tests[0])) - set(names))
    if unknown:
        raise ModelError(f"{tests[0] / unknown[0]}: no such class in {path / 'train'}")
    x, y, own = _read(path / "train", names, channels, size)
    present = [name for name in names if (tests[0] / name).is_dir()]
    x_test, y_test, _ = _read(tests[0], present, channels, own)
    places = np.array([names.index(name) for name in present], dtype=np.int64)
    return Raw(x, y, x_test, places[y_test], names, pixels=True)


def npz(path: Path) -> Raw:
    """Arrays `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`.

    Raises:
        ModelError: The file is no .npz, has other arrays, or arrays of the wrong shape or type.
    """
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ModelError(f"{path}: not an .npz file; write it with numpy.savez")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not an .npz file of plain arrays: {error}") from None
    if {"x", "y"} <= arrays.keys():
        x, y = _pair(arrays, "x", "y", path)
        raw = _split(*_scaled(x, y), _numbered(y), pixels=x.dtype.kind in "iu")
    elif {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        x, y = _pair(arrays, "x_train", "y_train", path)
        x_test, y_test = _pair(arrays, "x_test", "y_test", path)
        names = _numbered(np.concatenate([y, y_test]))
        raw = Raw(*_scaled(x, y), *_scaled(x_test, y_test), names, x.dtype.kind in "iu")
    else:
        raise ModelError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; wanted are x and y, or "
            "x_train, y_train, x_test and y_test"
        )
    return raw


def _pair(arrays: dict[str, Array], images: str, labels: str, path: Path) -> tuple[Array, Array]:
    x, y = arrays[images], arrays[labels]
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.size == 0 or x.dtype.kind not in "fiu":
        raise ModelError(
            f"{path}: '{images}' is {x.dtype} {list(x.shape)}; wanted are numbers [N, C, H, W] "
            "or [N, H, W]"
        )
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise ModelError(
            f"{path}: '{labels}' is {y.dtype} {list(y.shape)}; wanted are integers [{len(x)}]"
        )
    if not np.isfinite(x).all():
        raise ModelError(f"{path}: '{images}' holds NaN or infinity")
    return x, y


def _scaled(x: Array, y: Array) -> tuple[Array, Array]:
    return (x / 255 if x.dtype.kind in "iu" else x).astype(np.float32), y.astype(np.int64)


def _numbered(labels: Array) -> tuple[str, ...]:
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))


def _split(x: Array, y: Array, classes: tuple[str, ...], *, pixels: bool) -> Raw:
    """Every fifth image of each class is for testing; of fewer than five, the last."""
    test = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        places = np.flatnonzero(y == label)
        chosen = places[_EVERY - 1 :: _EVERY]
        test[chosen if len(chosen) else places[1:][-1:]] = True
    return Raw(x[~test], y[~test], x[test], y[test], classes, pixels)


def _classes(path: Path) -> tuple[str, ...]:
    names = tuple(sorted(d.name for d in path.iterdir() if d.is_dir() and d.name[0] != "."))
    if not names:
        raise ModelError(f"{path}: has no sub-directories, of which each is one class")
    return names


def _read(
    path: Path, classes: Sequence[str], channels: int, size: Size
) -> tuple[Array, Array, tuple[int, int]]:
    """All images of some classes, their labels, and their common height and width."""
    images: list[Array] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(f for f in (path / name).iterdir() if f.suffix.lower() in _SUFFIXES)
        if not files:
            raise ModelError(f"{path / name}: holds no images")
        for file in files:
            image = _image(file, _MODES[channels], size)
            if not images:
                # Where the model takes any size, the first image decides.
                size = (image.shape[0], image.shape[1])
            images.append(image)
            labels.append(label)
    stack = np.stack(images).reshape(len(images), *images[0].shape[:2], channels)
    x = stack.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return x, np.array(labels, dtype=np.int64), (x.shape[2], x.shape[3])


def _image(file: Path, mode: str, size: Size) -> Array:
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError("images need Pillow: pip install 'onnx-expand[train]'") from error
    try:
        with Image.open(file) as image:
            plain = image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise ModelError(f"{file}: not an image, or a damaged one: {error}") from None
    target = (size[1] or plain.width, size[0] or plain.height)
    if plain.size != target:
        plain = plain.resize(target, Image.Resampling.BILINEAR)
    return np.asarray(plain)
