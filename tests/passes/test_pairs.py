"""Pairs of nodes that are one, and operands that may be left out: equal bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_expand
from tests.support.graphs_text import graph, ops, weights

Array = npt.NDArray[Any]

X = np.array([[0.0, -0.0, np.inf, -np.inf], [2.5, -2.5, 0.5, 1e-40]], np.float32)
CONSTANTS: dict[str, Array] = {
    **weights(
        w=(1, 32, 4), r=(1, 32, 8), gw=(1, 24, 4), gr=(1, 24, 8), rw=(1, 8, 4), rr=(1, 8, 8)
    ),
    "low": np.array(0, np.float32),
    "below": np.array(-1, np.float32),
    "high": np.array(6, np.float32),
    "one": np.array(1, np.float32),
    "two": np.array(2, np.float32),
    "yes": np.array(True),
    "no": np.array([False]),
    "a0": np.array([0]),
    "a1": np.array([1]),
    "h": np.array([8]),
    "last": np.array(1),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "far": np.array([0, 0, 2, 2, 0, 0, 2, 2]),
    "z22": np.array([0, 2, -1]),
    "z4": np.array([0, -1]),
    "z2": np.array([-1, 2]),
    "m12": np.array([4, 1, -1]),
    "least": np.array(-np.inf, np.float32),
    "nil": np.array(0, np.float32),
    "some": np.ones((1, 1, 8), np.float32),
}
SEQUENCE = "u = Unsqueeze(x, a0) sh = Shape(u) n = Gather(sh, last) nu = Unsqueeze(n, a0) "
STATE = SEQUENCE + "c = Concat <axis = 0> (a1, nu, h) z = ConstantOfShape(c) "
IMAGE = "u = Unsqueeze(x, a0) i = Unsqueeze(u, a0) "

LESS = {
    "twice relu": ("a = Relu(x) y = Relu(a)", ["Relu"]),
    "twice, read twice": ("a = Ceil(x) b = Ceil(a) y = Max(a, b)", ["Ceil", "Max"]),
    "twice abs": ("a = Abs(x) b = Abs(a) y = Exp(b)", ["Abs", "Exp"]),
    "where not": (
        "c = Greater(x, one) n = Not(c) s = Sin(x) y = Where(n, x, s)",
        ["Greater", "Sin", "Where"],
    ),
    "not not": (
        "c = Greater(x, one) n = Not(c) m = Not(n) y = Where(m, x, one)",
        ["Greater", "Where"],
    ),
    "relu6": ("a = Relu(x) y = Clip(a, low, high)", ["Clip"]),
    "concat": (
        "s = Sin(x) a = Concat <axis = -1> (x, s) y = Concat <axis = 1> (a, s)",
        ["Sin", "Concat"],
    ),
    "cast": (
        "c = Greater(x, one) a = Cast <to = 6> (c) y = Cast <to = 1> (a)",
        ["Greater", "Cast"],
    ),
    "power of one": ("a = Sin(x) y = Pow(a, one)", ["Sin"]),
    "and true": (
        "c = Greater(x, one) a = And(yes, c) b = Or(a, no) y = Cast <to = 1> (b)",
        ["Greater", "Cast"],
    ),
    "reduce and unsqueeze": (
        "a = ReduceMax <axes = [1], keepdims = 0> (x) y = Unsqueeze(a, a1)",
        ["ReduceMax"],
    ),
    "reduce and squeeze": ("a = ReduceMax <axes = [-1]> (x) y = Squeeze(a, a1)", ["ReduceMax"]),
    "reduce one": (
        "a = Sin(x) u = Unsqueeze(a, a1) b = ReduceProd <axes = [-2]> (u) y = Cos(b)",
        ["Sin", "Unsqueeze", "Cos"],
    ),
    "pad and maximum": (
        IMAGE + "p = Pad(i, pads, least) y = MaxPool <kernel_shape = [3, 3]> (p)",
        ["Unsqueeze", "MaxPool"],
    ),
    "reshape and back": ("a = Sin(x) b = Reshape(a, z22) y = Reshape(b, z4)", ["Sin"]),
    "reshape to other rows": (
        "a = Sin(x) b = Reshape(a, z22) c = Reshape(b, z2) y = Exp(c)",
        ["Sin", "Reshape", "Exp"],
    ),
    "gemm": ("s = Sin(x) t = Transpose <perm = [1, 0]> (s) y = Gemm(x, t)", ["Sin", "Gemm"]),
    "lstm": (
        STATE + "y, yh, yc = LSTM <hidden_size = 8> (u, w, r, , , z, z)",
        ["Unsqueeze", "LSTM"],
    ),
    "gru": (STATE + "y, yh = GRU <hidden_size = 8> (u, gw, gr, , , z)", ["Unsqueeze", "GRU"]),
    "rnn": (
        SEQUENCE + "c = Concat <axis = 0> (a1, nu, h) z = Expand(nil, c)"
        " y, yh = RNN <hidden_size = 8> (u, rw, rr, , , z)",
        ["Unsqueeze", "RNN"],
    ),
}

STAYS = {
    "a relu that clips more": "a = Relu(x) y = Clip(a, below, high)",
    "what loses a bit": "a = Cast <to = 10> (x) y = Cast <to = 11> (a)",
    "a square": "a = Sin(x) y = Pow(a, two)",
    "two axes": "a = Concat <axis = 0> (x, x) y = Concat <axis = 1> (a, a)",
    "a condition read twice": (
        "c = Greater(x, one) n = Not(c) a = Where(n, x, one) b = Cast <to = 1> (n) y = Max(a, b)"
    ),
    "another axis": "a = ReduceMax <axes = [1], keepdims = 0> (x) y = Unsqueeze(a, a0)",
    "the sum of two": "a = Sin(x) b = ReduceSum(a, a1) y = Cos(b)",
    "zeros around": IMAGE + "p = Pad(i, pads, nil) y = MaxPool <kernel_shape = [3, 3]> (p)",
    "windows of padding": IMAGE + "p = Pad(i, far, least) y = MaxPool <kernel_shape = [2, 2]> (p)",
    "a state of ones": (
        SEQUENCE + "c = Concat <axis = 0> (a1, nu, h) z = Expand(one, c)"
        " y, yh = RNN <hidden_size = 8> (u, rw, rr, , , z)"
    ),
    "an extent of the first": "a = Sin(x) b = Reshape(a, m12) c = Reshape(b, z4) y = Exp(c)",
    "a negative twice": "a = Erf(x) y = Erf(a)",
}


def small(nodes: str, rank: int = 2) -> onnx.ModelProto:
    words = set(nodes.replace("(", " ").replace(")", " ").replace(",", " ").split())
    kind = "double" if "to = 11" in nodes else "float"
    dims = ",".join("ABCD"[:rank])
    return graph(
        f"g (float[N,4] x) => ({kind}[{dims}] y) {{ {nodes} }}",
        {name: array for name, array in CONSTANTS.items() if name in words},
    )


def rank_of(name: str, nodes: str) -> int:
    return (
        4
        if "hidden_size" in nodes or "MaxPool" in nodes
        else 3
        if name == "reduce one"
        else (1 if name == "reduce and squeeze" else 2)
    )


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[Array] = session.run(None, {"x": x})
    return found


@pytest.mark.parametrize("name", LESS)
def test_pairs_are_joined(name: str) -> None:
    nodes, left = LESS[name]
    model = small(nodes, rank_of(name, nodes))
    folded = onnx_expand.fold(model)
    assert ops(folded) == left
    assert onnx_expand.fold(folded) == folded
    x = X if "hidden_size" not in nodes else np.sin(np.arange(8, dtype=np.float32)).reshape(2, 4)
    np.testing.assert_array_equal(run(folded, x)[0], run(model, x)[0])
    onnx.checker.check_model(folded, full_check=True)


@pytest.mark.parametrize("name", STAYS)
def test_what_differs_stays(name: str) -> None:
    nodes = STAYS[name]
    model = small(nodes, rank_of(name, nodes))
    pair = {"MaxPool": "Pad", "RNN": "Expand"}.get(ops(model)[-1])
    left = ops(onnx_expand.fold(model))
    assert pair in left if pair else left == ops(model)


@given(st.data())
def test_axes_of_two_views_are_those_of_one(data: st.DataObject) -> None:
    """Two Squeezes or Unsqueezes of any axes, counted from either end, are one."""
    squeezes, opset = data.draw(st.booleans()), data.draw(st.sampled_from([11, 13]))
    shape = list(data.draw(st.lists(st.integers(2, 3), min_size=1, max_size=3)))
    given_shape, axes = list(shape), []
    for _ in range(2):
        count = data.draw(st.integers(1, 2))
        rank = len(shape) + count
        places = data.draw(
            st.lists(st.integers(0, rank - 1), min_size=count, max_size=count, unique=True)
        )
        for place in sorted(places):
            shape.insert(place, 1)
        axes.append([data.draw(st.sampled_from([p, p - rank])) for p in places])
    op, source = ("Squeeze", shape) if squeezes else ("Unsqueeze", given_shape)
    order = axes[::-1] if squeezes else axes
    constants = {f"a{i}": np.array(own) for i, own in enumerate(order)} if opset > 12 else {}
    one, two = (
        f"({value}, a{i})" if opset > 12 else f"<axes = {order[i]}> ({value})"
        for i, value in enumerate("ab")
    )
    target = given_shape if squeezes else shape
    text = (
        f"g (float{source} x) => (float{target} y) "
        f"{{ a = Sin(x) b = {op} {one} c = {op} {two} y = Exp(c) }}"
    )
    model = graph(text, constants, opset=opset)
    folded = onnx_expand.fold(model)
    assert ops(folded) == ["Sin", op, "Exp"]
    x = np.random.default_rng(0).standard_normal(source).astype(np.float32)
    np.testing.assert_array_equal(run(folded, x)[0], run(model, x)[0])
