"""Each part that differs between two models is compared with its forward error bound."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnx_expand
from onnx_expand import check
from onnx_expand.equivalence.parts.magnitude import gamma
from onnx_expand.equivalence.parts.region import Region
from onnx_expand.equivalence.parts.regions import examine
from onnx_expand.model import read
from tests.support.graphs_text import bn, graph, weights
from tests.support.moved import moved
from tests.support.random_graphs import random_graph
from tests.support.zoo import ZOO

pytest.importorskip("onnxruntime")

Array = npt.NDArray[Any]
CPU = ("cpu", "cpu")


def regions(a: onnx.ModelProto, b: onnx.ModelProto, seed: int = 0) -> tuple[Region, ...]:
    """Return the parts that differ, on normal inputs; a symbolic extent is 3."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in a.graph.input:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = [dim.dim_value or 3 for dim in kind.shape.dim]
        feeds[value.name] = rng.standard_normal(shape).astype(dtype)
    return examine(read(a), read(b), feeds, CPU).regions


@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([np.float32, np.float16]))
@settings(max_examples=40, deadline=None)
def test_folds_are_within_the_bounds(seed: int, dtype: type) -> None:
    """The error of every merge in a random graph is within its bound."""
    model = random_graph(seed, length=6, dtype=dtype)
    for region in regions(model, onnx_expand.fold(model), seed % 1000):
        assert region.holds, region.summary()


@pytest.mark.parametrize("name", ZOO)
def test_every_merge_of_a_network_has_a_bound(name: str) -> None:
    """Fold changes linear parts only, so each part has a bound."""
    model = ZOO[name].build()
    found = regions(model, onnx_expand.fold(model))
    assert found
    assert [region.obstacle for region in found] == [""] * len(found)
    assert all(region.holds for region in found)
    # A bound far above all errors would detect nothing.
    assert max(region.ratio for region in found) > 0.005


DEEP = graph(
    "g (float[N,64] x) => (float[N,64] y) "
    "{ h = MatMul(x, a) k = MatMul(h, b) r = Relu(k) s = MatMul(r, c) y = Add(s, d) }",
    {**weights(3, a=(64, 64), b=(64, 64), c=(64, 64)), "d": np.full(64, 1e4, np.float32)},
)
_DEEP = {t.name: numpy_helper.to_array(t) for t in DEEP.graph.initializer}
_PRODUCT = _DEEP["a"].astype(np.float64) @ _DEEP["b"].astype(np.float64)
SHORT = graph(
    "g (float[N,64] x) => (float[N,64] y) "
    "{ k = MatMul(x, ab) r = Relu(k) s = MatMul(r, c) y = Add(s, d) }",
    {"ab": _PRODUCT.astype(np.float32), "c": _DEEP["c"], "d": _DEEP["d"]},
)


def test_an_error_hidden_from_the_output_is_found() -> None:
    """A large bias hides a wrong weight from the output, but not from the part."""
    assert check(DEEP, SHORT, samples=1, providers=["cpu"])
    wrong = moved(SHORT, "ab", 1e-2)
    assert check(DEEP, wrong, samples=1, providers=["cpu"], regions=False)
    verdict = check(DEEP, wrong, samples=1, providers=["cpu"])
    assert not verdict
    assert verdict.differences[0].startswith("'k', computed by ")
    (region,) = (r for r in verdict.regions if not r.holds)
    assert region.nodes_a == ("h", "k")
    assert region.ratio > 1
    assert verdict.as_dict()["regions"][0]["tensor"] == "k"


@given(seed=st.integers(0, 2**32 - 1), layers=st.integers(1, 5), width=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_no_order_of_sums_leaves_the_bound(seed: int, layers: int, width: int) -> None:
    """Products of matrices in float32, in any order and grouping, are within the bound."""
    rng = np.random.default_rng(seed)
    chain = [(rng.standard_normal((width, width)) * 8.0).astype(np.float32) for _ in range(layers)]
    x = (rng.standard_normal((4, width)) * 100).astype(np.float32)
    exact, sizes = x.astype(np.float64), np.abs(x).astype(np.float64)
    for matrix in chain:
        exact, sizes = exact @ matrix, sizes @ np.abs(matrix)
    bound = gamma(layers * width, 2.0**-24) * sizes
    merged = [x, *chain]
    while len(merged) > 1:
        at = int(rng.integers(len(merged) - 1))
        order = rng.permutation(width)
        merged[at : at + 2] = [np.add.reduce(
            merged[at][:, order, None] * merged[at + 1][None, order], axis=1, dtype=np.float32
        )]  # fmt: skip
    assert np.all(np.abs(merged[0] - exact) <= bound)


def test_the_bound_of_a_coarse_type_is_finite() -> None:
    """Where n times the unit exceeds one half, the probabilistic bound applies."""
    assert gamma(3, 2.0**-24) == pytest.approx(3 * 2.0**-24, rel=1e-6)
    assert 0 < gamma(10_000, 2.0**-11) < 1
    assert not math.isinf(gamma(10**6, 2.0**-8))


def test_fusions_of_onnxruntime_pass(tmp_path: Path) -> None:
    """Normalizations that onnxruntime folds in float32 are within the bounds."""
    import onnxruntime as ort

    model = graph(
        "g (float[1,3,9,9] x) => (float[1,8,9,9] y) { a = Conv<pads=[1,1,1,1]>(x, w) "
        "b = BatchNormalization(a, n_s, n_b, n_m, n_v) c = Relu(b) d = Conv(c, v) "
        "y = BatchNormalization(d, k_s, k_b, k_m, k_v) }",
        {**weights(w=(6, 3, 3, 3), v=(8, 6, 1, 1)), **bn("n", 6), **bn("k", 8)},
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(tmp_path / "fused.onnx")
    assert "BatchNormalization" not in {node.op_type for node in fused.graph.node}
    found = regions(model, fused)
    assert [region.obstacle for region in found] == ["", ""]
    assert all(0 < region.ratio <= 1 for region in found)


def test_equal_parts_are_not_run() -> None:
    """Only different parts are compared; constants of equal elements are equal."""
    assert regions(DEEP, onnx.ModelProto.FromString(DEEP.SerializeToString())) == ()
    (region,) = regions(DEEP, moved(DEEP, "c", 1e-7))
    assert (region.tensor, region.holds) == ("s", True)


def test_equal_names_of_other_tensors_are_not_differences() -> None:
    """Exporters number tensors, so one name may denote different tensors in two models."""
    head, numbers = "g (float[N,8] x) => (float[N,8] y)", weights(a=(8, 8))
    one = graph(head + "{ t1 = Relu(x) t2 = MatMul(t1, a) y = Sum(t1, t2) }", numbers)
    two = graph(head + "{ t2 = Relu(x) t1 = MatMul(t2, a) y = Sum(t1, t2) }", numbers)
    (region,) = regions(one, two)
    assert region.tensor == "y"
    assert region.holds
    assert check(one, two, samples=1, providers=["cpu"])


def test_parts_without_a_bound_are_named() -> None:
    """A part with a nonlinear operator is compared by the outputs only, and reported."""
    head, numbers = "g (float[N,8] x) => (float[N,8] y)", weights(a=(8, 8))
    a = graph(head + "{ h = MatMul(x, a) t = Tanh(h) y = MatMul(t, a) }", numbers)
    b = graph(head + "{ i = MatMul(x, a) u = Tanh(i) v = Identity(u) y = MatMul(v, a) }", numbers)
    (region,) = regions(a, b)
    assert region.obstacle == "no bound is known for Tanh 't'"
    verdict = check(a, b, samples=1, providers=["cpu"])
    assert verdict
    assert any("without a useful forward error bound" in note for note in verdict.notes)


OPS = {
    "Sub": "y = Sub(c, x)",
    "Div": "a = Div(x, c) y = MatMul(a, w)",
    "Neg": "a = Neg(x) y = Add(a, c)",
    "LeakyRelu": "a = MatMul(x, w) b = LeakyRelu<alpha = -0.5>(a) y = Sub(b, c)",
    "Clip": "a = MatMul(x, w) l = Constant<value_float = -1.0>() b = Clip(a, l) y = Sub(b, c)",
    "PRelu": "a = PRelu(x, s) y = MatMul(a, w)",
    "Gemm": "y = Gemm<alpha = -2.0, beta = -3.0>(x, w, c)",
    "Einsum": 'y = Einsum<equation = "ij,jk->ik">(x, w)',
    "ReduceMean": "a = ReduceMean<axes = [1]>(x) y = Sub(a, c)",
    "Concat": "a = Neg(x) b = Concat<axis = 1>(a, x) y = MatMul(b, v)",
    "Max": "a = Sub(x, c) y = Max(a, x)",
    "products": "a = MatMul(x, w) b = Sub(x, c) y = Mul(a, b)",
}


@pytest.mark.parametrize("name", OPS)
def test_every_operator_is_bounded(name: str) -> None:
    """A part of any bounded operator passes with its rounding and fails with twice the bound."""
    numbers = {
        **weights(5, w=(6, 6), v=(12, 6)),
        "c": np.array([3, -2, 1, -1, 2, -3], np.float32),
        "s": np.array([0.5, -1, 0, 1, 0.1, -0.2], np.float32),
    }
    body = OPS[name]
    a = graph(f"g (float[N,6] x) => (float[N,6] y) {{ {body} }}", numbers)
    also = graph(
        f"g (float[N,6] x) => (float[N,6] y) {{ {body.replace('y =', 'z =')} y = Add(z, o) }}",
        {**numbers, "o": np.zeros(6, np.float32)},
    )
    (region,) = regions(a, also)
    assert not region.obstacle
    assert region.holds
    assert region.bound < 1e-4
    (region,) = regions(a, moved(also, "o", 2.1 * region.bound + 1e-5))
    assert not region.holds


def test_arithmetic_of_weights_is_measured() -> None:
    """Cancellation in the computation of weights enlarges the tolerance."""
    rng = np.random.default_rng(0)
    big = (1000 + rng.standard_normal((6, 6))).astype(np.float32)
    near = (big + 1e-3 * rng.standard_normal((6, 6))).astype(np.float32)
    text = (
        "g (float[N,6] x) => (float[N,6] y) "
        "{ d = Div(p, q) e = Div(o, q) w = Sub(d, e) z = MatMul(x, w) y = Relu(z) }"
    )
    numbers = {"p": big, "o": near, "q": np.float32(7) * np.ones((6, 6), np.float32)}
    model = graph(text, numbers)
    folded = onnx_expand.fold(model)
    assert [node.op_type for node in folded.graph.node] == ["MatMul", "Relu"]
    (region,) = regions(model, folded)
    assert not region.obstacle
    assert region.holds, region.summary()
    assert region.error > 1e-6  # more than the error of any sum of six products
    exact = (big.astype(np.float64) - near) / 7
    other = graph(
        "g (float[N,6] x) => (float[N,6] y) { z = MatMul(x, w) y = Relu(z) }",
        {"w": (exact + 1e-3).astype(np.float32)},
    )
    (region,) = regions(model, other)
    assert not region.holds


def test_a_name_of_another_shape_is_another_tensor() -> None:
    """If a name has another shape in B, the part around it is compared all the same."""
    constants = weights(5, w=(8, 16), v=(16, 8))
    a = graph(
        "g (float[1,6,8] x) => (float[1,6,8] y) "
        "{ h = MatMul(x, w) r = Relu(h) s = MatMul(r, v) y = Tanh(s) }",
        constants,
    )
    constants |= {"rows": np.array([-1, 8]), "tokens": np.array([1, 6, 8])}
    b = graph(
        "g (float[1,6,8] x) => (float[1,6,8] y) { x2 = Reshape(x, rows) h = Gemm(x2, w) "
        "r = Relu(h) s2 = Gemm(r, v) s = Reshape(s2, tokens) y = Tanh(s) }",
        constants,
    )
    (found,) = regions(a, b)
    assert (found.tensor, found.obstacle) == ("s", "")
    assert found.holds


@pytest.mark.parametrize("depth", [2, 6])
def test_a_bound_over_many_layers_allows_no_other_weights(depth: int) -> None:
    """Without a common tensor inside, the bound is huge, and excuses no difference."""

    def network(seed: int, mark: str) -> onnx.ModelProto:
        names = ["x", *(f"{mark}{i}" for i in range(2 * depth - 1)), "y"]
        text = "".join(
            f"{names[2 * i + 1]} = MatMul({names[2 * i]}, w{i}) "
            f"{names[2 * i + 2]} = Relu({names[2 * i + 1]}) "
            for i in range(depth)
        )
        shapes = {f"w{i}": (256, 256) for i in range(depth)}
        constants = weights(seed, **shapes)
        return graph(f"g (float[N,256] x) => (float[N,256] y) {{ {text} }}", constants)

    verdict = check(network(0, "a"), network(1, "b"))
    assert not verdict, verdict.summary()
    same = check(network(0, "a"), network(0, "b"))
    assert same
    assert same.rests_on == "identity"
