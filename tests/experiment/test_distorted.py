"""Distorted digits have the documented properties for any size and number of copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from onnx_expand.errors import UsageError
from onnx_expand.experiment import distorted, load_data
from onnx_expand.experiment.distorted import distorted_digits


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 2))
def test_shapes_and_labels_follow_the_request(height: int, width: int, copies: int) -> None:
    """Every digit has the requested copies in its part, one after the other."""
    data = distorted_digits((height, width), copies=(copies, 1))
    assert data["x_train"].shape == (1442 * copies, 1, height, width)
    assert data["x_test"].shape == (355, 1, height, width)
    labels = data["y_train"].reshape(-1, copies)
    assert (labels == labels[:, :1]).all()
    assert data["x_train"].dtype == np.uint8


def test_a_seed_gives_the_same_images() -> None:
    """Equal seeds give equal images, another seed gives others."""
    first, again, other = (distorted_digits((8, 8), copies=(1, 1), seed=s) for s in (1, 1, 2))
    assert (first["x_train"] == again["x_train"]).all()
    assert (first["x_train"] != other["x_train"]).any()


def test_without_distortion_the_digits_are_those_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No rotation, factor 1 and no shift sample the digits at pixel centers."""
    from sklearn.datasets import load_digits

    for name, value in (("_ROTATION", 0.0), ("_FACTOR", 1.0), ("_SHIFT", 0.0)):
        monkeypatch.setattr(distorted, name, value)
    found = distorted_digits((8, 8), copies=(1, 1))
    every = load_digits().images
    assert len(found["x_test"]) + len(found["x_train"]) == len(every)
    wanted = {np.rint(255 * image / 16).astype(np.uint8).tobytes() for image in every}
    both = np.concatenate([found["x_train"], found["x_test"]])
    assert {image[0].tobytes() for image in both} == wanted


def test_they_are_data_for_training() -> None:
    """The documented name loads them at the model's size."""
    spec = "onnx_expand.experiment.distorted:distorted_digits"
    data = load_data(spec, channels=3, size=(8, 8), classes=10)
    assert data.train.fetch(np.arange(2), None).inputs.shape == (2, 3, 8, 8)
    assert len(data.test) == 5 * 355


def test_invalid_numbers_are_refused() -> None:
    """Zero copies, and images without pixels."""
    with pytest.raises(UsageError, match="must be at least 1"):
        distorted_digits((0, -1))
    with pytest.raises(UsageError, match="must be at least 1"):
        distorted_digits(copies=(0, 1))
