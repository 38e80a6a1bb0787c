"""Graphs in the style of paddle2onnx and of Optimum: folded nodes and whole patterns."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks.styles import Optimum, Paddle
from onnx_expand.passes import Policy
from tests.support.graphs import compute
from tests.support.graphs_text import fold, ops

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("size", [["N", 3, 32, 32], ["N", 3, "H", "W"]], ids=["static", "dynamic"])
def test_paddle(size: list[Any]) -> None:
    """Normalizations, scales, biases and the head fold, and every HardSwish stays whole."""
    model = Paddle("p2o.", 8).classifier(size)
    folded, report = fold(model, Policy.CHEAPEST)
    left = Counter(ops(folded))
    assert not {"BatchNormalization", "MatMul"} & set(left)
    # A HardSwish remains, or becomes one HardSigmoid and a product.
    spelled = left["Clip"]
    assert spelled + left["HardSwish"] + left["HardSigmoid"] == 5 + 2
    assert (left["Div"], left["Mul"]) == (spelled, 5 - left["HardSwish"] + 2)
    # Two shortcuts, and the shift that must not pass the first layer's padding.
    assert left["Add"] == spelled + 2 + 1
    assert (left["Conv"], left["Gemm"]) == (11, 1)
    assert report.kept
    x = np.random.default_rng(1).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    (expected,), (actual,) = compute(model, {"x": x}), compute(folded, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [[1, 3, 32, 32], ["N", 3, "H", "W"]], ids=["static", "dynamic"])
def test_paddle_detector(size: list[Any]) -> None:
    """Normalizations, also behind a deconvolution, and reshaped biases fold."""
    model = Paddle("p2o.", 8).detector(size)
    folded, _ = fold(model, Policy.CHEAPEST)
    before, after = Counter(ops(model)), Counter(ops(folded))
    assert not {"BatchNormalization", "Reshape", "Transpose"} & set(after)
    assert after["ConvTranspose"] == 2
    # Only shortcuts, the pyramid and the shift before the first layer's padding are added.
    assert after["Add"] - after["Clip"] == 4
    assert after["Conv"] <= before["Conv"]
    x = np.random.default_rng(1).uniform(0, 255, (1, 3, 32, 32)).astype(np.float32)
    (expected,), (actual,) = compute(model, {"x": x}), compute(folded, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("opset", [14, 17])
def test_optimum(opset: int) -> None:
    """Normalizations and GELUs stay whole, no Transpose is added, and no value changes."""
    model = Optimum("/", 16, opset=opset).network()
    folded, _ = fold(model, Policy.CHEAPEST)
    before, after = Counter(ops(model)), Counter(ops(folded))
    for op in ("Pow", "Sqrt", "Erf", "ReduceMean", "Softmax", "MatMul"):
        assert after[op] == before[op]
    assert after["Transpose"] <= before["Transpose"]
    assert len(folded.graph.node) <= len(model.graph.node)
    for batch, length in ((1, 1), (2, 7), (7, 2)):
        ids = np.random.default_rng(0).integers(0, 30, (batch, length))
        feeds = {"ids": ids, "mask": (ids > 5).astype(np.int64)}
        (expected,), (actual,) = compute(model, feeds), compute(folded, feeds)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
