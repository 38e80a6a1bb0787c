"""Channels made of channels, and of positions, merge with what maps them, where that is exact."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import OnnxExpandError, Reason
from onnx_expand.linear.chains.composed import shift_before
from onnx_expand.passes import Policy
from tests.support.folding import outputs
from tests.support.graphs import Array
from tests.support.graphs_text import bn, fold, graph, ops, weights
from tests.support.judge import Source, judge
from tests.support.random_channels import OPSETS, random_channels

pytest.importorskip("onnxruntime")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "75"))
SEEDS = st.integers(0, 2**32 - 1)


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Normal random numbers in float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def sizes(model: onnx.ModelProto) -> list[tuple[int, int]]:
    """Heights and widths: those that a model was made for, and others where they are symbolic."""
    height, width = map(int, model.graph.doc_string.split(","))
    is_dynamic = any(d.dim_param == "H" for d in model.graph.input[0].type.tensor_type.shape.dim)
    others = [(2 * height, 2 * width), (height + 1, width + 3)] if is_dynamic else []
    return [(height, width), *others]


def feeds(model: onnx.ModelProto, seed: int, size: tuple[int, int]) -> dict[str, Array]:
    """Inputs of a size, in float64."""
    rng = np.random.default_rng(seed)
    extents = {"N": 2, "H": size[0], "W": size[1]}
    found = {}
    for port in model.graph.input:
        dims = port.type.tensor_type.shape.dim
        shape = [extents[d.dim_param] if d.dim_param else d.dim_value for d in dims]
        found[port.name] = rng.standard_normal(shape)
    return found


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto, seed: int, tolerance: float) -> None:
    """Assert that two models agree in float64, up to a part of the largest number."""
    first_size, *others = sizes(a)
    for size in (first_size, *others):
        given_feeds = feeds(a, seed, size)
        try:
            expected = outputs(a, given_feeds)
        except OnnxExpandError:
            assert size != first_size
            continue  # the source does not take it
        for first, second in zip(expected, outputs(b, given_feeds), strict=True):
            assert first.shape == second.shape
            largest = max(1.0, float(np.max(np.abs(first), initial=0.0)))
            np.testing.assert_allclose(second, first, rtol=0, atol=tolerance * largest)


FOUR = {"s": np.array([1, 3, 1, 1])}
SHIFT = {"m": normal((3, 1, 1)), "d": normal((3, 1, 1))}

ROWS = {key: np.array([n]) for key, n in {"zero": 0, "one": 1, "two": 2, "three": 3}.items()}
ROWS["far"] = np.array([(1 << 63) - 1])
FOCUS = (
    "r = Slice(x, zero, far, two, two) s = Slice(x, one, far, two, two) "
    "p = Slice(r, zero, far, three, two) q = Slice(s, zero, far, three, two) "
    "t = Slice(r, one, far, three, two) u = Slice(s, one, far, three, two) "
    "a = Concat<axis=1>(p, q, t, u) "
)

SHUFFLE = {"cut": np.array([0, 2, 3, 5, 4]), "back": np.array([0, 6, 5, 4])}

# name: (the input, nodes, constants, what must come out, elements of the weight of that)
CASES: dict[str, tuple[str, str, dict[str, Array], list[str], int]] = {
    "one image three times": (
        "1,2,6,7",
        "a = Concat<axis=1>(x, x, x) y = Conv<pads=[1,1,1,1]>(a, w)",
        {"w": normal((4, 6, 3, 3))},
        ["Conv"],
        4 * 2 * 9,
    ),
    "an image, its double and its negative": (
        "N,2,H,W",
        "d = Mul(x, two) n = Neg(x) a = Concat<axis=1>(x, d, n) y = Conv<pads=[1,1,1,1]>(a, w)",
        {"w": normal((4, 6, 3, 3)), "two": np.array(2, np.float32)},
        ["Conv"],
        4 * 2 * 9,
    ),
    "gray to three channels": (
        "N,1,H,W",
        "a = Expand(x, s) y = Conv<pads=[1,1,1,1]>(a, w)",
        {"w": normal((4, 3, 3, 3))} | FOUR,
        ["Conv"],
        4 * 1 * 9,
    ),
    "tiled": (
        "N,2,H,W",
        "a = Tile(x, s) y = Conv<strides=[2,2]>(a, w)",
        {"w": normal((4, 6, 3, 3))} | FOUR,
        ["Conv"],
        4 * 2 * 9,
    ),
    "a factor for each new channel": (
        "N,1,H,W",
        "a = Mul(x, d) y = Conv<pads=[1,1,1,1]>(a, w)",
        {"w": normal((4, 3, 3, 3))} | SHIFT,
        ["Conv"],
        4 * 1 * 9,
    ),
    "a shift for each new channel": (
        "N,1,H,W",
        "a = Sub(x, m) b = Div(a, d) y = Conv(b, w)",
        {"w": normal((4, 3, 3, 3))} | SHIFT,
        ["Conv"],
        4 * 1 * 9,
    ),
    "gray, normalized, before padding": (
        "N,1,H,W",
        "a = Expand(x, s) b = Sub(a, m) c = Div(b, d) y = Conv<pads=[1,1,1,1]>(c, w)",
        {"w": normal((4, 3, 3, 3))} | FOUR | SHIFT,
        ["Add", "Conv"],
        4 * 3 * 9,
    ),
    "focus": (
        "1,3,8,6",
        FOCUS + "y = Conv<pads=[1,1,1,1]>(a, w)",
        {"w": normal((8, 12, 3, 3))} | ROWS,
        ["Conv"],
        8 * 3 * 36,
    ),
    "focus, rows and columns by themselves": (
        "1,3,8,6",
        "r = Slice(x, zero, far, two, two) s = Slice(x, one, far, two, two) "
        "a = Concat<axis=1>(r, s) y = Conv<pads=[1,1,1,1], strides=[1,2]>(a, w)",
        {"w": normal((8, 6, 3, 3))} | ROWS,
        ["Conv"],
        8 * 3 * 18,
    ),
    "space to depth": (
        "N,3,H,W",
        "a = SpaceToDepth<blocksize=2>(x) y = Conv<pads=[1,1,1,1]>(a, w, b)",
        {"w": normal((8, 12, 3, 3)), "b": normal((8,))},
        ["Conv"],
        8 * 3 * 36,
    ),
    "patches": (
        "N,3,12,8",
        "a = SpaceToDepth<blocksize=4>(x) y = Conv(a, w, b)",
        {"w": normal((8, 48, 1, 1)), "b": normal((8,))},
        ["Conv"],
        8 * 3 * 16,
    ),
    "every other row of a convolution": (
        "N,3,H,W",
        "a = Conv<pads=[1,1,1,1]>(x, w) y = Slice(a, one, far, two, two)",
        {"w": normal((8, 3, 3, 3))} | ROWS,
        ["Conv", "Slice"],
        8 * 3 * 9,
    ),
    "every other row of a convolution, from the first on": (
        "N,3,H,W",
        "a = Conv<pads=[1,1,1,1]>(x, w) y = Slice(a, zero, far, two, two)",
        {"w": normal((8, 3, 3, 3))} | ROWS,
        ["Conv"],
        8 * 3 * 9,
    ),
    "depth to space, then a scale and a shift of each channel": (
        "N,4,H,W",
        'c = Conv<pads=[1,1,1,1]>(x, w, b) a = DepthToSpace<blocksize=2, mode="CRD">(c) '
        "s = Mul(a, two) y = Add(s, m)",
        {"w": normal((12, 4, 3, 3)), "b": normal((12,)), "two": np.array(2, np.float32)} | SHIFT,
        ["Conv", "DepthToSpace"],
        12 * 4 * 9,
    ),
    "depth to space by columns": (
        "N,4,H,W",
        "c = Conv(x, w) a = DepthToSpace<blocksize=2>(c) s = Mul(a, d) y = Add(s, m)",
        {"w": normal((12, 4, 3, 3))} | SHIFT,
        ["Conv", "DepthToSpace"],
        12 * 4 * 9,
    ),
    "depth to space, then fewer channels": (
        "N,4,H,W",
        'c = Conv(x, w) a = DepthToSpace<blocksize=2, mode="CRD">(c) y = Conv(a, v, b)',
        {"w": normal((12, 4, 3, 3)), "v": normal((2, 3, 1, 1)), "b": normal((2,))},
        ["Conv", "DepthToSpace"],
        8 * 4 * 9,
    ),
    "pixel shuffle as it is exported": (
        "N,4,6,5",
        "c = Conv(x, w) r = Reshape(c, six) t = Transpose<perm=[0,1,4,2,5,3]>(r) "
        "a = Reshape(t, four) s = Mul(a, d) y = Add(s, m)",
        {"w": normal((12, 4, 3, 3))}
        | SHIFT
        | {"six": np.array([-1, 3, 2, 2, 4, 3]), "four": np.array([-1, 3, 8, 6])},
        ["Conv", "Reshape", "Transpose", "Reshape"],
        12 * 4 * 9,
    ),
    "the scale of each number in a head": (
        "N,7,5",
        "c = MatMul(x, w) r = Reshape(c, heads) s = Mul(r, d) y = Reshape(s, back)",
        {
            "w": normal((5, 12)),
            "d": normal((3,)),
            "heads": np.array([-1, 7, 4, 3]),
            "back": np.array([-1, 7, 12]),
        },
        ["MatMul"],
        5 * 12,
    ),
    "channels in another order, normalized, before padding": (
        "N,3,H,W",
        "g = Gather<axis=1>(x, order) b = Sub(g, m) c = Div(b, d) y = Conv<pads=[3,3,3,3]>(c, w)",
        {"w": normal((4, 3, 7, 7)), "order": np.array([2, 1, 0])} | SHIFT,
        ["Add", "Conv"],
        4 * 3 * 49,
    ),
    "normalized, then in another order, before padding": (
        "N,3,H,W",
        "b = Sub(x, m) c = Div(b, d) g = Gather<axis=1>(c, order) y = Conv<pads=[3,3,3,3]>(g, w)",
        {"w": normal((4, 3, 7, 7)), "order": np.array([2, 1, 0])} | SHIFT,
        ["Sub", "Conv"],
        4 * 3 * 49,
    ),
    "a channel shuffle before a layer": (
        "N,6,5,4",
        "r = Relu(x) a = Reshape(r, cut) b = Transpose<perm=[0,2,1,3,4]>(a) c = Reshape(b, back) "
        "y = Conv(c, w)",
        {"w": normal((8, 6, 1, 1))} | SHUFFLE,
        ["Relu", "Conv"],
        8 * 6,
    ),
    "a channel shuffle behind a layer": (
        "N,6,5,4",
        "r = Conv(x, w) a = Reshape(r, cut) b = Transpose<perm=[0,2,1,3,4]>(a) "
        "c = Reshape(b, back) s = BatchNormalization(c, p_s, p_b, p_m, p_v) y = Relu(s)",
        {"w": normal((6, 6, 1, 1))} | SHUFFLE | bn("p", 6),
        ["Conv", "Relu"],
        6 * 6,
    ),
    "a channel shuffle of the last axis": (
        "N,5,6",
        "r = Relu(x) a = Reshape(r, cut) b = Transpose<perm=[0,1,3,2]>(a) c = Reshape(b, back) "
        "y = MatMul(c, w)",
        {"w": normal((6, 8)), "cut": np.array([0, 0, 2, 3]), "back": np.array([0, 0, 6])},
        ["Relu", "MatMul"],
        8 * 6,
    ),
    "an image and its double among others": (
        "N,2,H,W",
        "d = Mul(x, two) r = Relu(x) a = Concat<axis=1>(x, r, d, x) "
        "y = Conv<pads=[1,1,1,1]>(a, w)",
        {"w": normal((4, 8, 3, 3)), "two": np.array(2, np.float32)},
        ["Relu", "Concat", "Conv"],
        4 * 4 * 9,
    ),
    "two images, each twice": (
        "N,2,H,W",
        "r = Relu(x) s = Add(r, two) a = Concat<axis=1>(x, r, x, s) y = Conv(a, w, b)",
        {"w": normal((4, 8, 3, 3)), "two": np.array(2, np.float32), "b": normal((4,))},
        ["Relu", "Concat", "Conv"],
        4 * 4 * 9,
    ),
    "features three times": (
        "N,5",
        "a = Concat<axis=1>(x, x, x) y = MatMul(a, w)",
        {"w": normal((15, 4))},
        ["MatMul"],
        5 * 4,
    ),
    "the last axis three times": (
        "N,7,5",
        "a = Concat<axis=-1>(x, x, x) y = MatMul(a, w)",
        {"w": normal((15, 4))},
        ["MatMul"],
        5 * 4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_out(name: str) -> None:
    """Few channels made into more are the channels of a cheaper layer."""
    shape, nodes, constants, expected, elements = CASES[name]
    rank = shape.count(",") + 1
    axes = ",".join("ABCD"[:rank])
    model = graph(f"g (float[{shape}] x) => (float[{axes}] y) {{ {nodes} }}", constants)
    folded, _ = fold(model)
    assert ops(folded) == expected
    assert max(np.prod(t.dims) for t in folded.graph.initializer) == elements
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


def test_rows_in_pairs_of_which_one_is_left_over_stay() -> None:
    """Of seven rows one is left over, behind which the source pads with zeros: they stay."""
    model = graph(
        "g (float[1,3,7,6] x) => (float[A,B,C,D] y) "
        "{ r = Slice(x, zero, end, two, two) s = Slice(x, one, end, two, two) "
        "a = Concat<axis=1>(r, s) y = Conv<pads=[1,1,1,1]>(a, w) }",
        {"w": normal((8, 6, 3, 3))} | ROWS | {"end": np.array([6])},
    )
    folded, report = fold(model)
    assert ops(folded) == ["Slice", "Slice", "Concat", "Conv"]
    assert any(kept.refusal.reason is Reason.BORDER for kept in report.kept)
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 0, 1], [1, 2], [3, 3, 3, 0], [0]])
@pytest.mark.parametrize("zero", [False, True])
def test_the_shift_before_a_selection(order: list[int], zero: bool) -> None:
    """What is added before a selection of channels comes out as its bias, or there is no such."""
    rng = np.random.default_rng(len(order))
    scale = rng.standard_normal(len(order))
    if zero:
        scale[0] = 0
    weight = np.zeros((len(order), 4))
    weight[np.arange(len(order)), order] = scale
    affine = AffineConv(weight, rng.standard_normal(len(order)))
    shift = shift_before(affine.finest())
    assert (shift is None) == (zero or len(set(order)) < len(order))
    if shift is not None:
        x = rng.standard_normal((2, 4, 3))
        moved = replace(affine, bias=None)(x + shift.reshape(-1, 1))
        np.testing.assert_allclose(moved, affine(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("join", ["Add(c, u)", "Add(u, c)", "Sub(c, u)", "Sub(u, c)", "Sum(u, c)"])
@pytest.mark.parametrize("view", ["Unsqueeze(g, axes)", "Reshape(g, shape)"])
def test_a_normalization_behind_an_embedding(join: str, view: str) -> None:
    """A vector that is added to every position takes the scale as well; one takes the shift."""
    model = graph(
        "g (float[N,4,H,W] x, float[N,3] e) => (float[A,B,C,D] y) "
        "{ c = Conv<pads=[1,1,1,1]>(x, w, b) g = Gemm(e, v, d) "
        f"u = {view} s = {join} t = BatchNormalization(s, p_s, p_b, p_m, p_v) y = Relu(t) }}",
        weights(w=(4, 4, 3, 3), b=(4,), v=(3, 4), d=(4,))
        | bn("p", 4)
        | {"axes": np.array([2, 3]), "shape": np.array([-1, 4, 1, 1])},
    )
    folded, _ = fold(model)
    expected = ["Conv", "Gemm", view.split("(")[0], join.split("(")[0], "Relu"]
    assert sorted(ops(folded)) == sorted(expected)
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


def test_a_vector_of_one_number_takes_no_scale_of_channels() -> None:
    """One number that is added to all channels would be another one for each of them."""
    model = graph(
        "g (float[N,4,H,W] x, float[N,1,1,1] e) => (float[A,B,C,D] y) "
        "{ c = Conv(x, w) s = Add(c, e) y = Mul(s, k) }",
        weights(w=(4, 4, 3, 3), k=(4, 1, 1)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Add", "Mul"]
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


def test_what_costs_more_stays() -> None:
    """A depthwise layer on repeated channels is dense as one layer, and stays apart."""
    model = graph(
        "g (float[N,4,H,W] x) => (float[A,B,C,D] y) "
        "{ a = Concat<axis=1>(x, x) y = Conv<group=8, pads=[1,1,1,1]>(a, w) }",
        {"w": normal((8, 1, 3, 3))},
    )
    folded, report = fold(model)
    assert ops(folded) == ["Concat", "Conv"]
    assert {kept.refusal.reason for kept in report.kept} == {Reason.COST}


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    SEEDS,
    st.integers(2, 10),
    st.sampled_from([Policy.CHEAPEST, Policy.CHEAPEST, Policy.ALWAYS]),
    st.sampled_from(OPSETS),
    st.sampled_from([np.float32, np.float64]),
)
def test_folding_changes_no_number(
    seed: int, length: int, policy: Policy, opset: int, dtype: type
) -> None:
    """Folded and original agree, no product is added, and folding twice is folding once."""
    model = random_channels(seed, length=length, dtype=dtype, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    folded, _ = fold(model, policy)
    assert_same(model, folded, seed, 3e-5 if dtype is np.float32 else 1e-10)
    again, report = fold(folded, policy)
    assert again.SerializeToString() == folded.SerializeToString()
    assert not report.sites
    if policy is Policy.CHEAPEST:
        before, after = onnx_expand.inspect(model).macs, onnx_expand.inspect(folded).macs
        assert before is None or (after is not None and after <= before)
    else:
        assert len(folded.graph.node) <= len(model.graph.node)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(SEEDS, st.integers(2, 10), st.sampled_from(OPSETS))
def test_what_is_written_runs(seed: int, length: int, opset: int) -> None:
    """A folded model runs wherever its source does, in onnxruntime, with the same numbers."""
    model = random_channels(seed, length=length, opset=opset)
    height, width = sizes(model)[0]
    source = Source(model, [{"N": 2, "H": height, "W": width}], seed)
    for policy in (Policy.CHEAPEST, Policy.ALWAYS):
        assert judge(source, fold(model, policy)[0]) == []


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_merged_weight_is_written_with_the_groups_that_its_zeros_allow(
    op: str, groups: int
) -> None:
    """What merging is weighed by is what is written, whatever the layers' own groups were."""
    blocks = np.kron(np.eye(groups), np.ones((4 // groups, 4 // groups)))[:, :, None, None]
    model = graph(
        f"g (float[N,4,H,W] x) => (float[A,B,C,D] y) {{ a = {op}(x, w) y = Mul(a, k) }}",
        {"w": (normal((4, 4, 1, 1)) * blocks).astype(np.float32), "k": normal((4, 1, 1))},
    )
    folded, report = fold(model)
    assert len(folded.graph.node) == 1
    kernel = next(t for t in folded.graph.initializer if len(t.dims) == 4)
    assert np.prod(kernel.dims) == 16 // groups
    assert report.sites[0].after.parameters == 16 // groups
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences
