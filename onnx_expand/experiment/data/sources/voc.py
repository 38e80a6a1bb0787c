"""Images with boxes in the layout of PASCAL VOC."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import ModelError
from onnx_expand.experiment.data.sources.base import Request, SourceData, Subset
from onnx_expand.experiment.data.sources.pictures import SUFFIXES, gather, mode_of
from onnx_expand.experiment.data.targets import Boxes, UnreadableError

__all__ = ["VOC_CLASSES", "is_voc", "voc"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

_SPLITS = (("trainval", "test"), ("train", "val"), ("train", "test"))
_EVERY = 5

Objects = list[tuple[str, tuple[float, ...]]]


def is_voc(path: Path) -> bool:
    """Return whether a directory, or one inside it, has this layout."""
    return _root(path) is not None


def _root(path: Path) -> Path | None:
    inner = [path, *sorted(path.glob("*")), *sorted(path.glob("VOCdevkit/VOC*"))]
    return next(
        (p for p in inner if (p / "Annotations").is_dir() and (p / "JPEGImages").is_dir()), None
    )


def voc(path: Path, request: Request) -> SourceData:
    """Load `JPEGImages/`, `Annotations/` and, if present, lists in `ImageSets/Main/`.

    Boxes marked difficult are neither trained nor counted. A box without extent is left out and
    reported, and so is an image that is missing or whose annotation cannot be read.

    Raises:
        ModelError: There are no images with readable annotations, or, with `strict`, an
            image is missing, an annotation is unreadable or a box has no extent.
    """
    root = _root(path)
    if root is None:
        raise ModelError(
            f"{path}: has no JPEGImages/ and Annotations/, with N.jpg and N.xml for each image"
        )
    splits = _split(root)
    read = [_annotations(root, split, request) for split in splits]
    notes_of_all = [note for notes, _ in read for note in notes.values()]
    names = _names(notes_of_all, root, [problem for _, wrong in read for problem in wrong])
    parts: list[Subset] = []
    left_out: list[str] = []
    for notes, wrong in read:
        stems = [*notes]
        paths = [place for stem in stems if (place := _image(root, stem))]
        mode = mode_of(request.channels, root)
        images, places, problems = gather(paths, mode, request.options)
        if not places:
            raise ModelError(f"{root}: none of its images can be read; {[*wrong, *problems][0]}")
        boxes = Boxes([_boxes(notes[stems[place]], names) for place in places])
        parts.append(Subset(images, boxes))
        left_out += [*wrong, *problems]
    return SourceData(parts[0], parts[1], names, True, "detect", tuple(left_out))


def _annotations(
    root: Path, stems: list[str], request: Request
) -> tuple[dict[str, Objects], list[str]]:
    """Return the objects of each image that is there with its annotation, and all errors.

    Raises:
        ModelError: There is an error, with `strict`.
    """
    found: dict[str, Objects] = {}
    problems: list[str] = []
    for stem in stems:
        path = root / "Annotations" / f"{stem}.xml"
        try:
            objects = _annotation(path)
            if _image(root, stem) is None:
                raise UnreadableError(f"{root / 'JPEGImages' / stem}.jpg: no such image")
        except UnreadableError as error:
            problems.append(str(error))
            continue
        found[stem] = [item for item in objects if _sound(item)]
        problems += [
            f"{path}: the box of '{name}', {', '.join(f'{n:g}' for n in numbers[:4])}, has no "
            "extent"
            for name, numbers in objects
            if not _sound((name, numbers))
        ]
    if problems and request.options.strict:
        raise ModelError(problems[0])
    return found, problems


def _sound(item: tuple[str, tuple[float, ...]]) -> bool:
    """Return whether a box has an extent; its corners are inclusive pixels."""
    left, top, right, bottom = item[1][:4]
    return right >= left and bottom >= top and all(map(math.isfinite, item[1]))


def _split(root: Path) -> tuple[list[str], list[str]]:
    lists = root / "ImageSets" / "Main"
    for train, test in _SPLITS:
        files = [lists / f"{name}.txt" for name in (train, test)]
        if all(file.is_file() for file in files):
            first, second = (
                [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
                for file in files
            )
            if not first or not second:
                raise ModelError(f"{lists}: the list {test if first else train}.txt is empty")
            return first, second
    stems = sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
    if len(stems) < 2:
        raise ModelError(
            f"{root / 'Annotations'}: holds {len(stems)} annotations; that is too few"
        )
    test_stems = stems[_EVERY - 1 :: _EVERY] or stems[-1:]
    return [stem for stem in stems if stem not in set(test_stems)], test_stems


def _image(root: Path, stem: str) -> Path | None:
    for suffix in (".jpg", ".JPG", *sorted(SUFFIXES)):
        path = root / "JPEGImages" / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None


def _annotation(path: Path) -> Objects:
    """Return the objects of one image: name, corners and difficulty.

    Raises:
        UnreadableError: The file is missing or is not an annotation.
    """
    try:
        tree = ElementTree.parse(path)
        objects = []
        for item in tree.iter("object"):
            name = (item.findtext("name") or "").strip()
            corners = [float(item.findtext(f"bndbox/{k}") or "") for k in _CORNERS]
            objects.append((name, (*corners, float(item.findtext("difficult") or 0))))
    except FileNotFoundError:
        raise UnreadableError(f"{path}: no such annotation") from None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UnreadableError(f"{path}: not an annotation of VOC: {error}") from None
    return objects


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _names(notes: list[Objects], root: Path, problems: list[str]) -> tuple[str, ...]:
    found = {name for objects in notes for name, _ in objects}
    if not found:
        reason = f"; {problems[0]}" if problems else ""
        raise ModelError(f"{root}: no annotation has an object{reason}")
    return VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))


def _boxes(objects: Objects, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    rows = [(names.index(name), *numbers) for name, numbers in objects]
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 6)
    # VOC counts pixels from 1 and includes the last one.
    boxes[:, 1:3] -= 1
    return boxes
