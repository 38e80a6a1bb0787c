"""A constant that one node reads twice, or that several nodes read which go together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import onnx_expand
from onnx_expand.passes import Policy
from tests.support.graphs_text import fold, graph

pytest.importorskip("onnxruntime")

# How the constant comes about, from stored numbers k and the number 2.
SOURCES = {
    "stored": "c = Identity(k)",
    "multiplied": "c = Mul(k, two)",
    "by itself": "c = Mul(k, k)",
    "twice computed": "h = Mul(k, two) c = Add(h, h)",
    "by two nodes": "h = Mul(k, two) g = Add(k, two) c = Add(g, h)",
    "moved": "h = Reshape(k, shape) c = Squeeze(h, zero)",
    "read by a Shape too": "c = Mul(k, two) s = Shape(c) e = ConstantOfShape(s)",
}
# Nodes that read it, on x of [N, 4] for vectors and square weights.
READERS = {
    "normalization": "y = BatchNormalization(x, c, c, c, c)",
    "scale and variance": "y = BatchNormalization(x, c, k, k, c)",
    "sum": "y = Sum(x, c, c)",
    "two elementwise": "a = Mul(x, c) y = Add(a, c)",
    "two around a product": "a = Mul(x, c) b = MatMul(a, w) y = Mul(b, c)",
    "product and shift": "a = Gemm(x, w, c) y = Add(a, c)",
    "two products": "a = MatMul(x, m) y = MatMul(a, m)",
    "weight and shift": "a = Gemm(x, m, c) r = Relu(a) b = Gemm(r, m, c) y = Mul(b, c)",
    "branches": "a = Mul(x, c) b = Gemm(x, w, c) y = Add(a, b)",
    "and is an output": "y = BatchNormalization(x, c, c, c, c) z = Identity(c)",
    "in a body": (
        "q = Constant <value = bool {1}> () "
        "y = If (q) <then_branch = t () => (float[N,4] u) { v = Mul(x, c) u = Add(v, c) }, "
        "else_branch = e () => (float[N,4] o) { o = BatchNormalization(x, c, c, c, c) }>"
    ),
}


@pytest.mark.parametrize(("source", "reader"), list(itertools.product(SOURCES, READERS)))
def test_a_constant_that_is_read_twice_folds(source: str, reader: str) -> None:
    """Whatever goes or stays, nothing that is still read is lost, and the result is equal."""
    rng = np.random.default_rng(0)
    text = READERS[reader]
    more = ", float[4] z" if "z =" in text else ""
    model = graph(
        f"g (float[N,4] x) => (float[N,4] y{more}) {{ {SOURCES[source]} m = Mul(c, w) {text} }}",
        {
            "k": rng.uniform(0.5, 1, 4).astype(np.float32),
            "two": np.array(2, np.float32),
            "w": rng.standard_normal((4, 4)).astype(np.float32),
            "shape": np.array([1, 4]),
            "zero": np.array([0]),
        },
    )
    for policy in (Policy.CHEAPEST, Policy.ALWAYS):
        folded, _ = fold(model, policy)
        assert onnx_expand.check(model, folded)
        assert len(folded.graph.node) <= len(model.graph.node)
