"""Dense layers absorb the order of the features that they read or compute."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.graph.editing import Rewriter
from onnx_expand.graph.facts import Facts
from onnx_expand.layout import straighten_layouts
from tests.support.graphs import compute
from tests.support.graphs_text import graph, ops, weights
from tests.support.judge import Source, judge
from tests.support.random_features import FeatureGraph

pytest.importorskip("onnxruntime")

SIZES = ({"N": 1}, {"N": 3})


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1 << 30))
def test_random_features(seed: int) -> None:
    """No named value changes, and no Transpose remains that a dense layer can absorb."""
    made = FeatureGraph(seed)
    folded = onnx_expand.fold(made.model)
    assert judge(Source(made.model, SIZES), folded) == []
    count = ops(folded).count("Transpose")
    assert count <= ops(made.model).count("Transpose")
    assert not (made.is_plain and count)
    assert onnx_expand.fold(folded) == folded
    assert_names_keep_values(made.model, folded, made.shape)


def assert_names_keep_values(
    model: onnx.ModelProto, folded: onnx.ModelProto, shape: list[int]
) -> None:
    """Compare all values of two models that have common names."""
    outputs = [[name for n in m.graph.node for name in n.output] for m in (model, folded)]
    common = [name for name in outputs[0] if name in outputs[1]]
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    found = []
    for source in (model, folded):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        del copy.graph.output[:]
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in common)
        found.append(compute(copy, {"x": x}))
    for name, a, b in zip(common, *found, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(1, np.abs(a).max()), err_msg=name)


@pytest.mark.parametrize("seed", range(20))
def test_locked_layers_keep_their_weights(seed: int) -> None:
    """Locked nodes read the same constants as before, and no value changes."""
    source = FeatureGraph(seed).model
    rng = np.random.default_rng(seed)
    locked = frozenset(n.name for n in source.graph.node if rng.random() < 0.3)
    model = ir.serde.deserialize_model(source)
    list(straighten_layouts(model.graph, Facts(model), Rewriter(model), lambda _: None, locked))
    turned = ir.serde.serialize_model(model)
    assert judge(Source(source, SIZES), turned) == []
    read = [constants(m) for m in (source, turned)]
    for name in locked:
        for before, after in zip(read[0][name], read[1][name], strict=True):
            np.testing.assert_array_equal(before, after)


def constants(model: onnx.ModelProto) -> dict[str, list[np.ndarray]]:
    """Return the constants that each node reads."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {n.name: [arrays[i] for i in n.input if i in arrays] for n in model.graph.node}


REFUSED: dict[str, tuple[str, str]] = {
    "a weight that is read twice": (
        ", float[2,96] z",
        "a = Gemm(f, w) c = Gemm(z, w) y = Add(a, c)",
    ),
    "a weight of the caller": (", float[96,64] own", "y = MatMul(f, own)"),
    "another operand": (", float[2,96] z", "r = Relu(z) s = Add(f, r) y = MatMul(s, w)"),
    "another reader": ("", "p = Softmax(f) q = MatMul(f, w) m = MatMul(p, v) y = Add(q, m)"),
    "rows that are added": (", float[2,1] u", "a = Gemm(u, row, f) y = MatMul(a, w)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """The witness: without the Transpose the values differ."""
    inputs, text = REFUSED[name]
    constants = weights(w=(96, 64), v=(96, 64), row=(1, 96))
    model = graph(
        f"g (float[2,4,6,4] x{inputs}) => (float[2,64] y) "
        f"{{ t = Transpose <perm=[0,2,3,1]> (x) f = Flatten(t) {text} }}",
        {key: array for key, array in constants.items() if re.search(rf"\b{key}\b", text)},
        opset=17,
    )
    folded = onnx_expand.fold(model)
    assert judge(Source(model, ({},)), folded) == []
    assert "Transpose" in ops(folded)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.node[0]
    bare.graph.node[0].input[0] = "x"
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim])
        for i in model.graph.input
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    (expected,), (other,) = compute(model, feeds), compute(bare, feeds)
    assert np.abs(expected - other).max() > 1e-2


def test_a_constant_of_a_body_gets_no_name_that_is_taken_outside() -> None:
    """The weight that the loop reads is an output of the model, and stays what it is."""
    model = graph(
        "g (float[N,6,4,7] x) => (float[2,P,Q,R,S] y, float[4] w) { n = Constant<value_int=2>() "
        "o = Constant<value_int=1>() e = Cast<to=9>(o) "
        "y = Loop(n, e) <body = b (int64 i, bool c) => (bool d, float[A,B,C,D] z) { "
        "d = Identity(c) t = Transpose<perm=[3,0,1,2]>(x) m = Mul(t, k) "
        "r = ReduceMin<axes=[2]>(m) z = Relu(r) }> w = Identity(k) }",
        weights(k=(4,)),
    )
    del model.graph.node[-1]
    model.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info("k", 1, [4]))
    found = onnx_expand.fold(model)
    onnx.checker.check_model(found, full_check=True)
    (body,) = (a.g for n in found.graph.node for a in n.attribute if a.HasField("g"))
    assert body.node[1].op_type != "Transpose"
    assert "k" not in {tensor.name for tensor in body.initializer}
