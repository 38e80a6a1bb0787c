"""A user's augmentation: repeatable, applied to training images only, and checked."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.errors import UsageError  # noqa: E402
from onnx_expand.experiment import load_data  # noqa: E402
from onnx_expand.experiment.data.augment import DRAWS  # noqa: E402
from onnx_expand.recipes import DataOptions  # noqa: E402
from tests.support.folders import noise, paint  # noqa: E402

HERE = "tests.experiment.test_custom"


def speckled(image: Any) -> Any:
    """Draw from each of the global generators."""
    brighter = image * random.uniform(0.5, 1) + np.random.uniform(0, 0.1)  # noqa: NPY002
    return brighter + 0.1 * torch.randn(image.shape)


def smaller(image: Any) -> Any:
    """Return another shape."""
    return image[:, 1:]


def failing(image: Any) -> Any:
    """Raise an exception."""
    raise KeyError("mine")


def _data(place: Path, kind: str, **options: Any) -> Any:
    if kind == "arrays":
        x = noise(10, 1, 6, 6)
        np.savez(place / "a.npz", x=x, y=np.arange(10) % 2)
        return load_data(place / "a.npz", channels=1, options=DataOptions(**options))
    for number in range(10):
        paint(place / "d" / "ab"[number % 2] / f"{number}.png", noise(6, 6, seed=number))
    return load_data(place / "d", channels=1, size=(6, 6), options=DataOptions(**options))


@pytest.mark.parametrize("kind", ["arrays", "files"])
@pytest.mark.parametrize("augment", [(), ("flip", "crop:1"), ("zoom:1:2", "jitter:0.2")])
def test_custom_augmentation_is_repeatable(
    kind: str, augment: tuple[str, ...], tmp_path: Path
) -> None:
    """An image changes alike in any batch, and the global generators do not change."""
    data = _data(tmp_path, kind, augment=augment, transform=f"{HERE}:speckled")
    plain = _data(tmp_path, kind, augment=augment)
    picks = np.arange(len(data.train))
    draws = np.random.default_rng(3).random((len(picks), DRAWS))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = data.train.fetch(picks, draws).inputs
    assert torch.equal(torch.get_rng_state(), before)
    parts = [data.train.fetch(picks[k : k + 1], draws[k : k + 1]).inputs for k in picks]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, plain.train.fetch(picks, draws).inputs)
    assert not torch.equal(whole[0] - whole[1], whole[2] - whole[3])
    other = np.random.default_rng(4).random((len(picks), DRAWS))
    assert not torch.equal(whole, data.train.fetch(picks, other).inputs)
    for part in ("train", "test"):
        seen, meant = (getattr(d, part).stack()[0] for d in (data, plain))
        assert np.array_equal(seen, meant)


def _first(place: Path, kind: str, name: str) -> Any:
    data = _data(place, kind, transform=f"{HERE}:{name}")
    assert name != "nothing"  # which is said on loading
    return data.train.fetch(np.arange(1), np.zeros((1, DRAWS)))


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_errors_of_custom_augmentation_are_one_line(kind: str, tmp_path: Path) -> None:
    """A missing function is refused at once, wrong results or exceptions when it is called."""
    for name, reason in (
        ("nothing", "has no function 'nothing'"),
        ("smaller", r"turned an image \[1, 6, 6\] into \[1, 5, 6\]"),
        ("failing", "raised KeyError"),
    ):
        with pytest.raises(UsageError, match=reason):
            _first(tmp_path, kind, name)
    np.savez(tmp_path / "t.npz", x=np.zeros((10, 3), np.float32), y=np.arange(10) % 2)
    with pytest.raises(UsageError, match="needs images"):
        load_data(
            tmp_path / "t.npz", channels=0, options=DataOptions(transform=f"{HERE}:speckled")
        )
