"""A directory of image files for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnx_expand.errors import ModelError
from onnx_expand.experiment.data.sources.base import (
    Request,
    SourceData,
    Subset,
    every_fifth,
)
from onnx_expand.experiment.data.sources.pictures import gather, images_in, mode_of
from onnx_expand.experiment.data.targets import Labels, Pictures

__all__ = ["folder"]

_TESTS = ("test", "val", "valid", "validation")
_WANTED = (
    "classes are CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg; masks are "
    "train/images/N.jpg and train/masks/N.png, with val/ or test/ beside train/; boxes are "
    "JPEGImages/N.jpg and Annotations/N.xml"
)


def folder(path: Path, request: Request) -> SourceData:
    """Load sub-directories that are classes, or `train/` and `test/` (or `val/`) with such.

    Raises:
        ModelError: There are no classes, or a class has no images.
        UnsupportedError: Pillow is not installed, or does not support this number of channels.
    """
    if not (path / "train").is_dir():
        names = _classes(path)
        part, left_out = _read(path, names, names, request)
        x, y = part.x, part.y
        assert isinstance(x, Pictures)
        assert isinstance(y, Labels)
        test = every_fifth(y.values)
        places = (np.flatnonzero(mask) for mask in (~test, test))
        train, held = (Subset(x.part(picks), y.part(picks)) for picks in places)
        return SourceData(train, held, names, True, left_out=left_out)
    tests = [path / name for name in _TESTS if (path / name).is_dir()]
    if not tests:
        raise ModelError(f"{path}: has train/, but neither test/ nor val/; {_WANTED}")
    names = _classes(path / "train")
    present = _classes(tests[0])
    unknown = sorted(set(present) - set(names))
    if unknown:
        raise ModelError(f"{tests[0] / unknown[0]}: no such class in {path / 'train'}")
    train, left_out = _read(path / "train", names, names, request)
    held, more = _read(tests[0], present, names, request)
    return SourceData(train, held, names, True, left_out=left_out + more)


def _classes(path: Path) -> tuple[str, ...]:
    names = tuple(sorted(d.name for d in path.iterdir() if d.is_dir() and d.name[0] != "."))
    if not names:
        raise ModelError(f"{path}: has no directories of classes; {_WANTED}")
    return names


def _read(
    path: Path, present: Sequence[str], names: Sequence[str], request: Request
) -> tuple[Subset, tuple[str, ...]]:
    """Load the images of some classes, labelled by their index among all names."""
    paths: list[Path] = []
    labels: list[int] = []
    for name in present:
        files = images_in(path / name)
        if not files:
            raise ModelError(f"{path / name}: contains no images; {_WANTED}")
        paths += files
        labels += [names.index(name)] * len(files)
    pictures, places, problems = gather(paths, mode_of(request.channels, path), request.options)
    values = np.array(labels, dtype=np.int64)[places]
    for name in present:
        if names.index(name) not in values:
            broken = next(p for p in problems if str(path / name) in p)
            raise ModelError(f"{path / name}: none of its images can be read; {broken}")
    return Subset(pictures, Labels(values)), problems
