"""onnxruntime: fold before load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_expand import UsageError

ort = pytest.importorskip("onnxruntime")


def test_a_session_runs_the_folded_model(path: Path) -> None:
    """It computes what the file does, from fewer nodes, with the options of onnxruntime."""
    from onnx_expand.integrations.onnxruntime import inference_session

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = inference_session(
        path, options, ["CPUExecutionProvider"], policy="cheapest", verified=True
    )
    image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    plain = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(None, {"input": image})[0], plain.run(None, {"input": image})[0], atol=1e-5
    )
    loaded = onnx.load(options.optimized_model_filepath)
    assert len(loaded.graph.node) < len(onnx.load(path).graph.node)


def test_options_are_those_of_fold(path: Path) -> None:
    """A wrong option is refused before anything is loaded."""
    from onnx_expand.integrations.onnxruntime import inference_session

    with pytest.raises(UsageError, match="policy 'best'"):
        inference_session(path, policy="best")


def test_a_model_with_external_weights(path: Path) -> None:
    """Weights beside the model are found, and nothing is left in the temporary directory."""
    from onnx_expand.integrations.onnxruntime import inference_session

    large = path.with_name("large.onnx")
    onnx.save(onnx.load(path), large, save_as_external_data=True, size_threshold=0)
    session = inference_session(large, policy="cheapest")
    image = np.ones((1, 3, 32, 32), np.float32)
    plain = ort.InferenceSession(large)
    np.testing.assert_allclose(
        session.run(None, {"input": image})[0], plain.run(None, {"input": image})[0], atol=1e-5
    )
