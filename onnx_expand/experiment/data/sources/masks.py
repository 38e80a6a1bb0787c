"""Images with masks whose pixel values are classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_expand.errors import ModelError
from onnx_expand.experiment.data.sources.base import Array, Request, SourceData, Subset
from onnx_expand.experiment.data.sources.pictures import gather, images_in, mode_of
from onnx_expand.experiment.data.targets import Masks

__all__ = ["is_masks", "masks"]

_TESTS = ("val", "test", "valid", "validation")
_EVERY = 5
_IGNORED = 255

# Cityscapes' 19 classes, and in the same order the ids in its published label images.
_CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_WANTED = (
    "it must contain images/ and masks/ with files of the same names, in train/ and val/ or not; "
    "or train/, trainannot/, val/ and valannot/ of such files; or leftImg8bit/ and gtFine/"
)

Pairs = list[tuple[Path, Path]]


def is_masks(path: Path) -> bool:
    """Return whether a directory has one of these layouts."""
    if (path / "leftImg8bit").is_dir() and (path / "gtFine").is_dir():
        return True
    if (path / "train").is_dir() and (path / "trainannot").is_dir():
        return True
    roots = (path, path / "train")
    return any((r / "images").is_dir() and (r / "masks").is_dir() for r in roots) or any(
        (path / "images" / part).is_dir() and (path / "masks" / part).is_dir()
        for part in ("train",)
    )


def masks(path: Path, request: Request) -> SourceData:
    """Load images and masks of the same name, or the published files of Cityscapes.

    Images are in `images/` and masks in `masks/`: both inside `train/` and `val/` (or `test/`), or
    with such sub-directories, or without; then every fifth pair is for testing. Alternatively they
    are in `train/` and `trainannot/`, `val/` and `valannot/`, the layout of CamVid in SegNet.

    Raises:
        ModelError: There are no pairs; with `strict`, an image has no mask.
    """
    table: Array | None = None
    names: tuple[str, ...] = ()
    if (path / "gtFine").is_dir():
        train, test, without = _cityscapes(path)
        table, names = _table(), _CITYSCAPES
    else:
        train, test, without = _pairs(path)
    if without and (request.options.strict or not (train and test)):
        raise ModelError(without[0])
    parts: list[Subset] = []
    left_out = list(without)
    for pairs in (train, test):
        part, problems = _part(pairs, path, request, table)
        parts.append(part)
        left_out += problems
    return SourceData(parts[0], parts[1], names, True, "segment", tuple(left_out))


def _part(
    pairs: Pairs, path: Path, request: Request, table: Array | None
) -> tuple[Subset, tuple[str, ...]]:
    options = request.options
    mode = mode_of(request.channels, path)
    # A pair is left out if either file cannot be read.
    _, places, problems = gather([mask for _, mask in pairs], None, options)
    pairs = [pairs[place] for place in places]
    images, places, more = gather([image for image, _ in pairs], mode, options)
    if not places:
        raise ModelError(f"{path}: no pair of image and mask can be read; {(*problems, *more)[0]}")
    marks, _, _ = gather([pairs[place][1] for place in places], None, options)
    ignore = options.ignore_label
    targets = Masks(marks, request.classes, ignore, table)
    fitting = []
    wrong = []
    for index in range(len(places)):
        if not marks.kept:
            fitting.append(index)  # of many masks, each is compared with its image in training
            continue
        targets.load(index)
        sizes = marks[index].shape[1:], images[index].shape[1:]
        if sizes[0] == sizes[1]:
            fitting.append(index)
        else:
            wrong.append(targets.mismatch(index, *sizes))
    if wrong and (options.strict or not fitting):
        raise ModelError(wrong[0])
    picks = np.asarray(fitting)
    return Subset(images.part(picks), targets.part(picks)), (*problems, *more, *wrong)


def _pairs(path: Path) -> tuple[Pairs, Pairs, list[str]]:
    for layout in ("{part}/{kind}", "{kind}/{part}", "{part}{note}"):
        found = []
        for part in ("train", *_TESTS):
            roots = [
                path / layout.format(part=part, kind=kind, note=note)
                for kind, note in (("images", ""), ("masks", "annot"))
            ]
            if all(root.is_dir() for root in roots):
                found.append(_match(*roots))
        if len(found) >= 2:
            (train, missing), (test, more) = found[:2]
            return train, test, missing + more
        if found:
            raise ModelError(f"{path}: has images and masks for train, but none for val or test")
    if not ((path / "images").is_dir() and (path / "masks").is_dir()):
        raise ModelError(f"{path}: {_WANTED}")
    pairs, missing = _match(path / "images", path / "masks")
    if len(pairs) + len(missing) < 2:
        raise ModelError(f"{path}: one pair of image and mask is too few for training and testing")
    test = pairs[_EVERY - 1 :: _EVERY] or pairs[-1:]
    return [pair for pair in pairs if pair not in test], test, missing


def _match(images: Path, labels: Path) -> tuple[Pairs, list[str]]:
    by_stem = {file.stem: file for file in images_in(labels)}
    files = images_in(images)
    if not files:
        raise ModelError(f"{images}: contains no images")
    pairs = [(file, by_stem[file.stem]) for file in files if file.stem in by_stem]
    missing = [
        f"{file}: has no mask of its name in {labels}"
        for file in files
        if file.stem not in by_stem
    ]
    return pairs, missing


def _cityscapes(path: Path) -> tuple[Pairs, Pairs, list[str]]:
    parts = []
    missing = []
    for part in ("train", "val"):
        pairs = []
        for image in sorted((path / "leftImg8bit" / part).glob("*/*_leftImg8bit.png")):
            stem = image.name.removesuffix("_leftImg8bit.png")
            mask = path / "gtFine" / part / image.parent.name / f"{stem}_gtFine_labelIds.png"
            if mask.is_file():
                pairs.append((image, mask))
            else:
                missing.append(f"{image}: has no {mask}")
        if not (pairs or missing):
            raise ModelError(f"{path / 'leftImg8bit' / part}: contains no images")
        parts.append(pairs)
    return parts[0], parts[1], missing


def _table() -> Array:
    table = np.full(256, _IGNORED, dtype=np.int64)
    table[list(_IDS)] = np.arange(len(_IDS))
    return table
