"""Folding is idempotent, even where folding reveals more to shape inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import onnx_expand
from tests.support.graphs_text import bn, graph, weights

Array = npt.NDArray[Any]

_GELU = "r = Div(x, root) e = Erf(r) o = Add(e, one) h = Mul(o, half) "
_NUMBERS: dict[str, Array] = {
    "root": np.array(np.sqrt(2), np.float32),
    "one": np.array(1, np.float32),
    "half": np.array(0.5, np.float32),
}

GRAPHS: dict[str, tuple[str, dict[str, Array]]] = {
    # Only a weight determines the channels of the state of a Loop.
    "a weight behind a state": (
        "g (float[N,8] x) => (float[P,Q] y) { n = Constant<value_int = 3>()"
        " y = Loop(n, , x) <body = b (int64 i, bool c, z) => (bool d, u) { d = Identity(c)"
        " h = HardSigmoid(z) t = Transpose<perm = [0,1]>(h) r = Relu(t)"
        " s = Transpose<perm = [0,1]>(r) m = MatMul(s, w) u = MatMul(m, v) }> }",
        weights(w=(8, 3), v=(3, 8)),
    ),
    # Only the permutation of a Transpose determines the rank of the rows of a Loop.
    "a product of what a loop collects": (
        "g (float[N,6] x) => (float[3,6,N] y) { n = Constant<value_int = 3>()"
        " a, s = Loop(n, , x) <body = b (int64 i, bool c, z) => (bool d, u, v)"
        " { d = Identity(c) u = Tanh(z) v = Tanh(u) }>"
        " m = MatMul(s, w) y = Transpose<perm = [0,2,1]>(m) }",
        weights(w=(6, 6)),
    ),
    # The respelled value has a type, but no value_info in the file.
    "a GELU in another spelling": (
        "g (float[N,4,H,W] x) => (float[N,4,H,W] y) <float[N,4,H,W] s>"
        " {" + _GELU + " z = Mul(h, x) s = Sigmoid(z) y = Exp(s) }",
        _NUMBERS,
    ),
    # A Clip to [0, 6] is what other spellings of it become.
    "a Clip that is ReLU6": (
        "g (float[N,4,H,W] x) => (float[N,4,H,W] y) <float z = {0}, float six = {6}>"
        " { s = Sin(x) y = Clip(s, z, six) }",
        {},
    ),
    # The shift that stays before the border is a scalar: it has no channel axis.
    "a shift of one channel": (
        "g (float[1,3,7,7] x) => (float[1,1,147] y)"
        " { b = BatchNormalization(x, n_s, n_b, n_m, n_v) r = Reshape(b, s) d = Add(r, r)"
        " c = Conv(d, w, t) y = Conv<pads = [1,1]>(c, v) }",
        {**bn("n", 3), **weights(w=(1, 1, 1), t=(1,), v=(1, 1, 3)), "s": np.array([0, 1, -1])},
    ),
    # Only a normalization implies one channel, and it is folded.
    "a channel that nothing tells any more": (
        "g (float[1,C,L,1] x) => (float[1,b,c,1] y) {"
        " p = BatchNormalization(x, n_s, n_b, n_m, n_v)"
        " q = MatMul(v, p) r = MatMul(w, q) z = BatchNormalization(r, o_s, o_b, o_m, o_v)"
        " j = Concat<axis = 1>(z, r) y = Relu(j) }",
        {**bn("n", 1), **bn("o", 1), **weights(v=(4, 4), w=(1, 4))},
    ),
    # Merging two convolutions leaves a value of the same extents before the result.
    "a shape of what was two branches": (
        "g (float[N,6,H,W] x) => (int64[4] y) { m = MaxPool<kernel_shape = [2,2]>(x)"
        " a = Conv(m, w) b = Conv(m, v) c = Concat<axis = 1>(a, b) y = Shape(c) }",
        weights(w=(2, 6, 1, 1), v=(4, 6, 1, 1)),
    ),
    # The scales behind the join are those of its operands; one moves on to fewer elements.
    "a normalization of what is joined": (
        "g (float k, float[1,N] x, float[N,1] a, float[N,1] b, float[N,1] d) => (float[N,4] y)"
        " { m = Mul(k, x) t = Transpose<perm = [1,0]>(m) c = Concat<axis = -1>(t, a, b, d)"
        " y = BatchNormalization(c, n_s, n_b, n_m, n_v) }",
        bn("n", 4),
    ),
    # Without the Transpose, the sum before a join adds a value to itself.
    "a sum before parts that are joined": (
        "g (float[N,4] x) => (float[P,Q] y) { t = Transpose<perm = [0,1]>(x) s = Sum(t, t, x)"
        " a, b = Split<axis = -1>(s, parts) y = Concat<axis = 1>(a, b) }",
        {"parts": np.array([1, 3])},
    ),
    # The rank of the state is known only within the branch.
    "products of a state in a branch": (
        "g (float[N,4] x) => (float[P,Q] y) { n = Constant<value_int = 3>()"
        " f = Constant<value_int = 1>() b = Cast<to = 9>(f)"
        " y = Loop(n, , x) <body = b (int64 i, bool c, z) => (bool d, u) { d = Identity(c)"
        " u = If(c) <then_branch = t () => (p) { m = MatMul(z, w) q = MatMul(m, v)"
        " r = Transpose<perm = [1,0]>(q) s = Transpose<perm = [1,0]>(r) p = Identity(s) },"
        " else_branch = e () => (o) { o = Exp(z) }> }> }",
        weights(w=(4, 4), v=(4, 4)),
    ),
    # An input that is an output declares its shape once.
    "an input that is an output": (
        "g (float[N,8] x) => (float[N,4] y, float[N,8] x) { p = Pad(x, zero)"
        " a, b = Split<axis = 1>(p, halves) s = Mul(b, k) t = Mul(c, s) y = Identity(t) }",
        {
            **weights(k=(1, 4), c=(1,)),
            "zero": np.zeros(4, np.int64),
            "halves": np.array([4, 4]),
        },
    ),
}


@pytest.mark.parametrize("policy", ["cheapest", "always"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_second_fold_changes_nothing(
    name: str, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """No byte changes, and values without a type get no value_info."""
    text, constants = GRAPHS[name]
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for stem, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, stem))
    folded = onnx_expand.fold(model, policy=policy)
    onnx.checker.check_model(folded, full_check=True)
    assert folded != model
    again = onnx_expand.fold(folded, policy=policy)
    assert again == folded
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["float16", "float", "double"])
def test_a_shift_is_padded_with_its_stored_value(kind: str) -> None:
    """The padding value of a border is rounded like the shift."""
    dtype = {"float16": np.float16, "float": np.float32, "double": np.float64}[kind]
    numbers = {"s": np.array([0.7]), "t": np.array([0.3]), "w": np.ones((4, 1, 1))}
    model = graph(
        f"g ({kind}[1,1,L] x) => ({kind}[1,4,M] y)"
        " { a = Mul(s, x) b = Sub(a, t) y = Conv<pads = [0,1]>(b, w) }",
        {name: array.astype(dtype) for name, array in numbers.items()},
    )
    folded = onnx_expand.fold(model, border="pad")
    assert onnx_expand.fold(folded, border="pad") == folded
    if kind != "double":  # onnxruntime has no Conv of this type
        assert [node.op_type for node in folded.graph.node] == ["Pad", "Conv"]
        verdict = onnx_expand.check(model, folded, samples=1, providers=["cpu"])
        assert verdict, verdict.summary()


def test_an_output_of_a_branch_is_computed_in_it() -> None:
    """Inverse Transposes in a branch leave a node for the outer value."""
    model = graph(
        "g (bool f, float[N,6,4] x) => (float[N,6,4] y) { a = Tanh(x) y = If(f) <"
        " then_branch = b () => (float[N,6,4] p) {"
        " t = Transpose<perm = [2,0,1]>(a) p = Transpose<perm = [1,2,0]>(t) },"
        " else_branch = c () => (float[N,6,4] q) { q = Neg(a) }> }",
        {},
    )
    folded = onnx_expand.fold(model)
    onnx.checker.check_model(folded, full_check=True)
    branch = folded.graph.node[-1].attribute[0].g
    assert [node.op_type for node in branch.node] == ["Identity"]
    assert [node.op_type for node in folded.graph.node] == ["Tanh", "If"]
    verdict = onnx_expand.check(model, folded, samples=1, providers=["cpu"])
    assert verdict, verdict.summary()
