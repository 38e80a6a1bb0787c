"""The conversion of pixels for the model, for any file format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL.Image")

from onnx_expand.cli import main
from onnx_expand.errors import ModelError
from onnx_expand.experiment import evaluate, load_data
from onnx_expand.experiment.data.augment import DRAWS
from onnx_expand.experiment.data.sources.pictures import decode
from onnx_expand.experiment.data.targets import UnreadableError
from onnx_expand.recipes import DataOptions
from onnx_expand.train import to_torch
from tests.support.folders import noise, paint
from tests.support.networks import network


def test_pixels_of_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    """PNG and TIFF are not clipped at 255; an image without a known white is refused."""
    image = pytest.importorskip("PIL.Image")
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for suffix in ("png", "tif"):
        image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
        for mode in ("L", "RGB"):
            seen = decode(tmp_path / f"deep.{suffix}", mode)
            assert np.abs(seen[0].astype(float) - deep / 257).max() <= 0.5
    for kind, name in ((np.int32, "32-bit integers"), (np.float32, "floating-point numbers")):
        image.fromarray(deep.astype(kind)).save(tmp_path / "odd.tif")
        with pytest.raises(UnreadableError, match=f"its pixels are {name}, of which no white"):
            decode(tmp_path / "odd.tif", "L")
    # Pillow converts the others to the requested channels, without a warning.
    clear = image.new("P", (4, 4))
    clear.putpalette([9, 8, 7] * 256)
    clear.save(tmp_path / "clear.png", transparency=b"\x00\x80")
    assert decode(tmp_path / "clear.png", "RGB")[:, 0, 0].tolist() == [9, 8, 7]
    image.new("CMYK", (4, 4)).save(tmp_path / "four.jpg")
    assert decode(tmp_path / "four.jpg", "RGB").shape == (3, 4, 4)


def test_integers_are_brightnesses_of_their_type(tmp_path: Path) -> None:
    """uint8 and uint16 versions of images are equal data; types without a white are refused."""
    x, y = noise(20, 1, 4, 4), np.arange(20) % 2
    both = []
    for kind, factor in ((np.uint8, 1), (np.uint16, 257), (np.int64, 1)):
        np.savez(tmp_path / "a.npz", x=x.astype(kind) * kind(factor), y=y)
        both.append(load_data(tmp_path / "a.npz", channels=1))
    for data in both:
        assert data.normalization.mean == pytest.approx(both[0].normalization.mean, rel=1e-6)
        np.testing.assert_allclose(data.x_train, both[0].x_train, rtol=1e-5, atol=1e-5)
    for wrong in (x.astype(np.int32) * 300, x.astype(np.int8)):
        np.savez(tmp_path / "a.npz", x=wrong, y=y)
        with pytest.raises(ModelError, match="brightnesses are integers from 0 to 255"):
            load_data(tmp_path / "a.npz", channels=1)


@pytest.mark.parametrize("changes", [("crop:3", "flip"), ("zoom:1:2", "flip"), ("resized-crop",)])
def test_masks_in_arrays_follow_their_images(tmp_path: Path, changes: tuple[str, ...]) -> None:
    """A mask equal to its image stays equal under each change, and is ignored outside."""
    mask = (np.indices((6, 12, 12)).sum(0) // 3 % 2).astype(np.int64)
    np.savez(tmp_path / "a.npz", x=mask[:, None].astype(np.float32), y=mask)
    data = load_data(tmp_path / "a.npz", channels=1, options=DataOptions(augment=changes))
    picks = np.arange(len(data.train))
    draws = np.random.default_rng(1).random((len(picks), DRAWS))
    batch = data.train.fetch(picks, draws)
    x, y = batch.inputs[:, 0].numpy(), batch.targets.numpy()
    assert not np.array_equal(y, data.y_train)
    assert set(np.unique(y)) <= {0, 1, 255}
    assert (255 in y) == ("crop:3" in changes)
    inside = (y != 255) & ((x < 0.01) | (x > 0.99))  # resampled edges are between
    assert inside.mean() > 0.2
    np.testing.assert_array_equal(x[inside].round(), y[inside])


def test_images_that_turn_out_unreadable_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also among the first ones, and in test data, where one may be a whole batch."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        for number in range(8):
            paint(tmp_path / "train" / name / f"{number}.png", noise(6, 6, seed=number))
            paint(tmp_path / "val" / name / f"{number}.png", noise(6, 6, seed=number))
    for broken in ("train/a/0.png", "train/a/1.png", "val/c/7.png"):
        Path(broken).write_bytes(b"")
    onnx.save(network(), "net.onnx")
    command = ["train", "net.onnx", "out.onnx", "--data", ".", "--cache", "0", "--epochs", "1"]
    assert main([*command, "--no-fold-check"]) == 0
    out = capsys.readouterr().out
    assert "3 images could not be read, and were left out" in out
    assert [line for line in out.splitlines() if line.startswith("left out")] == [
        "left out: train/a/0.png", "left out: train/a/1.png", "left out: val/c/7.png",
    ]  # fmt: skip
    data = load_data(".", channels=1, options=DataOptions(cache=0))
    for path in Path("val").glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="none of the test images can be read"):
        evaluate(to_torch("net.onnx"), data)
    assert main(command) == 3
    assert "none of its images can be read" in capsys.readouterr().err


def test_invalid_masks_are_named(tmp_path: Path) -> None:
    """If all masks are color images, the error states what is wrong with the first."""
    for number in range(4):
        for folder in ("images", "masks"):
            paint(tmp_path / folder / f"{number}.png", noise(6, 6, 3, seed=number))
    with pytest.raises(ModelError, match=r"masks.0\.png: not a mask: its pixels are uint8 \[3\]"):
        load_data(tmp_path, channels=3)
