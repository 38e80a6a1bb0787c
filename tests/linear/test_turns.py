"""Law: a Transpose of a matrix before or behind a product is an attribute of a Gemm."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_expand.errors import Reason
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.numbers import assert_same

_TURN = "Transpose<perm=[1,0]>"


def _loads(model: onnx.ModelProto) -> None:
    """Assert that onnxruntime loads a model with all optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_turned_product_is_one_gemm(data: st.DataObject) -> None:
    """On either side, the weight on either side, with or without a bias: the numbers stay."""
    before, after = data.draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    left, turned = data.draw(st.booleans()), data.draw(st.booleans())
    bias, opset = data.draw(st.booleans()), data.draw(st.sampled_from([9, 11, 13, 17, 21]))
    shape = data.draw(st.sampled_from(["5,4", "N,4" if left == before else "4,N"]))
    inner = 4 if not shape.startswith("5") else (4 if left == before else 5)
    text = f"a = {_TURN}(x) " if before else "a = Identity(x) "
    weight = (6, inner) if left != turned else (inner, 6)
    flag = f"<{'transA' if left else 'transB'}={int(turned)}>"
    operands = "w, a" if left else "a, w"
    text += f"b = Gemm{flag}({operands}{', c' if bias else ''}) "
    text += f"y = {_TURN}(b)" if after else "y = Identity(b)"
    constants = weights(w=weight) | (weights(c=(6, 1) if left else (6,)) if bias else {})
    nodes = text if opset >= 11 or bias else text.replace(f"({operands})", f"({operands}, zero)")
    constants |= {} if nodes == text else {"zero": np.zeros(1, np.float32)}
    model = graph(f"g (float[{shape}] x) => (float[P,Q] y) {{ {nodes} }}", constants, opset=opset)
    folded, _ = fold(model)
    assert ops(folded) == ["Gemm"]
    for n in (1, 3):
        _same_at(model, folded, n)
    assert fold(folded)[0] == folded


def _same_at(model: onnx.ModelProto, folded: onnx.ModelProto, n: int) -> None:
    copies = []
    for one in (model, folded):
        copy = onnx.ModelProto()
        copy.CopyFrom(one)
        for dim in copy.graph.input[0].type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.dim_value = n
        copies.append(copy)
    assert_same(copies[0], copies[1], n)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("product", ["MatMul(w, s)", "Gemm(w, s, c)", "Gemm<transB=1>(s, v)"])
def test_a_result_that_is_an_output_and_turned_loads(product: str, shared: bool) -> None:
    """What is folded loads where its result is an output as well as transposed.

    onnxruntime loads no Gemm between a Transpose and another whose result is an output.
    """
    outs = "float[A,B] t, float[C,D] u" + (", float[E,F] r" if shared else "")
    model = graph(
        f"g (float[4,8] x) => ({outs}) "
        f"{{ s = {_TURN}(x) {'r = Relu(s)' if shared else ''} t = {product} u = {_TURN}(t) }}",
        weights(w=(6, 8), c=(6, 1), v=(5, 4)),
    )
    folded, _ = fold(model)
    assert_same(model, folded, 0)
    _loads(folded)


def test_a_shared_turn_stays() -> None:
    """A Transpose that something else reads as well is there anyway."""
    model = graph(
        f"g (float[N,8] x) => (float[A,B] y, float[C,D] r) "
        f"{{ s = {_TURN}(x) r = Relu(s) t = MatMul(w, s) y = Relu(t) }}",
        weights(w=(6, 8)),
    )
    folded, report = fold(model)
    assert ops(folded) == ops(model)
    assert any(kept.refusal.reason is Reason.SHARED for kept in report.kept)
