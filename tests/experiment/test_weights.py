"""Weights as a safetensors file: reading, writing, and mismatches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.cli import main  # noqa: E402
from onnx_expand.errors import ModelError, UsageError  # noqa: E402
from onnx_expand.experiment.weights import load_weights, save_weights  # noqa: E402
from onnx_expand.model import load, save  # noqa: E402
from onnx_expand.recipes import RunOptions  # noqa: E402
from tests.support.networks import network, write_stripes  # noqa: E402


def _values(path: Path) -> dict[str, Any]:
    graph = onnx.load(path).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("safetensors.torch")


def test_weights_are_written_and_read(library: Any, tmp_path: Path) -> None:
    """The weights of one run start the next one, by the names of the initializers."""
    onnx.save(network(), tmp_path / "net.onnx")
    write_stripes(tmp_path / "d.npz")
    words = ["--data", str(tmp_path / "d.npz"), "--epochs", "1", "-q"]
    first = [str(tmp_path / name) for name in ("net.onnx", "one.onnx")]
    assert main(["train", *first, *words, "--save-weights", str(tmp_path / "w.safetensors")]) == 0
    stored = library.load_file(tmp_path / "w.safetensors")
    trained = _values(tmp_path / "one.onnx")
    assert set(stored) == set(trained)
    for name, tensor in stored.items():
        assert np.array_equal(tensor.numpy(), trained[name])
    model, line = load_weights(load(tmp_path / "net.onnx"), tmp_path / "w.safetensors")
    assert f"{len(trained)} of {len(trained)} initializers" in line
    save(model, tmp_path / "again.onnx")
    for name, array in _values(tmp_path / "again.onnx").items():
        assert np.array_equal(array, trained[name])
    ways = []
    for source, more in (("one", []), ("net", ["--weights", str(tmp_path / "w.safetensors")])):
        out = tmp_path / f"from-{source}.onnx"
        assert main(["train", str(tmp_path / f"{source}.onnx"), str(out), *words, *more]) == 0
        ways.append(_values(out))
    for name, array in ways[0].items():
        assert np.array_equal(array, ways[1][name])


def test_mismatches_are_one_line(library: Any, tmp_path: Path) -> None:
    """Names, shapes, types and damaged files; weights absent from the file are named."""
    onnx.save(network(), tmp_path / "net.onnx")
    model, path = load(tmp_path / "net.onnx"), tmp_path / "w.safetensors"
    save_weights(model, path)
    whole = library.load_file(path)
    name = max(whole, key=lambda key: whole[key].numel())
    for tensors, reason in (
        ({"no such": torch.zeros(1)}, "contains 'no such'; the initializers"),
        ({}, "contains nothing"),
        ({name: torch.zeros(2, 99)}, r"is \[2, 99\], the model's is"),
        ({name: whole[name].to(torch.int64)}, "is torch.int64, the model's is"),
    ):
        library.save_file(tensors, path)
        with pytest.raises(ModelError, match=reason):
            load_weights(model, path)
    library.save_file({name: whole[name].double() + 1}, path)
    some, line = load_weights(model, path)
    assert "1 of" in line
    assert "not in it: " in line
    kept = some.graph.initializers[name].const_value
    assert kept is not None
    assert np.allclose(kept.numpy(), whole[name].numpy() + 1)
    path.write_bytes(b"damaged")
    for place in (path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match="cannot be read as safetensors"):
            load_weights(model, place)


def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named before training; two sources of weights are an error."""
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    onnx.save(network(), tmp_path / "net.onnx")
    paths = [str(tmp_path / name) for name in ("net.onnx", "out.onnx")]
    words = ["--data", "nowhere", "--save-weights", str(tmp_path / "w.safetensors")]
    assert main(["train", *paths, *words]) == 4
    assert "pip install 'onnx-expand[safetensors]'" in capsys.readouterr().err
    with pytest.raises(UsageError, match="give one"):
        RunOptions(weights="w.safetensors", reinit=True)
