"""Random augmentation has the stated effects on images, masks and boxes alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from onnx_expand.errors import UsageError  # noqa: E402
from onnx_expand.experiment.data.augment import (  # noqa: E402
    DRAWS,
    Augment,
    ImageView,
    boxes_seen,
    center,
    color_jitter,
    resample,
    shift,
    whole,
)
from onnx_expand.experiment.data.samples import ArraySamples, Normalization  # noqa: E402


def draws(count: int, seed: int) -> Any:
    """Draw random numbers for some samples."""
    return np.random.default_rng(seed).random((count, DRAWS))


@given(seed=st.integers(0, 1000), pad=st.integers(0, 3), flip=st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_batch_is_shifted_as_each_image_is(seed: int, pad: int, flip: bool) -> None:
    """The fast path for batches equals the general one bit by bit."""
    x = np.random.default_rng(seed).integers(0, 256, (4, 2, 5, 7)).astype(np.float32)
    augment, rows = Augment(flip=flip, pad=pad), draws(4, seed)
    together = shift(x, augment, rows)
    for image, row, result in zip(torch.from_numpy(x), rows, together, strict=True):
        view = augment.view((5, 7), (5, 7), row)
        np.testing.assert_array_equal(resample(image, view, (5, 7)).numpy(), result)


@given(
    seed=st.integers(0, 10_000),
    source=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    target=st.tuples(st.integers(2, 24), st.integers(2, 24)),
    names=st.lists(
        st.sampled_from(["flip", "crop:2", "resized-crop", "resized-crop:0.5", "zoom:0.5:2"]),
        max_size=3, unique=True,
    ),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_box_stays_where_its_object_is(
    seed: int, source: tuple[int, int], target: tuple[int, int], names: list[str]
) -> None:
    """A bright object in an image, its mask and its box move to the same position."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, source[0] - 1), rng.integers(0, source[1] - 1)
    bottom, right = rng.integers(top + 1, source[0] + 1), rng.integers(left + 1, source[1] + 1)
    mask = torch.zeros(1, *source, dtype=torch.int64)
    mask[0, top:bottom, left:right] = 1
    view = Augment.parse(names).view(source, target, draws(1, seed)[0])
    seen = resample(mask, view, target, fill=9)
    assert seen.shape == (1, *target)
    boxes = boxes_seen(np.array([[3.0, left, top, right, bottom]]), view)
    rows, columns = np.nonzero(seen[0].numpy() == 1)
    if not len(boxes):
        return
    label, x0, y0, x1, y1 = boxes[0]
    assert label == 3
    # A pixel of the source, and one of the result, may be on either side.
    slack_x = 1 / target[1] + 1.5 / view.width
    slack_y = 1 / target[0] + 1.5 / view.height
    if len(rows):
        assert abs(columns.min() / target[1] - x0) <= slack_x
        assert abs((columns.max() + 1) / target[1] - x1) <= slack_x
        assert abs(rows.min() / target[0] - y0) <= slack_y
        assert abs((rows.max() + 1) / target[0] - y1) <= slack_y
    else:
        assert (x1 - x0) <= slack_x or (y1 - y0) <= slack_y


@given(seed=st.integers(0, 1000), height=st.integers(3, 60), width=st.integers(3, 60))
@settings(max_examples=100, deadline=None)
def test_parts_lie_inside_and_are_large_enough(seed: int, height: int, width: int) -> None:
    """A resized crop is inside the image, and has at least the requested area."""
    view = Augment(area=0.3).view((height, width), (8, 8), draws(1, seed)[0])
    assert view.top >= 0
    assert view.left >= 0
    assert view.top + view.height <= height + 1e-9
    assert view.left + view.width <= width + 1e-9
    share = view.height * view.width / (height * width)
    fits = 3 / 4 <= width / height <= 4 / 3
    assert share >= 0.3 - 1e-9 or not fits


def test_the_middle_keeps_the_aspect() -> None:
    """A center crop is the largest window of the model's aspect ratio, times the share."""
    view = center((100, 200), (50, 50), 0.8)
    assert view == ImageView(10, 60, 80, 80)
    assert whole((3, 4)) == ImageView(0, 0, 3, 4)


def test_masks_are_never_mixed() -> None:
    """Outside the image, a mask has the ignored label; inside, only its own labels."""
    mask = torch.tensor([[[0, 5], [5, 0]]])
    seen = resample(mask, ImageView(-1, -1, 4, 4), (7, 9), fill=255)
    assert set(seen.flatten().tolist()) == {0, 5, 255}
    image = resample(torch.ones(1, 2, 2), ImageView(-2, 0, 4, 2), (4, 2))
    assert image[0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_colours_change_by_their_gains() -> None:
    """Brightness scales, contrast preserves the mean, saturation 0 gives gray."""
    image = torch.rand(3, 4, 4) * 0.4 + 0.2
    torch.testing.assert_close(color_jitter(image, (1.5, 1, 1)), image * 1.5)
    grey = color_jitter(image, (1, 1, 0))
    torch.testing.assert_close(grey[0], grey[1])
    flat = color_jitter(image, (1, 0, 1))
    assert float(flat.std()) < 1e-6
    assert torch.equal(color_jitter(image, (1, 1, 1)), image)


def test_augmentation_depends_on_a_samples_numbers_only() -> None:
    """Reader and batch do not change the augmentation of a sample."""
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    for names in (["flip", "crop:2"], ["resized-crop", "jitter:0.4"]):
        samples = ArraySamples(
            x, np.arange(6), Normalization((0.5,) * 3, (0.2,) * 3), Augment.parse(names)
        )
        rows = draws(6, 1)
        together = samples.fetch(np.arange(6), rows).inputs
        for index in range(6):
            alone = samples.fetch(np.array([index]), rows[index : index + 1]).inputs[0]
            torch.testing.assert_close(alone, together[index])
        assert not torch.equal(together, samples.fetch(np.arange(6), draws(6, 2)).inputs)
        plain = samples.fetch(np.arange(6), None).inputs
        torch.testing.assert_close(plain * 0.2 + 0.5, torch.from_numpy(x).float() / 255)


@pytest.mark.parametrize(
    "name",
    ["mirror", "crop", "crop:0", "crop:x", "crop:1.5", "resized-crop:0", "zoom:1", "zoom:2:1",
     "jitter:2", "flip:1", ""],
)  # fmt: skip
def test_unknown_changes_are_refused(name: str) -> None:
    """The error names the given change and the known ones."""
    with pytest.raises(UsageError, match=r"augment '.*' is none of flip|is not a number"):
        Augment.parse([name])
