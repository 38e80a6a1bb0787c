"""Weights that a graph computes from constants are stored, if the file does not grow."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_expand
from onnx_expand.passes import Policy
from tests.support.graphs_text import fold, graph, ops, weights

pytest.importorskip("onnxruntime")


def test_arithmetic_before_a_single_layer_is_stored() -> None:
    """A low-rank update inside a layer becomes its weight, and its parts are removed."""
    model = graph(
        """
        g (float[N,4,5,5] x) => (float[N,6,5,5] y) {
            two = Constant <value: tensor = float {2}> ()
            ab = MatMul(a, b)
            shape = Constant <value: tensor = int64[4] {6,4,1,1}> ()
            kernel = Reshape(ab, shape)
            scaled = Mul(kernel, two)
            sum = Add(w, scaled)
            y = Conv(x, sum)
        }
        """,
        weights(a=(6, 2), b=(2, 4), w=(6, 4, 1, 1)),
    )
    folded, report = fold(model)
    assert ops(folded) == ["Conv"]
    assert [i.name for i in folded.graph.initializer] == ["sum"]
    assert [site.result for site in report.sites] == [("sum",)]
    assert onnx_expand.check(model, folded)


def test_weights_stored_in_half_precision_stay_so() -> None:
    """Storing the result of a Cast would double the file."""
    half = weights(w=(64, 64))["w"].astype(np.float16)
    model = graph(
        """
        g (float[N,64] x) => (float[N,64] y) {
            w32 = Cast <to: int = 1> (w)
            y = MatMul(x, w32)
        }
        """,
        {"w": half},
    )
    folded, report = fold(model)
    assert ops(folded) == ["Cast", "MatMul"]
    assert not report.sites


def test_an_unshared_transposed_weight_is_stored() -> None:
    """A transposed weight replaces its source, unless the source is tied."""
    text = """
        g (float[N,64] x) => (float[N,32] y{more}) {{
            t = Transpose <perm: ints = [1, 0]> (w)
            y = MatMul(x, t)
            {node}
        }}
        """
    alone = graph(text.format(more="", node=""), weights(w=(32, 64)))
    tied = graph(text.format(more=", float[32,64] z", node="z = Identity(w)"), weights(w=(32, 64)))
    assert ops(fold(alone)[0]) == ["MatMul"]
    assert ops(fold(tied)[0]) == ["Transpose", "MatMul", "Identity"]


def test_a_computed_constant_that_is_an_output_stays() -> None:
    """The node that computes the output stays."""
    model = graph(
        """
        g (float[N,4] x) => (float[N,4] y, float[4,4] t) {
            t = Mul(w, w)
            y = MatMul(x, t)
        }
        """,
        weights(w=(4, 4)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Mul", "MatMul"]


def test_all_readers_of_a_computed_weight_get_the_same() -> None:
    """One constant replaces the value for all its consumers."""
    model = graph(
        """
        g (float[N,4] x) => (float[N,4] y) {
            t = Mul(w, w)
            a = MatMul(x, t)
            r = Relu(a)
            y = MatMul(r, t)
        }
        """,
        weights(w=(4, 4)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["MatMul", "Relu", "MatMul"]
    assert len(folded.graph.initializer) == 1
    assert onnx_expand.check(model, folded)


def test_undoing_an_expansion_leaves_computed_weights() -> None:
    """The policy `marked` changes only nodes of expand."""
    model = graph(
        "g (float[N,4] x) => (float[N,4] y) { t = Mul(w, w)\n y = MatMul(x, t) }",
        weights(w=(4, 4)),
    )
    assert ops(fold(model, Policy.MARKED)[0]) == ["Mul", "MatMul"]


def test_a_static_extent_of_a_dynamic_shape_is_a_constant() -> None:
    """A split point computed from the channels of a value with a dynamic batch is stored."""
    model = graph(
        """
        g (float[N,4,5,5] x) => (float[N,2,5,5] y) {
            s = Shape(x)
            one = Constant <value: tensor = int64 {1}> ()
            c = Gather(s, one)
            two = Constant <value: tensor = int64 {2}> ()
            half = Div(c, two)
            axis = Constant <value: tensor = int64[1] {0}> ()
            end = Unsqueeze(half, axis)
            start = Constant <value: tensor = int64[1] {0}> ()
            axes = Constant <value: tensor = int64[1] {1}> ()
            cut = Slice(x, start, end, axes)
            y = Mul(cut, f)
        }
        """,
        {"f": np.arange(1, 3, dtype=np.float32).reshape(2, 1, 1)},
    )
    folded, _ = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["Conv"], ops(folded)
    assert onnx_expand.check(model, folded)


def test_constants_that_one_node_reads_twice_or_in_parts() -> None:
    """Each is stored once, whatever other consumers the outputs of the node have."""
    twice = graph(
        "g (float[2,4] x) => (float[2,4] y) {  s = Sqrt(v)  a = MatMul(x, w)  y = Sum(a, s, s) }",
        {"v": np.arange(1.0, 5.0, dtype=np.float32), **weights(w=(4, 4))},
    )
    parts = graph(
        "g (float[2,4] x) => (float[2,4] y) {"
        "  n = Neg(v)  s, t = Split <axis = 0> (n)"
        "  a = MatMul(x, s)  b = Relu(a)  c = MatMul(b, t)  y = Add(c, x) }",
        weights(v=(8, 4)),
    )
    for model in (twice, parts):
        folded, report = fold(model)
        assert report.sites
        assert not {"Sqrt", "Neg", "Split"} & set(ops(folded))
        assert onnx_expand.check(model, folded)


def test_parts_of_a_weight_are_stored_in_the_order_of_the_graph() -> None:
    """No order depends on where objects lie in memory: fold is deterministic."""
    count = 12
    names = [f"p{i}" for i in range(count)]
    reads = [f"m{i} = MatMul(x, p{i}) y{i} = Relu(m{i})" for i in range(count)]
    ports = ", ".join(f"float[N,4] y{i}" for i in range(count))
    model = graph(
        f"g (float[N,4] x) => ({ports}) {{"
        f"  {', '.join(names)} = Split <axis = 1> (w) {' '.join(reads)} }}",
        weights(w=(4, 4 * count)),
        opset=13,
    )
    folded, _ = fold(model)
    assert [constant.name for constant in folded.graph.initializer] == names


SHARED = (
    "g (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w) b = Mul(a, k) c = Tanh(b) "
    "d = MatMul(c, w) e = Mul(d, %s) y = Tanh(e) }"
)
HALF = {"k": np.array(0.5, np.float32), "l": np.array(0.25, np.float32)}


def test_equal_results_are_written_once() -> None:
    """A tied weight that is scaled equally for all its consumers remains one weight."""
    model = graph(SHARED % "k", weights(w=(64, 64)) | HALF)
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["MatMul", "Tanh", "MatMul", "Tanh"]
    stored = [t for t in folded.graph.initializer if t.name != "l"]
    assert [list(t.dims) for t in stored] == [[64, 64]]
    assert not report.copies
    assert onnx_expand.check(model, folded)


def test_results_that_differ_in_a_bit_are_two() -> None:
    """A weight that is scaled by two factors has two versions."""
    model = graph(SHARED % "l", weights(w=(64, 64)) | HALF)
    folded, report = fold(model, Policy.ALWAYS)
    assert len(folded.graph.initializer) == 2
    assert not report.copies  # neither equals the source
    assert onnx_expand.check(model, folded)


@pytest.mark.parametrize(
    "head", ["a = MatMul(x, w)", "t = Transpose<perm=[1,0]>(w) a = MatMul(x, t)"]
)
def test_the_report_says_what_grew(head: str) -> None:
    """A weight that stays for another reader, beside the one made from it, is reported."""
    text = (
        f"g (float[N,64] x) => (float[N,64] y) {{ {head} b = Mul(a, k) c = Tanh(b) "
        "y = MatMul(c, w) }"
    )
    model = graph(text, weights(w=(64, 64)) | HALF)
    kept, report = fold(model)
    assert ops(kept) == ops(model)
    assert not report.copies
    folded, report = fold(model, Policy.ALWAYS)
    assert [(c.weight, c.stored) for c in report.copies] == [("w", 64 * 64 * 4)]
    sizes = [len(m.SerializeToString()) for m in (model, folded)]
    assert abs(sizes[1] - sizes[0] - 64 * 64 * 4) < 200
    names = {t.name for t in folded.graph.initializer}
    assert {"w", report.copies[0].result} <= names
    found = report.as_dict()["copies"]
    assert found == [{"weight": "w", "result": report.copies[0].result, "bytes": 64 * 64 * 4}]
