"""Small graphs for the tests of training, and their results in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
import torch

from onnx_expand.train import to_torch

Array = npt.NDArray[Any]


def parse(body: str, signature: str, initializers: str = "", opset: int = 17) -> onnx.ModelProto:
    """Parse a model of ONNX text, where `signature` is `(inputs) => (outputs)`.

    The shape of an output `float[] y` is inferred.
    """
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    weights = f"<{initializers}>" if initializers else ""
    model = onnx.parser.parse_model(f"{head} graph {signature} {weights} {{ {body} }}")
    if "[]" in signature:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    return model


def with_weights(model: onnx.ModelProto, **weights: Array) -> onnx.ModelProto:
    """Add initializers to a model; a double underscore in a name represents a dot."""
    for name, array in weights.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(array, name.replace("__", "."))
        )
    return model


def reference(model: onnx.ModelProto, *inputs: Array) -> list[Array]:
    """Return onnxruntime's results; skip the test without onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    results: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
    return results


def assert_same(model: onnx.ModelProto, *inputs: Array) -> None:
    """Assert that the imported module computes the same as onnxruntime, up to rounding."""
    results = to_torch(model)(*(torch.from_numpy(x) for x in inputs))
    results = results if isinstance(results, tuple) else (results,)
    for ours, theirs in zip(results, reference(model, *inputs), strict=True):
        value = ours.detach().numpy()
        assert value.dtype == theirs.dtype
        assert value.shape == theirs.shape
        # If large terms cancel, rounding is relative to the terms: compare with the largest
        # output.
        finite = np.abs(theirs[np.isfinite(theirs)]) if theirs.dtype.kind == "f" else theirs[:0]
        scale = max(1.0, float(np.max(finite, initial=0.0)))
        np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=2e-6 * scale)


def images(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draw random images around zero."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
