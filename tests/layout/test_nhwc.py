"""Nodes work in the axis order with the fewest transposed bytes, and compute the same."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_expand.graph.editing import Rewriter
from onnx_expand.graph.facts import Facts
from onnx_expand.layout import straighten_layouts
from onnx_expand.layout.cut import Cut
from onnx_expand.passes import Policy
from tests.support.composites import fused_ops
from tests.support.graphs import Array, as_double, compute
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.random_nhwc import random_network
from tests.support.random_turns import TurnedGraph

pytest.importorskip("onnxruntime")

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
EXTENTS = (2, 3, 4, 6)  # as [N, C, H, W]; the node between reads [N, H, W, C] = [2, 4, 6, 3]


def parsed(
    text: str, constants: Mapping[str, Array], opset: int, outputs: str = "float y"
) -> onnx.ModelProto:
    """Build a model of one input from the text of its nodes."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g (float[N,3,H,W] x) => ({outputs}) {{ {text} }}"
    )
    for out in model.graph.output:
        out.type.tensor_type.ClearField("shape")
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def agree(model: onnx.ModelProto, folded: onnx.ModelProto, *shape: int) -> None:
    """Assert that two models compute the same, in onnxruntime and in float64."""
    x = np.random.default_rng(0).standard_normal(shape or EXTENTS).astype(np.float32)
    for e, a in zip(compute(model, {"x": x}), compute(folded, {"x": x}), strict=True):
        assert e.shape == a.shape
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * max(1.0, np.abs(e).max(initial=0)))
    for e, a in zip(as_double(model, {"x": x}), as_double(folded, {"x": x}), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-6 * max(1.0, np.abs(e).max(initial=0)))


# -- Single nodes -----------------------------------------------------------------------------

ARRAYS: dict[str, Array] = {
    **weights(c=(3,), d=(6, 3), e=(1, 4, 6, 3), f=(1, 1, 3)),
    "one": np.array(0.5, np.float32),
    "six": np.array(1.5, np.float32),
    "pads": np.array([0, 1, 2, 0, 0, 0, 1, 1]),
    "a12": np.array([1, 2]),
    "a3": np.array([-1]),
    "starts": np.array([1, 0]),
    "ends": np.array([3, 2]),
    "axes": np.array([1, -1]),
    "perm": np.array([2, 0, 1]),
    "flat": np.array([0, -1]),
    "g": np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 4, 6, 2),
    "two": np.array([2]),
    "last": np.array(3),
    "first": np.array(0),
    "twice": np.array([1, 1, 2, 1]),
    "extents": np.array([4, 6, 3]),
    "image": np.array([-1, 1, 1, 3]),
    "step": np.array(0.1, np.float32),
    "steps": np.array([0.1, 0.2, 0.3], np.float32),
    "zero": np.array(128, np.uint8),
    "zeros": np.array([128, 100, 90], np.uint8),
    "none": np.array([], np.float32),
    "factors": np.array([1, 2, 3, 1], np.float32),
    "sizes": np.array([2, 8, 6, 3]),
}
UNARY = "Abs Ceil Elu Exp Floor HardSigmoid LeakyRelu Neg Relu Round Selu Sigmoid Softplus Tanh"
NODES: dict[str, tuple[str, int]] = {
    **{op: (f"b = {op}(a)", 11) for op in UNARY.split()},
    "Clip": ("b = Clip(a, one, six)", 11),
    "Clip, old": ("b = Clip<min=-0.5, max=0.5>(a)", 9),
    "Cast": ("k = Cast<to=11>(a) m = Relu(k) b = Cast<to=1>(m)", 14),
    "HardSwish": ("b = HardSwish(a)", 14),
    "Mul by channels": ("r = Relu(a) b = Mul(c, r)", 11),
    "Add a vector of two axes": ("r = Relu(a) b = Add(r, d)", 11),
    "Add an image": ("r = Relu(a) b = Sub(e, r)", 11),
    "PRelu": ("b = PRelu(a, f)", 11),
    "of two": ("r = Sigmoid(a) b = Mul(a, r)", 11),
    "Where": ("k = Greater(a, one) r = Neg(a) b = Where(k, a, r)", 11),
    "Max": ("r = Neg(a) b = Max(a, r, one)", 12),
    "Concat": ("r = Relu(a) b = Concat<axis=3>(a, r)", 11),
    "Concat along rows": ("r = Relu(a) b = Concat<axis=-3>(r, a)", 11),
    "Split": ("p, q, r = Split<axis=-1>(a) s = Relu(q) b = Concat<axis=3>(s, r, p)", 13),
    "Pad": ('r = Relu(a) b = Pad<mode="reflect">(r, pads)', 11),
    "Pad, old": ("r = Relu(a) b = Pad<pads=[0,1,0,0,0,0,2,1], value=0.5>(r)", 9),
    "Softmax": ("b = Softmax<axis=-1>(a)", 13),
    "LogSoftmax": ("b = LogSoftmax<axis=1>(a)", 13),
    "ReduceMax": ("m = ReduceMax<axes=[1,2]>(a) b = Mul(a, m)", 11),
    "ReduceMean": ("m = ReduceMean<axes=[-1]>(a) b = Sub(a, m)", 13),
    "ReduceMean by an input": ("m = ReduceMean(a, a12) b = Sub(a, m)", 18),
    "Slice": ("r = Relu(a) b = Slice(r, starts, ends, axes)", 11),
    "Dropout": ("r = Dropout(a) b = Relu(r)", 13),
    "IsNaN": ("k = IsNaN(a) b = Where(k, one, a)", 13),
    "ReduceL1": ("m = ReduceL1<axes=[3]>(a) b = Add(a, m)", 13),
    "ReduceLogSumExp": ("m = ReduceLogSumExp<axes=[-1]>(a) b = Sub(a, m)", 13),
    "Concat with a constant": ("b = Concat<axis=3>(a, g)", 13),
    "ArgMax": ("m = ArgMax<axis=3>(a) r = Cast<to=1>(m) b = Sub(a, r)", 13),
    "TopK": ("v, i = TopK<axis=-1>(a, two) b = Relu(v)", 11),
    "CumSum": ("b = CumSum(a, last)", 14),
    "Gather": ("b = Gather<axis=-1>(a, perm)", 13),
    "Tile": ("b = Tile(a, twice)", 13),
    "Expand": ("m = ReduceMax<axes=[1,2]>(a) b = Expand(m, extents)", 13),
    "Reshape to an image": (
        "m = ReduceMax<axes=[1,2], keepdims=0>(a) r = Reshape(m, image) b = Mul(a, r)",
        13,
    ),
    "QuantizeLinear": (
        "q = QuantizeLinear(a, step, zero) b = DequantizeLinear(q, step, zero)",
        19,
    ),
    "QuantizeLinear by channels": (
        "q = QuantizeLinear<axis=-1>(a, steps, zeros) "
        "b = DequantizeLinear<axis=3>(q, steps, zeros)",
        19,
    ),
    "Resize": (
        'b = Resize<mode="nearest", coordinate_transformation_mode="asymmetric">'
        "(a, none, factors)",
        13,
    ),
    "Resize to extents": ('b = Resize<mode="nearest">(a, none, none, sizes)', 13),
}


def used(text: str) -> dict[str, Array]:
    """Return the constants that a text names."""
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {name: array for name, array in ARRAYS.items() if name in words}


@pytest.mark.parametrize("name", NODES)
def test_a_node_between_transposes_works_without_them(name: str) -> None:
    """transpose(f(transpose(x))) = f'(x), for each op and spelling."""
    text, opset = NODES[name]
    model = parsed(
        f"a = Transpose<perm=[0,2,3,1]>(x) {text} y = Transpose<perm=[0,3,1,2]>(b)",
        used(text),
        opset,
    )
    folded, _ = fold(model, Policy.CHEAPEST)
    assert "Transpose" not in ops(folded)
    agree(model, folded)


ENDS: dict[str, tuple[str, int]] = {
    "mean": ("b = Relu(a) y = ReduceMean<axes=[1,2], keepdims=0>(b)", 11),
    "mean over channels": ("b = Relu(a) y = ReduceMean<axes=[3], keepdims=0>(b)", 11),
    "mean by an input": ("b = Relu(a) y = ReduceMean<keepdims=0>(b, a12)", 18),
    "squeezed": ("m = ReduceMax<axes=[1,2]>(a) y = Squeeze<axes=[1,2]>(m)", 11),
    "squeezed by an input": ("m = ReduceMax<axes=[1,2]>(a) y = Squeeze(m, a12)", 13),
    "flattened": ("m = ReduceMax<axes=[1,2]>(a) y = Flatten(m)", 13),
    "reshaped": ("m = ReduceMax<axes=[1,2]>(a) y = Reshape(m, flat)", 13),
    "a single channel": ("b = Relu(a) y = Gather<axis=3>(b, first)", 13),
    "the largest channel": ("b = Relu(a) m = ArgMax<axis=3, keepdims=0>(b) y = Cast<to=1>(m)", 13),
    "its shape": ("b = Relu(a) s = Shape(b) m = ReduceMax<keepdims=0>(b) y = Cast<to=1>(s)", 13),
    "another order": ("b = Relu(a) y = Transpose<perm=[3,0,2,1]>(b)", 11),
}


@pytest.mark.parametrize("name", ENDS)
def test_nodes_that_accept_either_order_need_no_transpose(name: str) -> None:
    """f'(transpose(x)) = f(x): no Transpose remains except the node itself."""
    text, opset = ENDS[name]
    text = text.replace("m = ReduceMax<keepdims=0>(b) ", "")
    model = parsed(f"a = Transpose<perm=[0,2,3,1]>(x) {text}", used(text), opset)
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded).count("Transpose") == (name == "another order")
    agree(model, folded)


REFUSED: dict[str, tuple[str, int]] = {
    "a softmax of old flattens": ("b = Softmax<axis=3>(a) y = Transpose<perm=[0,3,1,2]>(b)", 11),
    "columns before channels": ("y = ReduceMean<axes=[1], keepdims=0>(a)", 11),
    "positions and channels": ("y = Flatten(a)", 11),
    "a single row": ("y = Gather<axis=1>(a, first)", 13),
    "the largest row": ("m = ArgMax<axis=1, keepdims=0>(a) y = Cast<to=1>(m)", 13),
    "a matrix": ("m = MatMul(a, w) s = Softmax(m) y = Relu(s)", 13),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nodes_that_depend_on_the_order_stay(name: str) -> None:
    """The witness: without the Transposes, the node computes other values."""
    text, opset = REFUSED[name]
    arrays = used(text) | (weights(w=(3, 3)) if "w)" in text else {})
    model = parsed(f"a = Transpose<perm=[0,2,3,1]>(x) {text}", arrays, opset)
    folded, _ = fold(model, Policy.CHEAPEST)
    assert "Transpose" in ops(folded)
    agree(model, folded, 2, 3, 3, 3)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    first = bare.graph.node[0].output[0]
    del bare.graph.node[0]
    bare.graph.node[0].input[0] = "x"
    assert first == "a"
    if bare.graph.node[-1].op_type == "Transpose":
        inner = bare.graph.node[-1].input[0]
        del bare.graph.node[-1]
        bare.graph.node[-1].output[0] = "y"
        assert inner == "b"
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    (expected,), (wrong,) = compute(model, {"x": x}), compute(bare, {"x": x})
    assert expected.shape != wrong.shape or np.abs(expected - wrong).max() > 1e-3


def test_resized_axes_stay_last() -> None:
    """The witness: onnxruntime does not resize rows and channels cubically."""
    resize = 'Resize<mode="cubic">({}, none, {})'
    arrays = {"none": ARRAYS["none"], "inner": np.array([1, 1, 2, 2], np.float32)}
    arrays["outer"] = np.array([1, 2, 1, 2], np.float32)
    text = "a = Transpose<perm=[0,2,3,1]>(x) b = {} y = Transpose<perm=[0,3,1,2]>(b)"
    inner = parsed(text.format(resize.format("a", "inner")), arrays, 13)
    folded, _ = fold(inner, Policy.CHEAPEST)
    assert ops(folded) == ["Transpose", "Resize", "Transpose"]
    agree(inner, folded)
    bare = parsed(f"y = {resize.format('x', 'outer')}", arrays, 13)
    with pytest.raises(Exception, match="Cubic"):
        compute(bare, {"x": np.zeros((2, 3, 4, 6), np.float32)})


def test_equal_choices_leave_the_source() -> None:
    """An activation costs the same before and after a Transpose, so nothing changes."""
    model = parsed("a = Transpose<perm=[0,2,3,1]>(x) y = Relu(a)", {}, 13)
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded) == ["Transpose", "Relu"]
    wide = parsed("a = Transpose<perm=[0,2,3,1]>(x) y = Concat<axis=3>(a, a, a)", {}, 13)
    assert ops(fold(wide, Policy.CHEAPEST)[0]) == ["Transpose", "Concat"]


def test_a_transpose_moves_to_the_smaller_tensor() -> None:
    """It moves behind a pooling, or before a node that enlarges a value."""
    model = parsed(
        "m = Conv<strides=[2,2]>(x, w) r = Concat<axis=1>(m, m, m) "
        "t = Transpose<perm=[0,2,3,1]>(r) y = Relu(t)",
        weights(w=(3, 3, 1, 1)),
        13,
    )
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded)[:2] == ["Conv", "Transpose"]
    agree(model, folded)


def test_a_value_of_unknown_extents_is_as_large_as_its_copies(tmp_path: Path) -> None:
    """A Transpose between a bias and a product, both of which onnxruntime fuses, stays there."""
    model = graph(
        "g (float[1,12,64] x, float[1,12,64] q) => (float[1,12,12] y) "
        "{ a = Relu(x) b = Add(a, c) t = Transpose <perm = [0, 2, 1]> (b) y = MatMul(q, t) }",
        weights(c=(64,)),
        opset=17,
    )
    node = model.graph.node[0]
    node.op_type, node.domain = "Gelu", "com.microsoft"  # whose results have no known shape
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded) == ["Gelu", "Add", "Transpose", "MatMul"]
    assert fused_ops(folded, tmp_path) == fused_ops(model, tmp_path)


def test_a_normalization_over_the_last_axis_stays_there() -> None:
    """Runtimes fuse it in one axis order only; two Transposes cost less than its parts."""
    text = (
        "a = Transpose<perm=[0,2,3,1]>(x) m = ReduceMean<axes=[-1]>(a) z = Sub(a, m) "
        "p = Pow(z, two) v = ReduceMean<axes=[-1]>(p) u = Add(v, eps) s = Sqrt(u) "
        "n = Div(z, s) g = Mul(n, c) b = Add(g, k) t = Transpose<perm=[0,3,1,2]>(b) y = Relu(t)"
    )
    arrays: dict[str, Array] = {
        "two": np.array(2, np.float32),
        "eps": np.array(1e-5, np.float32),
        **weights(c=(3,), k=(3,)),
    }
    model = parsed(text, arrays, 13)
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded) == ops(model)


def test_outputs_keep_their_names_and_order_of_axes() -> None:
    """Also for an output that has consumers and is an output again, transposed."""
    model = parsed(
        "a = Transpose<perm=[0,2,3,1]>(x) b = Relu(a) c = Transpose<perm=[0,3,1,2]>(b) "
        "d = Conv(c, w) e = Transpose<perm=[0,2,3,1]>(d) f = Sigmoid(e)",
        weights(w=(3, 3, 1, 1)),
        13,
        "float b, float c, float f",
    )
    folded, _ = fold(model, Policy.CHEAPEST)
    assert [out.name for out in folded.graph.output] == ["b", "c", "f"]
    agree(model, folded)


def test_a_branch_reads_values_in_their_order() -> None:
    """A subgraph reads an outer value in its original axis order."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N,3,H,W] x, bool k) => (float[N,3,H,W] y, float[N,H,W,3] z) {
            a = Transpose<perm=[0,2,3,1]>(x)
            b = Relu(a)
            c = Transpose<perm=[0,3,1,2]>(b)
            y = Sigmoid(c)
            z = If(k) <
                then_branch = t () => (float[N,H,W,3] p) { p = Neg(b) },
                else_branch = e () => (float[N,H,W,3] q) { q = Abs(b) }
            >
        }"""
    )
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded).count("Transpose") == 1
    x = np.random.default_rng(0).standard_normal(EXTENTS).astype(np.float32)
    for k in (True, False):
        feeds = {"x": x, "k": np.array(k)}
        for e, a in zip(compute(model, feeds), compute(folded, feeds), strict=True):
            np.testing.assert_array_equal(e, a)


def test_a_branch_turns_outer_values_inside() -> None:
    """A subgraph transposes outer values within itself."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N,3,H,W] x, bool k) => (float[N,H,W,9] z) {
            a = Neg(x)
            z = If(k) <
                then_branch = t () => (float[N,H,W,9] p) {
                    c = Transpose<perm=[0,2,3,1]>(a)
                    d = Relu(c)
                    e = Transpose<perm=[0,3,1,2]>(d)
                    f = Concat<axis=1>(e, a, a)
                    h = Abs(f)
                    p = Transpose<perm=[0,2,3,1]>(h)
                },
                else_branch = e () => (float[N,H,W,9] q) {
                    u = Transpose<perm=[0,2,3,1]>(a)
                    q = Concat<axis=3>(u, u, u)
                }
            >
        }"""
    )
    folded, _ = fold(model, Policy.CHEAPEST)
    x = np.random.default_rng(0).standard_normal(EXTENTS).astype(np.float32)
    for k in (True, False):
        feeds = {"x": x, "k": np.array(k)}
        for e, a in zip(compute(model, feeds), compute(folded, feeds), strict=True):
            np.testing.assert_array_equal(e, a)
    branch = next(n for n in folded.graph.node if n.op_type == "If").attribute[0].g
    assert [n.op_type for n in branch.node].count("Transpose") == 1


def test_an_output_extent_remains_without_its_value() -> None:
    """A known shape that is a graph output is stored as a constant, in any opset."""
    for opset in (8, 13):
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : {opset}]> '
            "g (float[2,3,4,5] x) => (int64[4] s, float[2,4,5,3] y) { "
            "t = Transpose<perm=[0,2,3,1]>(x) s = Shape(t) u = Transpose<perm=[0,3,1,2]>(t) "
            "r = Relu(u) y = Transpose<perm=[0,2,3,1]>(r) }"
        )
        folded, _ = fold(model, Policy.CHEAPEST)
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
        for e, a in zip(compute(model, {"x": x}), compute(folded, {"x": x}), strict=True):
            np.testing.assert_array_equal(e, a)


# -- Networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_of_tf2onnx(seed: int) -> None:
    """No value changes, and folding twice equals folding once.

    One Transpose remains for the input and for each output image, and two for each mean of the
    input itself, which may be resized or have its channels permuted first.
    """
    model = random_network(seed)
    folded, _ = fold(model, Policy.CHEAPEST)
    channels = model.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    agree(model, folded, 2, 16, 12, channels)
    images = sum(len(out.type.tensor_type.shape.dim) == 4 for out in model.graph.output)
    inputs = {"x"}
    for node in folded.graph.node:
        if node.op_type in {"Gather", "Resize"} and node.input[0] in inputs:
            inputs.add(node.output[0])
    squeezed = 2 * sum(n.op_type == "Mul" and n.input[0] in inputs for n in folded.graph.node)
    assert ops(folded).count("Transpose") <= 1 + images + squeezed
    assert "Pad" not in ops(folded)
    again, _ = fold(folded, Policy.CHEAPEST)
    assert ops(again).count("Transpose") == ops(folded).count("Transpose")


@pytest.mark.parametrize("seed", range(12))
def test_locked_nodes_stay(seed: int) -> None:
    """Locked nodes do not change, for any set of them, and no value changes."""
    source = random_network(seed)
    rng = np.random.default_rng(seed)
    locked = frozenset(n.name for n in source.graph.node if rng.random() < 0.2)
    model = ir.serde.deserialize_model(source)
    list(straighten_layouts(model.graph, Facts(model), Rewriter(model), lambda _: None, locked))
    turned = ir.serde.serialize_model(model)
    spelled = {n.name: (n.op_type, list(n.attribute)) for n in turned.graph.node}
    for node in source.graph.node:
        if node.name in locked:
            assert spelled[node.name] == (node.op_type, list(node.attribute))
    channels = source.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    agree(source, turned, 2, 16, 12, channels)


@pytest.mark.parametrize("block", range(6))
def test_random_graphs_of_turned_values(block: int) -> None:
    """Nodes of every kind between Transposes of any permutation compute the same."""
    for seed in range(block * 12, block * 12 + 12):
        graph = TurnedGraph(seed)
        model = graph.model()
        try:
            onnx.checker.check_model(model, full_check=True)
            expected = graph.run(model)
        except Exception:  # single nodes that run do not always form a valid graph
            continue
        folded, _ = fold(model, Policy.CHEAPEST)
        assert ops(folded).count("Transpose") <= ops(model).count("Transpose")
        for e, a in zip(expected, graph.run(folded), strict=True):
            assert (e.shape, e.dtype) == (a.shape, a.dtype), seed
            allowed = 1e-4 * max(1.0, float(np.abs(e).max(initial=0)))
            np.testing.assert_allclose(a, e, rtol=0, atol=allowed, err_msg=str(seed))


# -- Cuts -------------------------------------------------------------------------------------


@given(
    count=st.integers(0, 6),
    charges=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 9)), max_size=24
    ),
)
@settings(deadline=None)
def test_a_cut_costs_the_least(count: int, charges: list[tuple[int, int, int]]) -> None:
    """The cut costs as much as the best of all assignments of vertices to two sides."""
    cut = Cut()
    for _ in range(count):
        cut.vertex()
    within = [c for c in charges if max(c[:2]) < count + 2]
    for first, second, cost in within:
        cut.charge(first, second, cost)

    def price(side: tuple[bool, ...]) -> int:
        return sum(c for a, b, c in within if a != b and not side[a] and side[b])

    best = min(
        price((False, True, *rest)) for rest in itertools.product((False, True), repeat=count)
    )
    found = tuple(cut.second_side())
    assert found[:2] == (False, True)
    assert price(found) == best
