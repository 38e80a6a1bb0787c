"""Data has the model's shape, or is refused with one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.experiment import DataOptions, image_input, load_data
from tests.support.torch_graphs import parse


def write(path: Path, **arrays: Any) -> Path:
    """Write an .npz file."""
    np.savez(path, **arrays)
    return path


def paint(folder: Path, count: int, shade: int, size: tuple[int, int] = (6, 6)) -> None:
    """Write a directory of plain images."""
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True)
    for index in range(count):
        image.new("RGB", size, (shade, index, 0)).save(folder / f"{index}.png")


def test_digits_have_the_shape_of_the_model() -> None:
    """Digits are enlarged, repeated over channels, normalized, and split reproducibly."""
    pytest.importorskip("sklearn")
    data = load_data("digits", channels=3, size=(12, 16), classes=10)
    assert data.x_train.shape == (1442, 3, 12, 16)
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert abs(float(data.x_train.mean())) < 1e-3
    assert float(data.x_train.std()) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(data.x_train[:, 0], data.x_train[:, 2])
    assert set(np.bincount(data.y_test)) <= {34, 35, 36}
    again = load_data("digits", channels=3, size=(12, 16), classes=10)
    assert np.array_equal(data.x_test, again.x_test)
    assert "1,442 training and 355 test images of 3x12x16" in data.description
    assert load_data("digits", channels=1).x_train.shape[1:] == (1, 8, 8)


def test_digits_need_ten_classes() -> None:
    """A model of fewer classes is refused."""
    pytest.importorskip("sklearn")
    with pytest.raises(ModelError, match=r"label 9 is not in 0\.\.4"):
        load_data("digits", channels=1, classes=5)


def test_a_folder_has_a_class_for_each_sub_directory(tmp_path: Path) -> None:
    """Images are resized, and one fifth of each class is for testing."""
    paint(tmp_path / "cat", 10, 0)
    paint(tmp_path / "dog", 5, 255, (9, 4))
    data = load_data(tmp_path, channels=3, size=(8, 7))
    assert data.classes == ("cat", "dog")
    assert data.x_train.shape == (12, 3, 8, 7)
    assert data.y_test.tolist() == [0, 0, 1]
    assert load_data(tmp_path, channels=1).x_train.shape == (12, 1, 6, 6)


def test_hidden_files_are_not_images(tmp_path: Path) -> None:
    """Some systems write files of the same name with metadata beside each file."""
    for label in "ab":
        paint(tmp_path / label, 3, 0)
        (tmp_path / label / "._0.png").write_bytes(b"notes")
    data = load_data(tmp_path, channels=3, options=DataOptions(strict=True))
    assert len(data.train) + len(data.test) == 6


def test_a_folder_may_contain_test_data(tmp_path: Path) -> None:
    """With train/ and val/, these are the two parts."""
    for part, count in (("train", 4), ("val", 2)):
        paint(tmp_path / part / "a", count, 0)
        paint(tmp_path / part / "b", count, 255)
    data = load_data(tmp_path, channels=3)
    assert (len(data.y_train), data.y_test.tolist()) == (8, [0, 0, 1, 1])


def test_broken_folders_are_named(tmp_path: Path) -> None:
    """The error has the path: no classes, an empty class, a damaged image, no test set."""
    with pytest.raises(
        ModelError, match=r"no directories of classes; .*CLASS/\*\.jpg.*JPEGImages/N"
    ):
        load_data(tmp_path, channels=3)
    paint(tmp_path / "a", 3, 0)
    (tmp_path / "b").mkdir()
    with pytest.raises(ModelError, match="b: contains no images"):
        load_data(tmp_path, channels=3)
    (tmp_path / "b" / "bad.png").write_bytes(b"no image")
    with pytest.raises(ModelError, match=r"bad\.png: not an image"):
        load_data(tmp_path, channels=3)
    whole = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "b" / "bad.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"bad\.png: not an image"):
        load_data(tmp_path, channels=3)
    paint(tmp_path / "train" / "a", 3, 0)
    with pytest.raises(ModelError, match=r"neither test/ nor val/; .*CLASS"):
        load_data(tmp_path, channels=3)


def test_float_arrays_are_not_changed(tmp_path: Path) -> None:
    """Bytes are normalized, and a given split is used."""
    x = np.random.default_rng(0).random((10, 2, 4, 4))
    y = np.arange(10) % 2
    data = load_data(write(tmp_path / "a.npz", x=x, y=y), channels=2, size=(4, 4), classes=2)
    assert len(data.y_test) == 2
    assert np.isin(data.x_test, x.astype(np.float32)).all()
    grey = np.arange(160, dtype=np.uint8).reshape(10, 4, 4)
    data = load_data(write(tmp_path / "b.npz", x=grey, y=y), channels=3)
    assert data.x_train.shape == (8, 3, 4, 4)
    assert abs(float(data.x_train.mean())) < 1e-5
    parts = write(tmp_path / "c.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    assert len(load_data(parts, channels=2).y_test) == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "contains a; it must contain x and y"),
        ({"x": np.zeros((4, 5)), "y": np.zeros(4, int)}, r"'x' is float64 \[4, 5\]"),
        ({"x": np.zeros((4, 1, 2, 2)), "y": np.zeros(3, int)}, r"'y' is int64 \[3\]"),
        ({"x": np.zeros((4, 1, 2, 2)), "y": np.zeros(4)}, "it must be integers"),
        ({"x": np.zeros((4, 1, 2, 2)), "y": np.array([0, 1, 2, 3])}, r"label 3 is not in 0\.\.2"),
        ({"x": np.zeros((4, 1, 2, 2)), "y": np.array([0, 1, -1, 0])}, "label -1"),
        ({"x": np.zeros((4, 2, 2, 2)), "y": np.zeros(4, int)}, "2 channels, the model takes 1"),
        ({"x": np.zeros((4, 1, 3, 2)), "y": np.zeros(4, int)}, "are 3x2, the model takes 2x2"),
        ({"x": np.full((4, 1, 2, 2), np.nan), "y": np.zeros(4, int)}, "NaN"),
        ({"x": np.zeros((1, 1, 2, 2)), "y": np.zeros(1, int)}, "too few training images"),
        ({"x": np.array([None] * 4), "y": np.zeros(4, int)}, "plain arrays"),
    ],
)
def test_wrong_arrays_are_described(tmp_path: Path, arrays: Any, message: str) -> None:
    """Invalid names, shapes, types and labels are distinguished."""
    path = write(tmp_path / "data.npz", **arrays)
    with pytest.raises(ModelError, match=message):
        load_data(path, channels=1, size=(2, 2), classes=3)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    """Missing, empty, foreign and single-array files are errors of the data."""
    with pytest.raises(ModelError, match="no such file"):
        load_data(tmp_path / "none.npz", channels=1)
    for content in (b"", b"PK\x03\x04broken", b"text"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ModelError, match=r"not an \.npz"):
            load_data(tmp_path / "bad.npz", channels=1)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ModelError, match=r"not an \.npz"):
        load_data(tmp_path / "one.npy", channels=1)


def test_the_input_of_a_model_determines_its_images() -> None:
    """Static extents are returned, dynamic ones are None, and other inputs are refused."""
    model = parse("y = Flatten(x)", "(float[n, 3, 8, w] x) => (float[n, 10] y)")
    found = image_input(ir.serde.deserialize_model(model))
    assert (found.channels, found.size, found.classes) == (3, (8, None), 10)
    flat = parse("y = Relu(x)", "(float[n, 3] x) => (float[n, 3] y)")
    with pytest.raises(UnsupportedError, match=r"needs images \[N, C, H, W\]"):
        image_input(ir.serde.deserialize_model(flat))
    two = parse("y = Add(x, z)", "(float[n] x, float[n] z) => (float[n] y)")
    with pytest.raises(UnsupportedError, match="one input; this has 2"):
        image_input(ir.serde.deserialize_model(two))
