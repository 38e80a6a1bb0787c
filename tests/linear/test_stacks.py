"""Products with a matrix for each of a batch associate, with each other and with one matrix."""

from __future__ import annotations

import os

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
from tests.support.graphs_text import fold, graph, ops, weights

pytest.importorskip("onnxruntime")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "75"))

# name: (the shape of x, nodes, shapes of constants, what must come out, shape of the first weight)
CASES: dict[str, tuple[str, str, dict[str, tuple[int, ...]], list[str], tuple[int, ...]]] = {
    "one after the other": (
        "2,5,3",
        "a = MatMul(x, w) y = MatMul(a, v)",
        {"w": (2, 3, 4), "v": (2, 4, 3)},
        ["MatMul"],
        (2, 3, 3),
    ),
    "of unknown length": (
        "2,T,3",
        "a = MatMul(x, w) y = MatMul(a, v)",
        {"w": (2, 3, 4), "v": (2, 4, 3)},
        ["MatMul"],
        (2, 3, 3),
    ),
    "from the left": (
        "2,3,5",
        "a = MatMul(w, x) y = MatMul(v, a)",
        {"w": (2, 4, 3), "v": (2, 3, 4)},
        ["MatMul"],
        (2, 3, 3),
    ),
    "behind one matrix": (
        "2,5,4",
        "a = MatMul(x, w) y = MatMul(a, v)",
        {"w": (4, 4), "v": (2, 4, 4)},
        ["MatMul"],
        (2, 4, 4),
    ),
    "before a scale of the columns": (
        "2,5,3",
        "a = MatMul(x, w) y = Mul(a, s)",
        {"w": (2, 3, 4), "s": (4,)},
        ["MatMul"],
        (2, 3, 4),
    ),
    "with a number in between": (
        "2,5,3",
        "a = MatMul(x, w) b = Mul(a, s) y = MatMul(b, v)",
        {"w": (2, 3, 4), "s": (), "v": (2, 4, 3)},
        ["MatMul"],
        (2, 3, 3),
    ),
    "one dimension of the batch each": (
        "2,3,5,4",
        "a = MatMul(x, w) y = MatMul(a, v)",
        {"w": (2, 1, 4, 4), "v": (3, 4, 4)},
        ["MatMul"],
        (2, 3, 4, 4),
    ),
    "of more axes than what they multiply": (
        "5,4",
        "a = MatMul(x, w) y = MatMul(a, v)",
        {"w": (2, 4, 4), "v": (3, 1, 4, 4)},
        ["MatMul"],
        (3, 2, 4, 4),
    ),
    "a number for each of the batch": (
        "2,5,3",
        "a = MatMul(x, w) b = Mul(a, s) y = MatMul(b, v)",
        {"w": (2, 3, 4), "s": (2, 1, 1), "v": (2, 4, 3)},
        ["MatMul"],
        (2, 3, 3),
    ),
    "a number for each of the batch before": (
        "2,5,3",
        "b = Mul(x, s) y = MatMul(b, w)",
        {"w": (2, 3, 4), "s": (2, 1, 1)},
        ["MatMul"],
        (2, 3, 4),
    ),
    "a scale of the other side stays": (
        "2,5,3",
        "a = MatMul(x, w) y = Mul(a, s)",
        {"w": (2, 3, 4), "s": (5, 1)},
        ["MatMul", "Mul"],
        (2, 3, 4),
    ),
    "a narrow middle stays": (
        "2,50,8",
        "a = MatMul(x, w) y = MatMul(a, v)",
        {"w": (2, 8, 1), "v": (2, 1, 8)},
        ["MatMul", "MatMul"],
        (2, 8, 1),
    ),
    "two sides stay": (
        "2,3,3",
        "a = MatMul(x, w) y = MatMul(v, a)",
        {"w": (2, 3, 3), "v": (2, 3, 3)},
        ["MatMul", "MatMul"],
        (2, 3, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_out(name: str) -> None:
    """One product where that takes no more, and the same numbers."""
    shape, nodes, constants, expected, first = CASES[name]
    axes = ",".join("ABCD"[: max(shape.count(",") + 1, *map(len, constants.values()))])
    model = graph(
        f"g (float[{shape}] x) => (float[{axes}] y) {{ {nodes} }}", weights(0, **constants)
    )
    folded, _ = fold(model)
    assert ops(folded) == expected
    assert tuple(folded.graph.initializer[0].dims) == first
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


def test_a_weight_that_others_read_stays() -> None:
    """A stack of matrices that another node reads is not stored once more."""
    model = graph(
        "g (float[2,5,3] x) => (float[A,B,C] y, float[D,E,F] z) "
        "{ a = MatMul(x, w) y = MatMul(a, v) z = Relu(v) }",
        weights(w=(2, 3, 3), v=(2, 3, 3)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["MatMul", "MatMul", "Relu"]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([9, 11, 13, 17, 20]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]),
)
def test_folding_changes_no_number(
    seed: int, length: int, opset: int, dtype: type, policy: Policy
) -> None:
    """Folded and original agree, no product is added, and folding twice is folding once."""
    rng = np.random.default_rng(seed)
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    size, value = tuple(map(int, rng.integers(1, 4, rng.integers(2, 5)))), "x"
    source = size
    for i in range(length):
        way = rng.choice(["right", "right", "left", "left", "Mul", "Add", "Relu"])
        inputs = [value]
        if way in {"right", "left"}:
            n = int(rng.integers(1, 5))
            rank = int(rng.integers(0, len(size) - 1))
            axes = size[len(size) - 2 - rank : -2]
            batch = [int(rng.choice([1, s] if s > 1 else [1, 2])) for s in axes]
            if rank == len(size) - 2 and len(size) < 5 and rng.random() < 0.4:
                batch.insert(0, int(rng.integers(1, 4)))  # more axes than the activation has
            shape = (*batch, size[-1], n) if way == "right" else (*batch, n, size[-2])
            whole = np.broadcast_shapes(tuple(batch), size[:-2])
            size = (*whole, size[-2], n) if way == "right" else (*whole, n, size[-1])
        else:
            shape = [(size[-1],), (size[-2], 1), (), (size[0], *(1,) * (len(size) - 1))][
                int(rng.integers(4))
            ]
        if way != "Relu":
            array: Array = rng.standard_normal(shape).astype(dtype)
            constants.append(numpy_helper.from_array(array, f"c{i}"))
            inputs.insert(0 if way == "left" else 1, f"c{i}")
        op = "MatMul" if way in {"right", "left"} else way
        nodes.append(helper.make_node(op, inputs, [f"v{i}"], name=f"n{i}"))
        value = f"v{i}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    body = helper.make_graph(
        nodes,
        "stacks",
        [helper.make_tensor_value_info("x", kind, source)],
        [helper.make_tensor_value_info(value, kind, size)],
        constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    x = rng.standard_normal(source)
    assert_folds(model, x, policy)
