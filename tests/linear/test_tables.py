"""What is added behind a matrix product, row by row or number by number, is the C of a Gemm."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnx_expand
from onnx_expand.passes import Policy
from tests.support.folding import assert_folds
from tests.support.graphs import Array
from tests.support.graphs_text import fold, graph, ops

pytest.importorskip("onnxruntime")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "75"))


def normal(*shape: int, seed: int = 0) -> Array:
    """Normal random numbers in float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


COLUMN, FULL, ROW = {"c": normal(4, 1)}, {"c": normal(4, 5)}, {"c": normal(5)}

# name: (nodes, constants, what must come out, elements of each constant)
CASES: dict[str, tuple[str, dict[str, Array], list[str], list[int]]] = {
    "a column": ("a = MatMul(x, w) y = Add(a, c)", COLUMN, ["Gemm"], [15, 4]),
    "a column and a row": (
        "a = Gemm(x, w, r) y = Sub(a, c)",
        COLUMN | {"r": normal(5)},
        ["Gemm"],
        [15, 20],
    ),
    "a matrix": ("a = MatMul(x, w) y = Add(c, a)", FULL, ["Gemm"], [15, 20]),
    "a matrix that is subtracted": ("a = MatMul(x, w) y = Sub(a, c)", FULL, ["Gemm"], [15, 20]),
    "two matrices": (
        "a = Gemm<beta=0.5>(x, w, c) y = Add(a, d)",
        FULL | {"d": normal(4, 5, seed=1)},
        ["Gemm"],
        [15, 20],
    ),
    "a matrix, and a product before it": (
        "a = Gemm(x, w, r) y = Gemm<alpha=2.0, beta=-1.0>(a, v, c)",
        {"r": normal(5), "v": normal(5, 2), "c": normal(4, 2)},
        ["Gemm"],
        [6, 8],
    ),
    "a matrix, and a scale of the columns behind it": (
        "a = Gemm(x, w, c) y = Mul(a, s)",
        FULL | {"s": normal(5)},
        ["Gemm"],
        [15, 20],
    ),
    "a matrix, and a scale of the columns before it": (
        "b = Mul(x, s) a = MatMul(b, w) y = Add(a, c)",
        FULL | {"s": normal(3)},
        ["Gemm"],
        [15, 20],
    ),
    "a matrix, and a number before it": (
        "b = Div(x, s) y = Gemm<alpha=2.0, beta=-1.0>(b, w, c)",
        FULL | {"s": normal(1)},
        ["Gemm"],
        [15, 20],
    ),
    "a matrix, and a scale and a shift before it": (
        "b = Mul(x, s) d = Add(b, r) y = Gemm(d, w, c)",
        FULL | {"s": normal(3), "r": normal(3, seed=1)},
        ["Gemm"],
        [15, 20],
    ),
    "a scale of the rows before it stays": (
        "b = Mul(x, s) y = Gemm(b, w, c)",
        FULL | {"s": normal(4, 1, seed=1)},
        ["Mul", "Gemm"],
        [4, 15, 20],
    ),
    "a column, and a product behind it": (
        "a = MatMul(x, w) b = Add(a, c) y = MatMul(b, v)",
        COLUMN | {"v": normal(5, 2)},
        ["Gemm"],
        [6, 8],
    ),
    "a product from the left": (
        "t = Transpose(x) a = MatMul(w, t) y = Add(a, c)",
        {"w": normal(5, 3), "c": normal(5, 4)},
        ["Gemm"],
        [15, 20],
    ),
    "a scale of the rows stays": (
        "a = MatMul(x, w) b = Add(a, c) y = Mul(b, s)",
        COLUMN | {"s": normal(4, 1, seed=1)},
        ["Gemm", "Mul"],
        [15, 4, 4],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_out(name: str) -> None:
    """One Gemm, with a C as small as it can be."""
    nodes, constants, expected, elements = CASES[name]
    text = f"g (float[4,3] x) => (float[A,B] y) {{ {nodes} }}"
    model = graph(text, {"w": normal(3, 5)} | constants)
    folded, _ = fold(model)
    assert [op for op in ops(folded) if op != "Transpose"] == expected
    assert sorted(int(np.prod(t.dims)) for t in folded.graph.initializer) == sorted(elements)
    again, report = fold(folded)
    assert again.SerializeToString() == folded.SerializeToString()
    assert not report.sites
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


@pytest.mark.parametrize(
    ("shape", "nodes", "constants"),
    [
        ("N,3", "a = MatMul(x, w) y = Add(a, c)", COLUMN),  # another number of rows fails
        ("4,3", "a = MatMul(x, w) b = Relu(a) y = Add(b, c)", COLUMN),
        ("1,3", "a = MatMul(x, w) y = Add(a, c)", COLUMN),  # one row becomes four
        ("2,4,3", "a = MatMul(x, w) y = Add(a, c)", COLUMN),
        ("4,3", "a = MatMul(x, w) y = Sub(c, a)", FULL),  # the product is negated
    ],
)
def test_what_stays(shape: str, nodes: str, constants: dict[str, Array]) -> None:
    """Where rows are not static, or none of the product's, nothing is added by it."""
    axes = ",".join("ABC"[: shape.count(",") + 1])
    text = f"g (float[{shape}] x) => (float[{axes}] y) {{ {nodes} }}"
    model = graph(text, {"w": normal(3, 5)} | constants)
    folded, _ = fold(model)
    assert "Gemm" not in ops(folded)
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


def random_matrices(seed: int, length: int, opset: int, dtype: type) -> onnx.ModelProto:
    """A chain of products, and of what is added and multiplied to rows, columns and places."""
    rng = np.random.default_rng(seed)
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(*shape: int) -> str:
        array: Array = rng.standard_normal(shape).astype(dtype)
        constants.append(numpy_helper.from_array(array, f"c{len(constants)}"))
        return constants[-1].name

    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    size, value = (rows, columns), "x"
    for i in range(length):
        way = rng.choice(["MatMul", "Gemm", "Add", "Add", "Sub", "Mul", "Relu", "left"])
        shapes = [size, (size[0], 1), (1, size[1]), (size[1],), (1, 1), ()]
        shape = shapes[int(rng.integers(len(shapes)))]
        attributes: dict[str, Any] = {}
        inputs = [value]
        if way in {"MatMul", "Gemm"}:
            n = int(rng.integers(1, 4))
            transposed = bool(way == "Gemm" and rng.integers(2))
            weight = (n, size[1]) if transposed else (size[1], n)
            inputs.append(constant(*weight))
            size = (size[0], n)
            if way == "Gemm":
                shapes = [size, (size[0], 1), (1, n), (n,), (1, 1), ()]
                inputs.append(constant(*shapes[int(rng.integers(len(shapes)))]))
                attributes = {"transB": int(transposed), "alpha": 2.0, "beta": -0.5}
        elif way == "left":
            n = int(rng.integers(1, 4))
            inputs.insert(0, constant(n, size[0]))
            size, way = (n, size[1]), "MatMul"
        elif way != "Relu":
            inputs.append(constant(*shape))
            if rng.integers(2):
                inputs.reverse()
        nodes.append(helper.make_node(way, inputs, [f"v{i}"], name=f"n{i}", **attributes))
        value = f"v{i}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    body = helper.make_graph(
        nodes,
        "matrices",
        [helper.make_tensor_value_info("x", kind, [rows, columns])],
        [helper.make_tensor_value_info(value, kind, size)],
        constants,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.sampled_from([7, 9, 11, 13, 17, 20]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]),
)
def test_folding_changes_no_number(
    seed: int, length: int, opset: int, dtype: type, policy: Policy
) -> None:
    """Folded and original agree, no product is added, and folding twice is folding once."""
    model = random_matrices(seed, length, opset, dtype)
    onnx.checker.check_model(model, full_check=True)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    x = np.random.default_rng(seed).standard_normal([d.dim_value for d in dims])
    assert_folds(model, x, policy)
