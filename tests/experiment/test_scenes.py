"""Scenes of digits, and studies of data with masks or boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.experiment import ImageInput
from onnx_expand.experiment.paper import Job, datasets
from onnx_expand.experiment.scenes import digits_with_boxes, digits_with_masks
from tests.support.folders import segments, voc

_BACKGROUND = 10


def test_boxes_and_masks_are_of_the_same_digits() -> None:
    """Each box is the smallest around the pixels of its digit's class, and each digit has one."""
    size = (54, 48)
    boxed, marked = digits_with_boxes(size), digits_with_masks(size)
    assert len(boxed.train) == len(marked["x_train"]) > 400
    y = np.asarray(marked["y_train"])
    for scene in range(40):
        target = boxed.train.fetch(np.array([scene]), None).targets[0].numpy()
        boxes = target[target[:, 0] >= 0]
        left = y[scene] != _BACKGROUND
        for label, x0, y0, x1, y1, _ in boxes:
            rows = slice(round(y0 * size[0]), round(y1 * size[0]))
            columns = slice(round(x0 * size[1]), round(x1 * size[1]))
            ink = y[scene][rows, columns] == int(label)
            assert all(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))
            left[rows, columns] = False
        assert not left.any()
    with pytest.raises(UsageError, match="need 24 pixels"):
        digits_with_masks((20, 48))


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_held_out_samples_keep_their_masks_and_boxes(kind: str, tmp_path: Path) -> None:
    """The last fifth is held out, with its targets, and the first samples are used."""
    size, classes = (8, 10), 2
    if kind == "masks":
        segments(tmp_path / "d", 13)
    else:
        voc(tmp_path / "d", 13)
        for name, numbers in (("trainval", range(10)), ("test", range(10, 13))):
            listed = "".join(f"{number:06}\n" for number in numbers)
            (tmp_path / "d" / "ImageSets" / "Main" / f"{name}.txt").write_text(listed)
    images = ImageInput(3, size, classes if kind == "masks" else None)
    base = Job("smallnet", data=str(tmp_path / "d"))
    whole = datasets.data_of(base, images)
    held = datasets.data_of(replace(base, part="held-out"), images)
    some = datasets.data_of(replace(base, images=3), images)
    count = len(whole.train)
    assert len(held.train) + len(held.test) == count
    for part, places in ((held.test, range(count - count // 5, count)), (some.train, range(3))):
        assert len(part) == len(places)
        for new, was in enumerate(places):
            one, other = (
                samples.fetch(np.array([place]), None)
                for samples, place in ((part, new), (whole.train, was))
            )
            assert np.array_equal(one.inputs, other.inputs)
            assert np.array_equal(one.targets, other.targets)
    with pytest.raises(UnsupportedError, match="one class"):
        datasets.data_of(replace(base, noise=0.5), images)


def test_a_custom_dataset_is_not_reduced() -> None:
    """It is refused with advice, since its samples may depend on each other."""
    base = Job("smallnet", data="tests.experiment.test_scenes:_own", part="held-out")
    with pytest.raises(UnsupportedError, match="use all of it, and one rate"):
        datasets.data_of(base, ImageInput(1, (8, 8), 3))


def _own() -> Any:
    item = (np.zeros((1, 8, 8), np.float32), np.int64(0))
    return [item] * 6, [item] * 3
