"""Weights on disk stay on disk."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx_ir as ir

import onnx_expand
from onnx_expand.passes import Fold, Policy
from tests.support.graphs_text import graph, weights


def external_model(folder: Path) -> Path:
    """Two products of which the weights, 2 MiB each, lie in a file."""
    text = "a = MatMul(x, v)\n b = MatMul(a, w)\n y = Relu(b)"
    model = graph(
        f"g (float[N,512] x) => (float[N,512] y) {{ {text} }}",
        weights(v=(512, 1024), w=(1024, 512)),
    )
    path = folder / "m.onnx"
    ir.save(ir.serde.deserialize_model(model), path, external_data="m.data")
    return path


def test_merged_weights_of_a_file_wait_on_disk(tmp_path: Path) -> None:
    """What is merged from external weights is external itself, and right."""
    path = external_model(tmp_path)
    model = ir.load(path)
    folded = Fold(Policy.CHEAPEST)(model).model
    (value,) = folded.graph.initializers.values()
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    held = Path(tensor.path)
    assert held.stat().st_size == 512 * 512 * 4
    v, w = (np.asarray(a, np.float64) for a in weights(v=(512, 1024), w=(1024, 512)).values())
    np.testing.assert_array_equal(tensor.numpy(), (v @ w).astype(np.float32))
    del folded, model, value, tensor
    gc.collect()
    assert not held.exists()


def test_a_folded_file_needs_no_other(tmp_path: Path) -> None:
    """The output refers to nothing but its own data, wherever both are moved."""
    path, target = external_model(tmp_path), tmp_path / "out" / "f.onnx"
    target.parent.mkdir()
    onnx_expand.fold(path, target)
    moved = tmp_path / "elsewhere"
    target.parent.rename(moved)
    for old in tmp_path.glob("m.*"):
        old.unlink()
    folded = ir.load(moved / "f.onnx")
    (value,) = folded.graph.initializers.values()
    assert value.const_value is not None
    assert value.const_value.numpy().shape == (512, 512)
