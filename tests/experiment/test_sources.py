"""Each layout of data is read as published; errors are one clear line."""

from __future__ import annotations

import pickle
import re
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.errors import ModelError, UsageError  # noqa: E402
from onnx_expand.experiment import load_data  # noqa: E402
from onnx_expand.experiment.data.feed import Feed  # noqa: E402
from onnx_expand.experiment.data.samples import PictureSamples  # noqa: E402
from onnx_expand.experiment.data.sources.cifar import unpickle  # noqa: E402
from onnx_expand.experiment.training.parallel import World  # noqa: E402
from onnx_expand.recipes import DataOptions  # noqa: E402
from tests.support.folders import NOTE, noise, paint, segments, voc  # noqa: E402


def pixels(count: int, seed: int) -> Any:
    """Draw random images as CIFAR stores them."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def python_batch(path: Path, count: int, seed: int, key: str = "labels") -> None:
    """Write one file of the Python version; Python 2 wrote the keys as bytes."""
    x = pixels(count, seed)
    content = {b"data": x, key.encode(): [int(v) % 10 for v in x[:, 0]], b"batch_label": b"one"}
    path.write_bytes(pickle.dumps(content, protocol=2))


def cifar10_python(root: Path) -> Path:
    """Write CIFAR-10, the Python version, with few images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        python_batch(folder / f"data_batch_{number}", 4, number)
    python_batch(folder / "test_batch", 3, 9)
    names = [f"class {n}".encode() for n in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return folder


def binary(path: Path, count: int, seed: int, header: int, classes: int) -> None:
    """Write one file of a binary version: labels, then pixels."""
    x = pixels(count, seed)
    labels = np.stack([x[:, 5] % 20, x[:, 0] % classes], axis=1)[:, 2 - header :]
    path.write_bytes(np.concatenate([labels, x], axis=1).astype(np.uint8).tobytes())


def cifar(path: Path, **settings: Any) -> Any:
    """Load the data for a model of 32x32."""
    classes = settings.pop("classes", 10)
    options = DataOptions(**settings)
    return load_data(path, channels=3, size=(32, 32), classes=classes, options=options)


def test_cifar10_in_both_versions_packed_and_unpacked(tmp_path: Path) -> None:
    """All four have equal images, labels and names."""
    python = cifar10_python(tmp_path / "python")
    other = tmp_path / "binary" / "cifar-10-batches-bin"
    other.mkdir(parents=True)
    for number in range(1, 6):
        binary(other / f"data_batch_{number}.bin", 4, number, 1, 10)
    binary(other / "test_batch.bin", 3, 9, 1, 10)
    (other / "batches.meta.txt").write_text("\n".join(f"class {n}" for n in range(10)) + "\n\n")
    found = [cifar(python), cifar(python.parent), cifar(other)]
    for folder in (python, other):
        packed = tmp_path / f"{folder.name}.tar.gz"
        with tarfile.open(packed, "w:gz") as archive:
            archive.add(folder, folder.name)
        found.append(cifar(packed))
    first = found[0]
    assert first.x_train.shape == (20, 3, 32, 32)
    assert first.classes[3] == "class 3"
    x = pixels(4, 1).reshape(4, 3, 32, 32) / np.float32(255)
    mean, std = (
        np.array(v).reshape(-1, 1, 1) for v in (first.normalization.mean, first.normalization.std)
    )
    np.testing.assert_allclose(first.x_train[:4], (x - mean) / std, rtol=1e-6, atol=1e-6)
    assert first.y_train[:4].tolist() == (pixels(4, 1)[:, 0] % 10).tolist()
    for data in found[1:]:
        np.testing.assert_array_equal(data.x_train, first.x_train)
        np.testing.assert_array_equal(data.y_test, first.y_test)
        assert data.classes == first.classes


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    """In both versions; the coarse label comes first in the binary one."""
    for folder in ("python", "binary"):
        (tmp_path / folder).mkdir()
    for name, seed in (("train", 1), ("test", 2)):
        x = pixels(6, seed)
        fine, coarse = [int(v) % 100 for v in x[:, 0]], [int(v) % 20 for v in x[:, 5]]
        content = {b"data": x, b"fine_labels": fine, b"coarse_labels": coarse}
        (tmp_path / "python" / name).write_bytes(pickle.dumps(content, protocol=2))
        binary(tmp_path / "binary" / f"{name}.bin", 6, seed, 2, 100)
    (tmp_path / "python" / "meta").write_bytes(pickle.dumps({b"fine_label_names": []}))
    python, other = (cifar(tmp_path / name, classes=100) for name in ("python", "binary"))
    assert python.y_train.tolist() == (pixels(6, 1)[:, 0] % 100).tolist()
    np.testing.assert_array_equal(python.y_train, other.y_train)
    np.testing.assert_array_equal(python.x_test, other.x_test)


class Trap:
    """A class as in a malicious pickle."""

    def __reduce__(self) -> Any:
        return print, ("run!",)


def test_pickles_may_contain_arrays_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Functions, classes and object arrays are refused before anything is called."""
    for content in ({b"data": Trap()}, Trap(), [np.array([Trap()], dtype=object)], Path("x")):
        for protocol in (2, 4):
            with pytest.raises(ModelError, match=r"refused: the pickle wants"):
                unpickle(pickle.dumps(content, protocol=protocol), "file")
    with pytest.raises(ModelError, match="an object from elsewhere"):
        unpickle(b"\x80\x02X\x01\x00\x00\x00aQ.", "file")
    assert "run!" not in capsys.readouterr().out
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(unpickle(pickle.dumps({b"a": array}), "file")[b"a"], array)
    folder = cifar10_python(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Trap()}))
    with pytest.raises(ModelError, match=r"data_batch_3: refused"):
        cifar(folder)


def test_broken_files_of_cifar_are_named(tmp_path: Path) -> None:
    """Missing, truncated, of another content, labels out of range."""
    folder = cifar10_python(tmp_path)
    whole = (folder / "data_batch_2").read_bytes()
    cases = {
        "not a pickle, or a damaged one": whole[: len(whole) // 2],
        "'data' is not an array of bytes": pickle.dumps({b"data": np.zeros((2, 3072))}),
        "do not fit": pickle.dumps({b"data": pixels(2, 0), b"labels": [1]}),
        "it contains a list": pickle.dumps([1]),
        r"not in 0\.\.9": pickle.dumps({b"data": pixels(1, 0), b"labels": [11]}),
    }
    for message, content in cases.items():
        (folder / "data_batch_2").write_bytes(content)
        with pytest.raises(ModelError, match=message):
            cifar(folder)
    (folder / "data_batch_2").unlink()
    with pytest.raises(ModelError, match="data_batch_2 of CIFAR-10 is missing"):
        cifar(folder)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3000))
    for name in ("data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(bytes(3073))
    with pytest.raises(ModelError, match="truncated"):
        cifar(tmp_path)
    (tmp_path / "bad.tar.gz").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"bad\.tar\.gz: cannot be read"):
        cifar(tmp_path / "bad.tar.gz")


@pytest.mark.parametrize("cache", [1.0, 0.0])
def test_unreadable_images_are_left_out_and_counted(tmp_path: Path, cache: float) -> None:
    """In memory they are removed at once; on disk, a neighbor replaces them in training."""
    for number in range(10):
        paint(tmp_path / "a" / f"{number}.png", noise(6, 6, 3, seed=number))
        paint(tmp_path / "b" / f"{number}.png", noise(6, 6, 3, seed=number))
    whole = (tmp_path / "a" / "3.png").read_bytes()
    (tmp_path / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "4.png").write_bytes(b"no image")
    data = load_data(tmp_path, channels=3, options=DataOptions(cache=cache))
    if cache:
        assert len(data.train) + len(data.test) == 18
        assert [Path(line.split(":")[0]).name for line in data.left_out] == ["3.png", "4.png"]
        assert "2 images or boxes left out" in data.description
    else:
        picks = np.arange(len(data.train))
        batch = data.train.fetch(picks, np.full((len(picks), 24), 0.5))
        assert (len(batch.inputs), batch.count, len(batch.unreadable)) == (16, 16, 1)
        test = data.test.fetch(np.arange(4), None)
        assert (len(test.inputs), len(test.unreadable)) == (3, 1)
    with pytest.raises(ModelError, match=r"3\.png: not an image, or a damaged one"):
        load_data(tmp_path, channels=3, options=DataOptions(strict=True, cache=cache))


def test_a_class_of_unreadable_images_is_an_error(tmp_path: Path) -> None:
    """The class would have no samples."""
    paint(tmp_path / "a" / "1.png", noise(4, 4))
    paint(tmp_path / "a" / "2.png", noise(4, 4))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jpg").write_bytes(b"")
    with pytest.raises(ModelError, match=r"b: none of its images can be read"):
        load_data(tmp_path, channels=1)


@pytest.mark.parametrize("layout", ["whole", "outer", "inner", "camvid"])
def test_masks_go_with_images_of_their_name(tmp_path: Path, layout: str) -> None:
    """With parts inside or outside, or split here; resized masks keep their labels."""
    if layout == "whole":
        segments(tmp_path)
    for part in ("train", "val") if layout != "whole" else ():
        segments(tmp_path / part, 3)
        if layout == "inner":
            for kind in ("images", "masks"):
                (tmp_path / kind).mkdir(exist_ok=True)
                (tmp_path / part / kind).rename(tmp_path / kind / part)
            (tmp_path / part).rmdir()
        if layout == "camvid":
            (tmp_path / part / "masks").rename(tmp_path / f"{part}annot")
            (tmp_path / part / "images").rename(tmp_path / "new")
            (tmp_path / part).rmdir()
            (tmp_path / "new").rename(tmp_path / part)
    data = load_data(tmp_path, channels=3, classes=2)
    assert data.kind == "segment"
    assert data.x_train.shape == (5 if layout == "whole" else 3, 3, 8, 10)
    assert data.y_train.shape[1:] == (8, 10)
    raw = data.x_train[:, 0] * data.normalization.std[0] + data.normalization.mean[0]
    np.testing.assert_array_equal(data.y_train == 1, raw * 255 > 127.5)
    small = load_data(tmp_path, channels=3, size=(4, 4), classes=2)
    assert set(np.unique(small.y_train)) <= {0, 1}


def test_wrong_masks_are_named(tmp_path: Path) -> None:
    """A label out of range, and how to ignore it."""
    segments(tmp_path)
    with pytest.raises(ModelError, match=r"label 1 is not in 0\.\.0.*--ignore-label 1$"):
        load_data(tmp_path, channels=3, classes=1)
    assert load_data(
        tmp_path, channels=3, classes=1, options=DataOptions(ignore_label=1)
    ).description


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 4)), r"2\.png: is \(4, 4\), its image \(8, 10\)"),
        (np.zeros((8, 10, 3)), r"2\.png: not a mask"),
        (None, r"2\.png: has no mask"),
    ],
    ids=["extents", "colours", "missing"],
)
def test_an_image_without_its_mask_is_left_out_and_named(
    tmp_path: Path, mask: Any, message: str
) -> None:
    """One wrong pair does not cost the set; with `strict` it is refused."""
    segments(tmp_path)
    whole = load_data(tmp_path, channels=3, classes=2)
    file = tmp_path / "masks" / "2.png"
    file.unlink()
    if mask is not None:
        paint(file, mask)
    data = load_data(tmp_path, channels=3, classes=2)
    assert len(data.train) + len(data.test) == len(whole.train) + len(whole.test) - 1
    (problem,) = data.left_out
    assert re.search(message, problem)
    with pytest.raises(ModelError, match=message):
        load_data(tmp_path, channels=3, classes=2, options=DataOptions(strict=True))


def test_masks_of_other_extents_are_left_out_where_they_are_read_late(tmp_path: Path) -> None:
    """With no cache the masks are compared with their images in training."""
    segments(tmp_path)
    paint(tmp_path / "masks" / "2.png", np.zeros((4, 4)))
    options = DataOptions(cache=0, mean=(0.5,), std=(0.5,))
    data = load_data(tmp_path, channels=3, classes=2, options=options)
    batch = data.train.fetch(np.arange(len(data.train)), None)
    assert batch.unreadable == (2,)
    assert batch.count == len(data.train) - 1


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_found_in_training_are_one_line(tmp_path: Path, workers: int) -> None:
    """A label out of range in a mask that was not read before, also in another process."""
    segments(tmp_path)
    paint(tmp_path / "masks" / "2.png", np.full((8, 10), 7))
    options = DataOptions(cache=0, mean=(0.5,), std=(0.5,))  # nothing is read to measure them
    data = load_data(tmp_path, channels=3, classes=2, options=options)
    feed = Feed(data.train, 0, World(), 1, workers)
    with pytest.raises(ModelError) as caught:
        list(feed.epoch([np.arange(5)], 0, 0))
    assert "label 7 is not in 0..1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cityscapes_as_published(tmp_path: Path) -> None:
    """The ids of its files become the 19 classes, and all others are ignored."""
    for part in ("train", "val"):
        for number in range(2):
            stem = f"ulm_{number:06}_000019"
            paint(
                tmp_path / "leftImg8bit" / part / "ulm" / f"{stem}_leftImg8bit.png", noise(4, 6, 3)
            )
            ids = np.tile([0, 7, 8, 26, 33, 30], (4, 1))
            paint(tmp_path / "gtFine" / part / "ulm" / f"{stem}_gtFine_labelIds.png", ids)
    data = load_data(tmp_path, channels=3, classes=19)
    assert data.y_train[0, 0].tolist() == [255, 0, 1, 13, 18, 255]
    assert data.classes[13] == "car"


@pytest.mark.parametrize("inner", ["", "VOC2007", "VOCdevkit/VOC2007", "cells"])
def test_voc_gives_boxes_as_shares_of_the_image(tmp_path: Path, inner: str) -> None:
    """Pixels count from 1 and are inclusive, difficult boxes are marked, and lists are obeyed."""
    voc(tmp_path / inner)
    data = load_data(tmp_path, channels=3, size=(10, 10))
    assert data.kind == "detect"
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.classes[11] == "dog"
    expected = [11, 4 / 40, 2 / 20, 24 / 40, 12 / 20, 0]
    np.testing.assert_allclose(data.y_train[0, 0], expected, rtol=1e-6)
    assert data.y_train[1, 0, 5] == 1


WRONG: list[tuple[str | None, str]] = [
    ("<annotation>", "not an annotation"),
    (NOTE.format("dog", 0, "x", 1, 2, 3), "not an annotation"),
    (NOTE.format("dog", 0, 9, 1, 2, 3), "the box of 'dog', 9, 1, 2, 3, has no extent"),
    (NOTE.format("dog", 0, 1, 3, 2, 2), "the box of 'dog', 1, 3, 2, 2, has no extent"),
    (NOTE.format("dog", 0, "nan", 1, 2, 3), "has no extent"),
    (None, r"000001\.xml: no such annotation"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_annotations_are_left_out_and_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    """Damaged, without numbers, inverted or missing; `strict` refuses them."""
    path = voc(tmp_path) / "Annotations" / "000001.xml"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    data = load_data(tmp_path, channels=3)
    assert len(data.left_out) == 1
    assert re.search(message, data.left_out[0])
    boxes = data.y_train[..., 0] >= 0
    # An image without a valid box stays; one without an annotation is removed.
    assert boxes.sum(axis=1).tolist() == ([1, 0, 1] if "extent" in message else [1, 1])
    with pytest.raises(ModelError, match=message):
        load_data(tmp_path, channels=3, options=DataOptions(strict=True))


def test_a_missing_image_is_left_out_and_named(tmp_path: Path) -> None:
    """A list may name missing images; without any image there is no data."""
    root = voc(tmp_path)
    pictures = sorted((root / "JPEGImages").iterdir())
    gone = pictures[0]
    gone.unlink()
    data = load_data(tmp_path, channels=3)
    assert data.left_out == (f"{root / 'JPEGImages' / gone.stem}.jpg: no such image",)
    assert "1 images or boxes left out" in data.description
    with pytest.raises(ModelError, match="no such image"):
        load_data(tmp_path, channels=3, options=DataOptions(strict=True))
    for path in pictures[1:]:
        path.unlink()
    with pytest.raises(ModelError, match=r"no annotation has an object.*no such image"):
        load_data(tmp_path, channels=3)


def test_where_no_annotation_can_be_read_there_is_no_data(tmp_path: Path) -> None:
    """The reason of the first one is reported."""
    for path in (voc(tmp_path) / "Annotations").iterdir():
        path.write_text("<annotation>")
    with pytest.raises(ModelError, match=r"no annotation has an object.*not an annotation"):
        load_data(tmp_path, channels=3)


def test_a_box_of_one_pixel_is_a_box(tmp_path: Path) -> None:
    """Corners are inclusive pixels, so that both may be equal."""
    path = voc(tmp_path) / "Annotations" / "000000.xml"
    path.write_text(NOTE.format("dog", 0, 20, 10, 20, 10))
    data = load_data(tmp_path, channels=3, size=(20, 40), options=DataOptions(strict=True))
    np.testing.assert_allclose(data.y_train[0, 0, 1:5] * [40, 20, 40, 20], [19, 9, 20, 10])


def test_data_from_a_custom_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mappings, four arrays, torch's datasets and a Dataset are accepted; others are refused."""
    module = types.ModuleType("own_data")
    x, y = noise(12, 2, 4, 4), np.arange(12) % 3

    def arrays(channels: int) -> Any:
        assert channels == 2
        return x, y, x[:3], y[:3]

    items = [(torch.zeros(2, 4, 4), 1)] * 5
    functions = {
        "arrays": arrays, "mapping": lambda: {"x": x, "y": y}, "items": lambda: (items, items),
        "dataset": lambda: load_data("own_data:mapping", channels=2), "wrong": lambda: 3,
    }  # fmt: skip
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "own_data", module)
    assert len(load_data("own_data:arrays", channels=2, classes=3).test) == 3
    assert len(load_data("own_data:mapping", channels=2).train) == 12 - 3
    assert len(load_data("own_data:dataset", channels=2).train) == 12 - 3
    data = load_data("own_data:items", channels=2)
    assert data.x_train.shape == (5, 2, 4, 4)
    assert data.y_train.tolist() == [1] * 5
    for spec, message in (("wrong", "returned a int"), ("absent", "no function 'absent'")):
        with pytest.raises(UsageError, match=message):
            load_data(f"own_data:{spec}", channels=2)
    with pytest.raises(UsageError, match="No module named 'nowhere_at_all'"):
        load_data("nowhere_at_all:f", channels=2)


def test_settings_of_normalisation_and_size(tmp_path: Path) -> None:
    """Given means are used, one for all channels too; wrong counts are refused."""
    for number in range(5):
        paint(tmp_path / "a" / f"{number}.png", noise(8, 8, 3, seed=number))
    options = DataOptions(mean=(0.5,), std=(0.25,), image_size=(4, 4))
    data = load_data(tmp_path, channels=3, options=options)
    assert data.normalization.mean == (0.5, 0.5, 0.5)
    assert data.x_train.shape[2:] == (4, 4)
    assert data.x_train.min() >= -2 - 1e-6
    with pytest.raises(UsageError, match="2 and 2 numbers, the model 3"):
        load_data(tmp_path, channels=3, options=DataOptions(mean=(0.1, 0.2), std=(1.0, 1.0)))
    with pytest.raises(UsageError, match="image_size is 4x4, the model takes"):
        load_data(tmp_path, channels=3, size=(8, 8), options=options)
    assert isinstance(data.train, PictureSamples)
