"""Fold small models and judge the results."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

import onnx_expand
from onnx_expand.passes import Policy
from onnx_expand.runtimes import Reference
from tests.support.graphs import Array
from tests.support.graphs_text import fold


def outputs(model: onnx.ModelProto, given_feeds: dict[str, Array]) -> list[Array]:
    """Return the outputs of a model in float64, in order."""
    own = ir.serde.deserialize_model(onnx.ModelProto.FromString(model.SerializeToString()))
    found = Reference().session(own, "model").run(given_feeds)
    return [np.asarray(found[value.name], np.float64) for value in model.graph.output]


def assert_folds(model: onnx.ModelProto, x: Array, policy: Policy) -> None:
    """Assert that folding preserves the outputs, adds no products, and is idempotent."""
    folded, _ = fold(model, policy)
    (expected,), (found,) = (outputs(m, {"x": x}) for m in (model, folded))
    largest = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    kind = model.graph.input[0].type.tensor_type.elem_type
    tolerance = 3e-5 if kind == onnx.TensorProto.FLOAT else 1e-10
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)
    again, report = fold(folded, policy)
    assert again.SerializeToString() == folded.SerializeToString()
    assert not report.sites
    if policy is Policy.CHEAPEST:
        before, after = onnx_expand.inspect(model).macs, onnx_expand.inspect(folded).macs
        assert before is not None
        assert after is not None
        assert after <= before
