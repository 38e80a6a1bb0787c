"""Write folders of images with masks or boxes for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")


def paint(path: Path, array: Any) -> None:
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def noise(*shape: int, seed: int = 0) -> Any:
    """Draw random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def segments(root: Path, count: int = 6) -> None:
    """Write images and masks that mark where the image is bright."""
    for number in range(count):
        image = noise(8, 10, 3, seed=number)
        paint(root / "images" / f"{number}.png", image)
        paint(root / "masks" / f"{number}.png", (image[..., 0] > 127).astype(np.uint8))


NOTE = """<annotation><object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin>
<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"""


def voc(root: Path, count: int = 6) -> Path:
    """Write images with one box each, in VOC's layout."""
    (root / "Annotations").mkdir(parents=True)
    for number in range(count):
        paint(root / "JPEGImages" / f"{number:06}.jpg", noise(20, 40, 3, seed=number))
        note = NOTE.format("dog", number % 2, 5, 3, 24, 12)
        (root / "Annotations" / f"{number:06}.xml").write_text(note)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("000000\n000001\n000002 1\n")
    (lists / "test.txt").write_text("000003\n000004\n")
    return root
