"""Compute the outputs of models in float64, and compare models."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from onnx_expand.runtimes import Reference

__all__ = ["assert_same", "outputs"]


def outputs(
    model: onnx.ModelProto, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Return the outputs of a model in float64, in order."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    found = Reference().session(ir.serde.deserialize_model(own), "model").run({"x": x})
    return [np.asarray(found[value.name], np.float64) for value in model.graph.output]


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto, seed: int) -> None:
    """Assert that two float32 models agree up to the rounding of float32 weights."""
    assert [v.name for v in a.graph.output] == [v.name for v in b.graph.output]
    assert a.graph.input == b.graph.input
    dims = a.graph.input[0].type.tensor_type.shape.dim
    extents = [d.dim_value if d.HasField("dim_value") else 2 for d in dims]
    x = np.random.default_rng(seed).standard_normal(extents)
    for first, second in zip(outputs(a, x), outputs(b, x), strict=True):
        assert first.shape == second.shape
        # Weights are rounded once to float32, and a chain amplifies this error.
        scale = max(1.0, float(np.max(np.abs(first), initial=0.0)))
        np.testing.assert_allclose(second, first, rtol=0, atol=3e-5 * scale)
