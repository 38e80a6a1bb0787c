"""Factors go where they cost nothing, means as well; elsewhere a number would change."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.errors import Reason, UnsupportedError
from onnx_expand.passes import FoldReport, Policy
from tests.support.graphs import as_double
from tests.support.graphs_text import bn, fold, graph, ops, weights
from tests.support.random_models import random_model, sizes_of

pytest.importorskip("onnxruntime")

Array = npt.NDArray[Any]

# `make fuzz` raises it.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "75"))

ROWS = "float[N,6,8] x"
IMAGE = "float[N,4,9,8] x"
FREE = "float[N,4,H,W] x"
HALF = np.array(0.5, np.float32)
POLICIES = (Policy.CHEAPEST, Policy.ALWAYS)
# What computes a value that is cut, and what treats the parts when they are one again.
HEADS = st.sampled_from(
    ["Conv<pads=[1,1,1,1]>(x, w)", "Conv<group=C>(x, d)", "Mul(x, t)", "Softmax(x)"]
)
TAILS = st.sampled_from(
    ["Mul(j, k)", "Add(j, k)", "BatchNormalization(j, n_s, n_b, n_m, n_v)", "Div(j, k)"]
)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


# -- Laws -------------------------------------------------------------------------------------


def _feeds(model: onnx.ModelProto, extents: dict[str, int], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: rng.standard_normal(
            [d.dim_value or extents.get(d.dim_param, 3) for d in value.type.tensor_type.shape.dim]
        )
        for value in model.graph.input
        if value.name not in constants
    }


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto, seed: int = 0) -> None:
    """Assert that float32 models agree, in float64, to the rounding of their weights."""
    for extents in sizes_of(a)[:2]:
        feeds = _feeds(a, extents, seed)
        for first, second in zip(as_double(a, feeds), as_double(b, feeds), strict=True):
            assert first.shape == second.shape
            scale = max(1.0, float(np.max(np.abs(first), initial=0.0)))
            np.testing.assert_allclose(second, first, rtol=0, atol=3e-5 * scale)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]))
def test_factors_in_random_models(seed: int, policy: Policy) -> None:
    """Scales among what lets some pass: no other number, no more nodes, no more products."""
    model = random_model(seed, "factors")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        folded = onnx_expand.fold(copy, policy=policy)
    except UnsupportedError:
        return  # the model holds what cannot be kept
    try:
        assert_same(model, model, seed)
    except UnsupportedError:
        return  # the reference cannot run it
    assert_same(model, folded, seed)
    assert len(folded.graph.node) <= len(model.graph.node)
    before, after = onnx_expand.inspect(model).macs, onnx_expand.inspect(folded).macs
    if policy is Policy.CHEAPEST and before is not None:
        assert after is not None
        assert after <= before
    twice = onnx.ModelProto()
    twice.CopyFrom(folded)
    again = onnx_expand.fold(twice, policy=policy)
    assert again.SerializeToString() == folded.SerializeToString()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_parts_of_one_value_are_scaled_each_for_itself(data: st.DataObject) -> None:
    """A map behind parts that meet again, in any order, goes before the cut for all of them."""
    draw = data.draw
    sizes = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=4))
    count, alike = sum(sizes), len(set(sizes)) == 1
    names = [f"p{i}" for i in range(len(sizes))]
    kept = draw(st.permutations(names).map(lambda order: order[: draw(st.integers(1, 4))]))
    text = f"c = {draw(HEADS).replace('group=C', f'group={count}')} "
    if draw(st.booleans()):
        text += f"{', '.join(names)} = Split<axis=1>(c, sizes) "
    else:
        for i, name in enumerate(names):
            text += f"{name} = Slice(c, from{i}, from{i + 1}, one) "
    parts, ops = [], draw(st.sampled_from([("",), ("Relu", ""), ("", "Sigmoid"), ("Relu",)]))
    for name in kept:
        op = draw(st.sampled_from(ops))
        text += f"q{name} = {op}({name}) " if op else ""
        parts.append(f"q{name}" if op else name)
    if alike and draw(st.booleans()):
        text += f"j = Sum({', '.join(parts)}) "
        out = sizes[0]
    else:
        text += f"j = Concat<axis=1>({', '.join(parts)}) "
        out = sum(sizes[int(name[1:])] for name in kept)
    text += f"y = {draw(TAILS)}"
    more = ", float[N,D,P,Q] p0" if draw(st.integers(0, 3)) == 0 else ""
    text = f"g (float[N,{count},6,5] x) => (float[N,C,P,Q] y{more}) {{ {text} }}"
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = np.cumsum([0, *sizes])
    arrays = {
        "w": rng.standard_normal((count, count, 3, 3)).astype(np.float32),
        "d": rng.standard_normal((count, 1, 3, 3)).astype(np.float32),
        "t": rng.standard_normal((count, 1, 1)).astype(np.float32),
        "k": rng.uniform(-2, 2, (1, out, 1, 1)).astype(np.float32),
        "sizes": ints(*sizes),
        "one": ints(1),
        **{f"from{i}": ints(int(edge)) for i, edge in enumerate(edges)},
        **bn("n", out),
    }
    model = graph(text, arrays)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    folded = onnx_expand.fold(copy, policy=draw(st.sampled_from(list(POLICIES))))
    assert_same(model, folded)


# -- Where factors go -------------------------------------------------------------------------

QKV = weights(w=(8, 24), b=(24,))
LAYER = weights(w=(8, 8), b=(8,), v=(8, 8), u=(8, 8))
CONVS = weights(w=(4, 4, 3, 3), b=(4,), v=(6, 4, 1, 1), u=(4, 4, 1, 1))

# name: (inputs, outputs, nodes, constants, the ops that are left)
CASES: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "a factor behind a Reshape and a Transpose": (
        ROWS,
        "float[N,2,6,4] y",
        "a = MatMul(x, w) c = Add(a, b) r = Reshape(c, s) t = Transpose<perm=[0,2,1,3]>(r) "
        "y = Mul(t, k)",
        LAYER | {"s": ints(0, -1, 2, 4), "k": HALF},
        "MatMul Add Reshape Transpose",
    ),
    "scores": (
        ROWS,
        "float[N,6,6] y",
        "q = MatMul(x, w) p = MatMul(x, v) t = Transpose<perm=[0,2,1]>(p) s = MatMul(q, t) "
        "d = Div(s, k) y = Softmax(d)",
        LAYER | {"k": np.float32(3)},
        "MatMul MatMul Transpose MatMul Softmax",
    ),
    "query, cut from a product for all three": (
        ROWS,
        "float[N,6,8] y",
        "a = MatMul(x, w) c = Add(a, b) q, k, v = Split<axis=2>(c, s) m = Mul(q, h) "
        "t = Transpose<perm=[0,2,1]>(k) p = MatMul(m, t) e = Softmax(p) y = MatMul(e, v)",
        QKV | {"s": ints(8, 8, 8), "h": HALF},
        "MatMul Add Split Transpose MatMul Softmax MatMul",
    ),
    "query, cut from five axes": (
        ROWS,
        "float[N,2,6,4] y",
        "a = MatMul(x, w) c = Add(a, b) r = Reshape(c, s) "
        "f = Transpose<perm=[2,0,3,1,4]>(r) q0, k0, v0 = Split<axis=0>(f, o) "
        "q = Squeeze(q0, z) k = Squeeze(k0, z) v = Squeeze(v0, z) m = Mul(q, h) "
        "t = Transpose<perm=[0,1,3,2]>(k) p = MatMul(m, t) e = Softmax(p) y = MatMul(e, v)",
        QKV | {"s": ints(0, -1, 3, 2, 4), "o": ints(1, 1, 1), "z": ints(0), "h": HALF},
        "MatMul Add Reshape Transpose Split Squeeze Squeeze Squeeze Transpose MatMul Softmax "
        "MatMul",
    ),
    "query, gathered from five axes": (
        ROWS,
        "float[N,2,6,4] y",
        "a = MatMul(x, w) c = Add(a, b) r = Reshape(c, s) "
        "f = Transpose<perm=[2,0,3,1,4]>(r) q = Gather<axis=0>(f, i0) k = Gather<axis=0>(f, i1) "
        "v = Gather<axis=0>(f, i2) m = Mul(q, h) t = Transpose<perm=[0,1,3,2]>(k) "
        "p = MatMul(m, t) e = Softmax(p) y = MatMul(e, v)",
        QKV
        | {"s": ints(0, -1, 3, 2, 4), "h": HALF}
        | {f"i{i}": np.array(i, np.int64) for i in range(3)},
        "MatMul Add Reshape Transpose Gather Gather Gather Transpose MatMul Softmax MatMul",
    ),
    "a factor behind a Slice of positions": (
        FREE,
        "float[N,4,P,Q] y",
        "a = Conv(x, u) s = Slice(a, o, e, t) y = Mul(s, h)",
        CONVS | {"o": ints(1, 1), "e": ints(-1, -1), "t": ints(2, 3), "h": HALF},
        "Conv Slice",
    ),
    "through a product, to what reads it": (
        "float[N,8] x",
        "float[N,8] y",
        "a = MatMul(x, w) e = Sigmoid(a) s = Mul(e, h) t = Tanh(a) g = Mul(t, s) y = MatMul(g, v)",
        LAYER | {"h": HALF},
        "MatMul Sigmoid Tanh Mul MatMul",
    ),
    "a gate of channels, through the product": (
        IMAGE,
        "float[N,6,9,8] y",
        "a = Relu(x) g = GlobalAveragePool(a) c = Conv(g, u) s = Sigmoid(c) d = Div(s, k) "
        "p = Mul(a, d) y = Conv(p, v)",
        CONVS | {"k": np.float32(6)},
        "Relu GlobalAveragePool Conv Sigmoid Mul Conv",
    ),
    "positive factors of channels before a Relu and a MaxPool": (
        IMAGE,
        "float[N,4,4,4] y",
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) "
        "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Mul(m, k)",
        CONVS | {"k": np.array([0.5, 2, 3, 0.1], np.float32).reshape(4, 1, 1)},
        "Conv Relu MaxPool",
    ),
    "behind a LeakyRelu into the next layer": (
        IMAGE,
        "float[N,6,9,8] y",
        "s = Sigmoid(x) k = Mul(s, h) r = LeakyRelu(k) y = Conv(r, v)",
        CONVS | {"h": HALF},
        "Sigmoid LeakyRelu Conv",
    ),
    "through a sum of branches, one of them a pool": (
        IMAGE,
        "float[N,4,9,8] y",
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(x) c = Conv(r, u) "
        "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) s = Add(a, m) y = Mul(s, k)",
        CONVS | {"k": np.array([0.5, 2, 3, 0.1], np.float32).reshape(4, 1, 1)},
        "Conv Relu Conv MaxPool Add",
    ),
    "of one of two things put after each other": (
        IMAGE,
        "float[N,4,9,8] y",
        "s = Sigmoid(x) t = Tanh(x) k = Mul(s, h) c = Concat<axis=1>(k, t) y = Conv(c, w8)",
        weights(w8=(4, 8, 1, 1)) | {"h": HALF},
        "Sigmoid Tanh Concat Conv",
    ),
    "a square": (
        "float[N,8] x",
        "float[N,8] y",
        "a = Sigmoid(x) s = Mul(a, k) q = Mul(s, s) y = MatMul(q, w)",
        LAYER | {"k": np.float32(3)},
        "Sigmoid Mul MatMul",
    ),
    "a divisor": (
        "float[N,8] x",
        "float[N,8] y",
        "a = Sigmoid(x) s = Mul(a, k) t = Tanh(x) q = Div(t, s) y = MatMul(q, w)",
        LAYER | {"k": np.float32(3)},
        "Sigmoid Tanh Div MatMul",
    ),
    "a Resize": (
        IMAGE,
        "float[N,4,18,16] y",
        'a = Conv(x, u) r = Resize<mode="linear">(a, , z) y = Mul(r, k)',
        CONVS | {"z": np.array([1, 1, 2, 2], np.float32), "k": np.float32(-3)},
        "Conv Resize",
    ),
    "a scale and shift before two borders": (
        IMAGE,
        "float[N,4,9,8] y, float[N,4,9,8] z",
        "r = Relu(x) m = Mul(r, k) a = Add(m, t) y = Conv<pads=[1,1,1,1]>(a, w, b) "
        "z = Conv<pads=[1,1,1,1]>(a, w2)",
        CONVS
        | weights(w2=(4, 4, 3, 3), t=(4, 1, 1))
        | {"k": np.array([0.5, 2, 3, 0.1], np.float32).reshape(4, 1, 1)},
        "Relu Add Conv Conv",
    ),
    "a normalization before two borders": (
        IMAGE,
        "float[N,4,9,8] y, float[N,4,9,8] z",
        "r = Relu(x) a = BatchNormalization(r, p_s, p_b, p_m, p_v) "
        "y = Conv<pads=[1,1,1,1]>(a, w, b) z = Conv<pads=[1,1,1,1]>(a, w2)",
        CONVS | weights(w2=(4, 4, 3, 3)) | bn("p", 4),
        "Relu Add Conv Conv",
    ),
    "a normalization before a mean": (
        IMAGE,
        "float[N,8] y",
        "r = Relu(x) b0 = BatchNormalization(r, p_s, p_b, p_m, p_v) "
        "m = ReduceMean<axes=[2,3], keepdims=0>(b0) y = MatMul(m, w4)",
        weights(w4=(4, 8)) | bn("p", 4),
        "Relu ReduceMean Gemm",
    ),
    "a normalization before a mean of free extents": (
        FREE,
        "float[N,8] y",
        "r = Relu(x) b0 = BatchNormalization(r, p_s, p_b, p_m, p_v) "
        "m = GlobalAveragePool(b0) f = Flatten(m) y = Gemm(f, w4, b)",
        weights(w4=(4, 8), b=(8,)) | bn("p", 4),
        "Relu GlobalAveragePool Flatten Gemm",
    ),
    "a normalization before a mean that nothing reads": (
        FREE,
        "float[N,4,1,1] y",
        "r = Relu(x) b0 = BatchNormalization(r, p_s, p_b, p_m, p_v) y = GlobalAveragePool(b0)",
        bn("p", 4),
        "Relu GlobalAveragePool Mul Add",
    ),
    "a normalization before a sum": (
        IMAGE,
        "float[N,8] y",
        "r = Relu(x) b0 = BatchNormalization(r, p_s, p_b, p_m, p_v) "
        "m = ReduceSum<keepdims=0>(b0, t) y = Gemm(m, w4, b)",
        weights(w4=(4, 8), b=(8,)) | bn("p", 4) | {"t": ints(2, 3)},
        "Relu ReduceSum Gemm",
    ),
    "a normalization behind an average that leaves out its border": (
        FREE,
        "float[N,4,H,W] y",
        "a = Conv(x, u, b) m = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) "
        "y = BatchNormalization(m, p_s, p_b, p_m, p_v)",
        CONVS | bn("p", 4),
        "Conv AveragePool",
    ),
    "a number behind a weight that something else reads": (
        ROWS,
        "float[N,6,8] y",
        "a = MatMul(x, w5) s = Sigmoid(a) m = MatMul(s, u5) r = Relu(m) "
        "t = Transpose<perm=[1,0]>(w5) p = MatMul(r, t) y = Mul(p, half)",
        weights(w5=(8, 20), u5=(20, 20)) | {"half": HALF},
        "MatMul Sigmoid MatMul Relu Transpose MatMul",
    ),
    "a normalization before the largest": (
        IMAGE,
        "float[N,6,1,1] y",
        "r = Tanh(x) b0 = BatchNormalization(r, p_s, p_b, p_m, p_v) m = GlobalMaxPool(b0) "
        "y = Conv(m, v)",
        CONVS | bn("p", 4),
        "Tanh GlobalMaxPool Conv",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_factors_go_into_layers(name: str) -> None:
    """What is left of each case; it computes the same; what it computes keeps its names."""
    inputs, outputs, nodes, constants, wanted = CASES[name]
    model = graph(f"g ({inputs}) => ({outputs}) {{ {nodes} }}", constants)
    folded, _ = fold(model)
    assert sorted(ops(folded)) == sorted(wanted.split())
    assert_same(model, folded)
    # No tensor keeps its name with other numbers.
    for m in (model, folded):
        known = {value.name for value in m.graph.output}
        for node in m.graph.node:
            fresh = [out for out in node.output if out not in known]
            m.graph.output.extend(onnx.ValueInfoProto(name=out) for out in fresh)
    feeds = _feeds(model, sizes_of(model)[0], 0)
    values = [
        dict(zip([v.name for v in m.graph.output], as_double(m, feeds), strict=True))
        for m in (model, folded)
    ]
    for shared in values[0].keys() & values[1].keys():
        np.testing.assert_allclose(values[1][shared], values[0][shared], rtol=1e-4, atol=1e-4)


# -- Where they stay --------------------------------------------------------------------------

# name: (inputs, outputs, nodes, constants, the reason, the words of it)
STAYS: dict[str, tuple[str, str, str, dict[str, Any], Reason, str]] = {
    "negative before a Relu": (
        IMAGE,
        "float[N,4,9,8] y",
        "a = Conv(x, u) r = Relu(a) y = Mul(r, k)",
        CONVS | {"k": np.float32(-2)},
        Reason.UNSUPPORTED,
        "Relu lets no negative factor pass",
    ),
    "a negative channel before a MaxPool": (
        IMAGE,
        "float[N,4,8,7] y",
        "a = Conv(x, u) r = MaxPool<kernel_shape=[2,2]>(a) y = Mul(r, k)",
        CONVS | {"k": np.array([1, 2, -1, 3], np.float32).reshape(4, 1, 1)},
        Reason.UNSUPPORTED,
        "MaxPool lets no negative factor pass",
    ),
    "a shift before a Relu": (
        IMAGE,
        "float[N,4,9,8] y",
        "a = Conv(x, u) r = Relu(a) y = Add(r, k)",
        CONVS | {"k": np.float32(2)},
        Reason.UNSUPPORTED,
        "Relu lets no shift pass",
    ),
    "a shift across zeros": (
        FREE,
        "float[N,4,P,Q] y",
        "a = Conv(x, u) r = Pad(a, p) y = Add(r, k)",
        CONVS | {"p": ints(0, 0, 0, 1, 0, 0, 0, 0), "k": np.float32(2)},
        Reason.COST,
        "merging would take",
    ),
    "padding with ones": (
        IMAGE,
        "float[N,4,10,8] y",
        "a = Conv(x, u) r = Pad(a, p, o) y = Mul(r, k)",
        CONVS | {"p": ints(0, 0, 1, 0, 0, 0, 0, 0), "o": np.float32(1), "k": np.float32(2)},
        Reason.UNSUPPORTED,
        "Pad lets no factor pass",
    ),
    "another reader": (
        IMAGE,
        "float[N,4,9,8] y, float[N,4,9,8] z",
        "a = Conv(x, u) r = Relu(a) y = Mul(r, k) z = Sigmoid(r)",
        CONVS | {"k": np.float32(2)},
        Reason.SHARED,
        "'r' has other consumers",
    ),
    "a value that is an output": (
        IMAGE,
        "float[N,4,9,8] y, float[N,4,9,8] a",
        "a = Conv(x, u) r = Relu(a) y = Mul(r, k)",
        CONVS | {"k": np.float32(2)},
        Reason.OUTPUT,
        "'a' is an output of the graph",
    ),
    "what is no product": (
        IMAGE,
        "float[N,4,9,8] y",
        "a = Conv(x, u) r = Sigmoid(a) m = Relu(r) y = Mul(m, k)",
        CONVS | {"k": np.float32(2)},
        Reason.UNSUPPORTED,
        "Sigmoid lets no factor pass",
    ),
    "factors of channels that a product mixes": (
        ROWS,
        "float[N,6,6] y",
        "q = MatMul(x, w) p = MatMul(x, v) t = Transpose<perm=[0,2,1]>(p) s = MatMul(q, t) "
        "r = Reshape(s, z) m = Mul(r, k) y = Reshape(m, z0)",
        LAYER | {"z": ints(0, 4, 9), "z0": ints(0, 6, 6), "k": np.arange(1, 10, dtype=np.float32)},
        Reason.GEOMETRY,
        "the nodes map different axes",
    ),
    "a bound of a Clip": (
        IMAGE,
        "float[N,4,9,8] y",
        "a = Conv(x, u) r = Clip(a, o, i) y = Mul(r, k)",
        CONVS | {"o": np.float32(0), "i": np.float32(0.2), "k": np.float32(5)},
        Reason.UNSUPPORTED,
        "Clip lets no factor pass",
    ),
    "a factor beyond all measure": (
        IMAGE,
        "float[N,4,9,8] y",
        "a = Conv(x, u) r = Relu(a) y = Mul(r, k)",
        CONVS | {"k": np.float32(1e30)},
        Reason.OVERFLOW,
        "of another size",
    ),
}


def _kept(report: FoldReport, name: str) -> list[Any]:
    return [k.refusal for k in report.kept if name in k.nodes]


@pytest.mark.parametrize("name", STAYS)
def test_factors_stay_where_a_number_would_change(name: str) -> None:
    """The node stays and has its reason; putting it into the layer all the same is wrong."""
    inputs, outputs, nodes, constants, reason, words = STAYS[name]
    model = graph(f"g ({inputs}) => ({outputs}) {{ {nodes} }}", constants)
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    folded, report = fold(model)
    assert ops(folded) == ops(model)
    last = next(n for n in model.graph.node if "k" in n.input)
    found = _kept(report, last.name)
    assert any(r.reason is reason and words in r.message for r in found), list(map(str, found))
    if reason is Reason.OVERFLOW:
        return  # in exact arithmetic it might move
    naive = onnx.ModelProto()
    naive.CopyFrom(model)
    _moved(naive, last)
    feeds = _feeds(model, sizes_of(model)[0], 0)
    pairs = zip(as_double(model, feeds), as_double(naive, feeds), strict=True)
    assert any(np.max(np.abs(a - b)) > 1e-2 for a, b in pairs)


def _moved(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Take a scale or shift from a model, and put it behind the first layer."""
    number = next(t for t in model.graph.initializer if t.name == "k")
    array = onnx.numpy_helper.to_array(number)
    last = next(n for n in model.graph.node if n.name == node.name)
    layer = model.graph.node[0]
    if array.ndim == 1 and array.size > 8:
        array = array[:8]
    number.CopyFrom(onnx.numpy_helper.from_array(array, "k"))
    there = onnx.helper.make_node(last.op_type, [layer.output[0], "k"], ["moved"], name="there")
    for other in model.graph.node[1:]:
        for i, read in enumerate(other.input):
            if read == layer.output[0] and other is not last:
                other.input[i] = "moved"
    if any(value.name == layer.output[0] for value in model.graph.output):
        layer.output[0] = "inner"
        there.input[0], there.output[0] = "inner", "a"
        for other in model.graph.node[1:]:
            other.input[:] = ["a" if read == "moved" else read for read in other.input]
    model.graph.node.insert(1, there)
    last.op_type = "Identity"
    del last.input[1:]


@pytest.mark.parametrize("factor", [8.0, 0.125, 1e-3])
def test_half_precision_keeps_its_range(factor: float) -> None:
    """Where 65,504 is the largest number, those in between get smaller, by a little, or stay."""
    nodes = "a = Conv(x, u) r = Relu(a) y = Mul(r, k)"
    constants = {"u": CONVS["u"].astype(np.float16), "k": np.array(factor, np.float16)}
    model = graph(f"g (float16[1,4,3,3] x) => (float16[1,4,3,3] y) {{ {nodes} }}", constants)
    folded, report = fold(model)
    moves = factor == 0.125
    assert ops(folded) == (["Conv", "Relu"] if moves else ["Conv", "Relu", "Mul"])
    if not moves:
        (refusal,) = {r.reason for k in report.kept for r in [k.refusal]} - {Reason.ACTIVATION}
        assert refusal is Reason.OVERFLOW


# By name the inputs, the nodes and what may hold too large a number in half precision.
LIMITED: dict[str, tuple[str, str, str]] = {
    "a shift behind a mean": (
        IMAGE,
        "a = Conv(x, u) r = Relu(a) [moves] b = BatchNormalization(r, n_s, n_b, n_m, n_v) "
        "m = ReduceMean<axes=[2,3], keepdims=0>(b) y = MatMul(m, v)",
        "ReduceMean",
    ),
    "a factor behind a product": (
        "float[N,4] x",
        "a = MatMul(x, v) e = Erf(a) p = Add(e, one) [moves] q = Mul(p, half) g = Mul(a, q) "
        "y = MatMul(g, z)",
        "Mul",
    ),
    "a normalization of a sum": (
        f"{FREE}, float[N,4] e",
        "a = Conv(x, u) g = Gemm(e, v) s = Unsqueeze(g, axes) t = Add(a, s) "
        "[moves] b = BatchNormalization(t, n_s, n_b, n_m, n_v) y = Relu(b)",
        "Conv",
    ),
}


@pytest.mark.parametrize("name", LIMITED)
def test_what_only_half_precision_keeps_has_that_reason(name: str) -> None:
    """The node moves in float32, and its reason in float16 is the range of the type."""
    inputs, nodes, holder = LIMITED[name]
    constants: dict[str, Array] = {
        "one": np.ones((), np.float32),
        "half": HALF,
        "axes": ints(2, 3),
        "u": CONVS["u"],
    }
    constants |= {**bn("n", 4), **weights(v=(4, 4), z=(4, 4))}
    rank = 4 if "BatchNormalization(t" in nodes else 2
    ends = f"g ({inputs}) => (float[{','.join('ABCD'[:rank])}] y) {{ {nodes} }}"
    wide = graph(ends, constants)
    narrow = {
        k: a.astype(np.float16) if a.dtype == np.float32 else a for k, a in constants.items()
    }
    half = graph(ends.replace("float[", "float16["), narrow)
    assert len(fold(wide)[0].graph.node) < len(wide.graph.node)
    folded, report = fold(half)
    assert ops(folded) == ops(half)
    reasons = [k.refusal for k in report.kept if k.nodes == ("moves",)]
    assert [r.reason for r in reasons] == [Reason.OVERFLOW]
    assert f"what {holder} computes" in reasons[0].message


def test_weights_that_others_read_are_not_copied() -> None:
    """A tied weight stays one: a copy would store more than a factor saves."""
    model = graph(
        "g (float[N,6,8] x, float[N,6,8] z) => (float[N,2,6,4] y, float[N,6,8] o) "
        "{ a = MatMul(x, w) r = Reshape(a, s) t = Transpose<perm=[0,2,1,3]>(r) y = Mul(t, k) "
        "o = MatMul(z, w) }",
        LAYER | {"s": ints(0, -1, 2, 4), "k": HALF},
    )
    folded, report = fold(model)
    assert ops(folded) == ops(model)
    assert any("numbers more" in k.refusal.message for k in report.kept)
