"""Fold preserves the function, never adds cost, and reports why nodes were kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_expand
from models import mobilenetv2, smallnet
from onnx_expand.errors import Reason
from onnx_expand.passes import FoldReport, Policy
from tests.support.graphs import (
    Array,
    Chain,
    as_double,
    chains,
    compute,
    doubled,
    matrix_chains,
    named,
    retrained,
    sized,
)
from tests.support.graphs_text import bn, fold, graph, ops, weights
from tests.support.likeness import unlike_only_in_weights

pytest.importorskip("onnxruntime")

IMAGE = "float[N,4,H,W] x"
ANY = "float[M,C,P,Q] y"
SIDE = "float[M,D,P,Q] z"
PADDED_TWICE = "a = Conv<pads=[1,1,1,1]>(x, u) y = Conv<pads=[1,1,1,1]>(a, v)"


def normal(*shape: int, seed: int = 0) -> Array:
    """Draw normal random values in float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def same(
    model: onnx.ModelProto,
    folded: onnx.ModelProto,
    inputs: Mapping[str, Array] | None = None,
    *,
    tolerance: float = 5e-5,
    **more: Array,
) -> None:
    """Assert that a folded model in onnxruntime equals the float64 results of the source."""
    feeds = {**(inputs or {}), **more}
    expected, actual = as_double(model, feeds), compute(folded, feeds)
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        assert e.shape == a.shape
        scale = max(1.0, float(np.max(np.abs(e), initial=0.0)))
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * scale)


def reasons(report: FoldReport) -> set[Reason]:
    """Return the reasons for which nodes were kept apart."""
    return {kept.refusal.reason for kept in report.kept}


# -- Random chains ----------------------------------------------------------------------------


def obeys_the_laws(chain: Chain, policy: Policy) -> None:
    """Assert the laws that hold for a fold of any model."""
    model = chain.model()
    folded, _ = fold(model, policy)
    assert list(folded.graph.input) == list(model.graph.input)
    assert list(folded.graph.output) == list(model.graph.output)
    assert fold(model, policy)[0].SerializeToString() == folded.SerializeToString()
    assert fold(folded, policy)[0].SerializeToString() == folded.SerializeToString()
    # In float64, rounding is too small to hide a mistake.
    double = doubled(model)
    folded_double, _ = fold(double, policy)
    assert ops(folded_double) == ops(folded)
    for feeds in chain.feeds():
        same(model, folded, feeds)
        wide = {name: array.astype(np.float64) for name, array in feeds.items()}
        pairs = zip(as_double(double, wide), as_double(folded_double, wide), strict=True)
        for e, a in pairs:
            scale = max(1.0, float(np.max(np.abs(e))))
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-11 * scale)
    if policy is Policy.CHEAPEST:
        # Extents that are not static count as large: a choice that depends on them cannot be the
        # cheapest one for images of any size, as borders outweigh small ones.
        dynamic = "H" in chain.shape
        for size in chain.sizes:
            shape = [*size[:2], *(1000 if dynamic else d for d in size[2:])]
            before, after = (onnx_expand.inspect(sized(m, shape)).macs for m in (model, folded))
            assert before is not None
            assert after is not None
            assert after <= before


QUICK = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("policy", [Policy.CHEAPEST, Policy.ALWAYS])
@QUICK
@given(chain=chains())
def test_convolution_chains_compute_the_same(policy: Policy, chain: Chain) -> None:
    """Any chain of convolutions and pointwise maps folds exactly, once, at no higher cost."""
    obeys_the_laws(chain, policy)


@pytest.mark.parametrize("policy", [Policy.CHEAPEST, Policy.ALWAYS])
@QUICK
@given(chain=matrix_chains())
def test_matrix_chains_compute_the_same(policy: Policy, chain: Chain) -> None:
    """Any chain of matrix products and pointwise maps folds exactly, once, at no higher cost."""
    obeys_the_laws(chain, policy)


# -- Why nodes are kept apart, each with a witness that merging would show ---------------------


def test_border_is_refused_with_its_measured_error() -> None:
    """3x3 pad 1 twice is not a 5x5 pad 2: the naive merge has the reported error."""
    w = weights(u=(4, 4, 3, 3), v=(4, 4, 3, 3))
    model = graph(
        f"g ({IMAGE}) => ({ANY}) {{ {PADDED_TWICE} }}",
        w,
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["Conv", "Conv"]
    numbers = next(k.refusal.numbers for k in report.kept if k.refusal.reason is Reason.BORDER)
    assert numbers["border_error"] > 0.1 * numbers["output_scale"]
    free = graph(f"g ({IMAGE}) => ({ANY}) {{ a = Conv(x, u) y = Conv(a, v) }}", w)
    naive, _ = fold(free, Policy.ALWAYS)
    naive.graph.node[0].attribute.extend([onnx.helper.make_attribute("pads", [2] * 4)])
    kept = [a for a in naive.graph.node[0].attribute if a.name != "pads" or 2 in a.ints]
    del naive.graph.node[0].attribute[:]
    naive.graph.node[0].attribute.extend(kept)
    x = normal(1, 4, 7, 9)
    (right,), (wrong,) = as_double(model, {"x": x}), as_double(naive, {"x": x})
    assert np.max(np.abs(right - wrong)) > 0.1
    np.testing.assert_allclose(right[..., 1:-1, 1:-1], wrong[..., 1:-1, 1:-1], atol=1e-4)


def test_a_value_with_another_consumer_stays() -> None:
    """A value between two convolutions that a Relu reads too is still computed."""
    model = graph(
        f"g ({IMAGE}) => ({ANY}, {SIDE}) {{ a = Conv(x, u) y = Conv(a, v) z = Relu(a) }}",
        weights(u=(4, 4, 1, 1), v=(4, 4, 1, 1)),
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ops(model)
    assert reasons(report) == {Reason.SHARED}
    same(model, folded, x=normal(2, 4, 5, 5))


def test_a_graph_output_stays() -> None:
    """A value between two convolutions that is a graph output is still computed."""
    model = graph(
        f"g ({IMAGE}) => ({ANY}, float[M,D,P,Q] a) {{ a = Conv(x, u) y = Conv(a, v) }}",
        weights(u=(4, 4, 1, 1), v=(4, 4, 1, 1)),
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ops(model)
    assert reasons(report) == {Reason.OUTPUT}


@pytest.mark.parametrize("overridden", ["w", "c"])
def test_an_overridable_initializer_is_not_constant(overridden: str) -> None:
    """A weight or bias that a caller overrides takes effect after folding too."""
    constants = weights(w=(4, 4), c=(4,), k=(4,))
    shape = ",".join(map(str, constants[overridden].shape))
    model = graph(
        f"g (float[N,4] x, float[{shape}] {overridden}) => (float[N,4] y) "
        "{ a = Gemm(x, w, c) y = Mul(a, k) }",
        constants,
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert Reason.OVERRIDABLE in reasons(report)
    other = 2 * constants[overridden] + 1
    same(model, folded, {"x": normal(3, 4), overridden: other})
    same(model, folded, x=normal(3, 4))


def test_a_merge_that_costs_more_is_refused() -> None:
    """MobileNetV2's projection and the expansion after it stay apart; `always` merges them."""
    model = graph(
        "g (float[N,24,7,7] x) => (float[M,C,P,Q] y) { a = Conv(x, u) y = Conv(a, v) }",
        weights(u=(4, 24, 1, 1), v=(24, 4, 1, 1)),
    )
    folded, report = fold(model)
    assert ops(folded) == ["Conv", "Conv"]
    (kept,) = report.kept
    assert kept.refusal.reason is Reason.COST
    assert kept.refusal.numbers["macs_apart"] == 2 * 24 * 4 * 49
    assert kept.refusal.numbers["macs_merged"] == 24 * 24 * 49
    merged, _ = fold(model, Policy.ALWAYS)
    assert ops(merged) == ["Conv"]
    assert onnx_expand.inspect(merged).macs == 24 * 24 * 49
    same(model, merged, x=normal(2, 24, 7, 7))


@pytest.mark.parametrize(("inner", "merged"), [(2, False), (4, False), (5, True), (16, True)])
def test_a_low_rank_pair_is_merged_where_that_is_cheaper(inner: int, merged: bool) -> None:
    """8 -> r -> 8 channels become one matrix exactly when r is above 4."""
    model = graph(
        "g (float[N,8] x) => (float[N,8] y) { a = Gemm(x, u, c) y = Gemm(a, v) }",
        weights(u=(8, inner), v=(inner, 8), c=(inner,)),
    )
    folded, _ = fold(model)
    # At r = 4 products and weights are equal in number, so the bias decides.
    after, before = (onnx_expand.inspect(m) for m in (folded, model))
    assert after.macs is not None
    assert before.macs is not None
    assert after.macs <= before.macs
    if inner != 4:
        assert (len(ops(folded)) == 1) is merged
    same(model, folded, x=normal(3, 8))


def test_overflow_in_half_precision_is_refused() -> None:
    """Weights whose product exceeds 65504 are not merged in float16, and the result is finite."""
    big = np.full((4, 4), 1000, np.float16)
    model = graph(
        "g (float16[N,4] x) => (float16[N,4] y) { a = MatMul(x, u) y = MatMul(a, v) }",
        {"u": big, "v": big + 1},
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["MatMul", "MatMul"]
    assert reasons(report) == {Reason.OVERFLOW}
    wide = in_float32(model)
    assert len(ops(fold(wide, Policy.ALWAYS)[0])) == 1


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float16 model in float32."""
    single = copy.deepcopy(model)
    for value in (*single.graph.input, *single.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for tensor in single.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return single


def test_underflow_in_half_precision_is_refused() -> None:
    """Weights whose product is below float16's smallest number are not merged into zeros."""
    # Their product, 1e-8, rounds to 0, and so would y, which is 1e-4.
    model = graph(
        "g (float16[N,4] x) => (float16[N,4] y) { a = Mul(x, u) y = Mul(a, v) }",
        {"u": np.full(4, 1e-5, np.float16), "v": np.full(4, 1e-3, np.float16)},
    )
    folded, _ = fold(model)
    x = np.full((1, 4), 1e4, np.float16)
    results: list[Any] = [ReferenceEvaluator(m).run(None, {"x": x}) for m in (model, folded)]
    (before,), (after,) = results
    np.testing.assert_allclose(after.astype(float), before.astype(float), rtol=0.02)


def test_underflow_in_one_channel_is_refused() -> None:
    """A channel whose product of weights vanishes in float16 is kept, whatever others are."""
    model = graph(
        "g (float16[N,4] x) => (float16[N,4] y) { a = Mul(x, u) y = Mul(a, v) }",
        {
            "u": np.array([1, 1, 1, 1e-5], np.float16),
            "v": np.array([1, 1, 1, 1e-3], np.float16),
        },
    )
    folded, _ = fold(model)
    x = np.full((1, 4), 1e4, np.float16)
    results: list[Any] = [ReferenceEvaluator(m).run(None, {"x": x}) for m in (model, folded)]
    (before,), (after,) = results
    np.testing.assert_allclose(after.astype(float), before.astype(float), rtol=0.02)


def test_a_weight_of_two_nodes_is_copied_on_write() -> None:
    """Merging one consumer of a shared weight does not change it for the other consumer."""
    constants = weights(w=(4, 4, 1, 1), k=(4, 1, 1))
    model = graph(
        f"g ({IMAGE}) => ({ANY}, {SIDE}) "
        "{ a = Conv(x, w) y = Mul(a, k) b = Relu(x) z = Conv(b, w) }",
        constants,
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Relu", "Conv"]
    held = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    np.testing.assert_array_equal(held[folded.graph.node[2].input[1]], constants["w"])
    assert folded.graph.node[0].input[1] != folded.graph.node[2].input[1]
    same(model, folded, x=normal(2, 4, 5, 5))


def test_three_layers_merge_though_no_two_would() -> None:
    """1x1 48-24, 3x3 stride 2, 1x1 24-16 cost more merged in pairs, and less as one."""
    model = graph(
        "g (float[1,48,56,56] x) => (float[1,16,28,28] y) "
        "{ a = Conv(x, u) b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, v) y = Conv(b, w) }",
        weights(u=(24, 48, 1, 1), v=(24, 24, 3, 3), w=(16, 24, 1, 1)),
    )
    pair = graph(
        "g (float[1,48,56,56] x) => (float[1,24,28,28] y) "
        "{ a = Conv(x, u) y = Conv<pads=[1,1,1,1], strides=[2,2]>(a, v) }",
        weights(u=(24, 48, 1, 1), v=(24, 24, 3, 3)),
    )
    assert ops(fold(pair)[0]) == ["Conv", "Conv"]
    folded, _ = fold(model)
    assert ops(folded) == ["Conv"]
    before, after = onnx_expand.inspect(model).macs, onnx_expand.inspect(folded).macs
    assert before is not None
    assert after is not None
    assert after < before
    same(model, folded, x=normal(1, 48, 56, 56))


def test_nodes_with_weights_that_are_not_finite_stay() -> None:
    """NaN in a weight would spread over products: its node stays, and the others are folded."""
    constants = weights(u=(4, 4, 1, 1), v=(4, 4, 1, 1), w=(4, 4, 1, 1))
    constants["u"][0, 0] = np.nan
    model = graph(
        f"g ({IMAGE}) => ({ANY}) {{ a = Conv(x, u) b = Conv(a, v) y = Conv(b, w) }}", constants
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["Conv", "Conv"]
    assert Reason.NON_FINITE in reasons(report)
    np.testing.assert_array_equal(
        numpy_helper.to_array(next(t for t in folded.graph.initializer if t.name == "u")),
        constants["u"],
    )


def test_weights_that_are_not_finite_before_a_border_stay() -> None:
    """A border is refused even if a NaN weight prevents measuring its error."""
    # The reason is measured with the weights, which cannot be loaded.
    constants = weights(u=(4, 4, 3, 3), v=(4, 4, 3, 3))
    constants["u"][0, 0] = np.nan
    model = graph(
        f"g ({IMAGE}) => ({ANY}) {{ {PADDED_TWICE} }}",
        constants,
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv"]


def test_chains_split_by_a_shared_value_are_both_folded() -> None:
    """A chain that begins at the output of another one reads the folded output."""
    model = graph(
        f"g ({IMAGE}) => ({ANY}, {SIDE}) {{ a = Conv(x, u) b = Mul(a, k) z = Relu(b) "
        "c = Conv(b, v) d = BatchNormalization(c, p_s, p_b, p_m, p_v) y = Neg(d) }",
        weights(u=(4, 4, 1, 1), k=(4, 1, 1), v=(4, 4, 3, 3)) | bn("p", 4),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Relu", "Conv"]
    same(model, folded, x=normal(2, 4, 5, 6))


# -- Regressions: small graphs that once came out wrong ----------------------------------------


def test_one_channel_gemm_that_transposes_stays_a_gemm() -> None:
    """A 1x1 matrix is not a per-channel factor if the Gemm moves the channel axis."""
    # For one channel, a matrix and a per-channel factor are equal; Mul does not transpose.
    model = graph(
        "g (float[1,5] x) => (float[5,1] y) { a = Gemm<transA=1>(x, w) y = Mul(a, k) }",
        {"w": normal(1, 1), "k": np.array(3.0, np.float32)},
    )
    copied = onnx_expand.fold(model)
    onnx.checker.check_model(copied, full_check=True)
    same(model, copied, x=normal(1, 5))


def test_a_bias_that_could_move_on_is_moved_at_once() -> None:
    """Folding 4-3-2-6 channels with biases behind the first and last is idempotent."""
    # MatMul and Add of a merged span are one step at first, but two for the second fold, which
    # might take the Add into the last matrix: 18 parameters become 16, four nodes three.
    model = graph(
        "g (float[N,5,4] x) => (float[N,5,6] y) { a = MatMul(x, s) b = Add(a, t) c = Neg(b) "
        "d = MatMul(c, u) e = MatMul(d, v) y = Add(e, w) }",
        weights(s=(4, 3), t=(3,), u=(3, 2), v=(2, 6), w=(6,)),
    )
    once, _ = fold(model)
    twice, _ = fold(once)
    assert ops(twice) == ops(once)
    same(model, once, x=normal(2, 5, 4))


def test_one_channel_matrices_fold_once() -> None:
    """Folding matrices with one channel on both sides of a value is idempotent."""
    # A run of them may become a scalar Mul, which a second fold could merge.
    model = graph(
        "g (float[N,5,4] x) => (float[N,1,1] y) "
        "{ a = MatMul(u, x) b = MatMul(a, v) c = MatMul(b, w) d = MatMul(t, c) "
        "e = MatMul(t, d) y = MatMul(e, w) }",
        weights(u=(1, 5), v=(4, 1), w=(1, 1), t=(1, 1)),
    )
    once, _ = fold(model)
    twice, _ = fold(once)
    assert ops(twice) == ops(once)
    same(model, once, x=normal(2, 5, 4))


def test_a_constant_in_two_places_of_a_node() -> None:
    """One initializer as scale, shift, mean and variance of a normalization folds."""
    # Weight and bias take the names of scale and shift, which are equal here.
    model = graph(
        "g (float[N,4,5,5] x) => (float[N,4,5,5] y) "
        "{ a = BatchNormalization(x, c, c, c, c) y = Add(a, d) }",
        {"c": np.abs(normal(4)) + 1, "d": normal(4, 1, 1)},
    )
    folded, _ = fold(model)
    same(model, folded, x=normal(2, 4, 5, 5))


def test_written_nodes_have_unique_names() -> None:
    """A Mul and an Add that replace Add, Mul, Add do not share a name."""
    # onnxruntime refuses to load a model with duplicate node names.
    model = named(
        graph(
            f"g ({IMAGE}) => ({ANY}) {{ a = Add(x, b) c = Mul(a, d) y = Add(c, e) }}",
            {"b": normal(4, 1, 1), "d": normal(4, 1, 1, seed=1), "e": normal(4, 1, 1, seed=2)},
        ),
        "first",
        "second",
        "third",
    )
    folded, _ = fold(model)
    names = [node.name for node in folded.graph.node]
    assert len(set(names)) == len(names) == 2


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_are_not_merged(dtype: type) -> None:
    """Integer matrices wrap around, and int64 exceeds float64: they are not merged."""
    # In float64 the product of the int32 weights overflows, and that of the int64 ones rounds.
    u, v = (2**31 + 1, 2**31 + 1) if dtype is np.int64 else (2**16, 2**16 + 1)
    model = graph(
        f"g ({np.dtype(dtype).name}[N,2] x) => ({np.dtype(dtype).name}[N,2] y) "
        "{ a = MatMul(x, u) y = MatMul(a, v) }",
        {"u": np.full((2, 2), u, dtype), "v": np.full((2, 2), v, dtype)},
    )
    folded, _ = fold(model)
    x: Array = np.ones((1, 2), dtype)
    (before,), (after,) = (ReferenceEvaluator(m).run(None, {"x": x}) for m in (model, folded))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("kind", "nodes", "constants"),
    [
        ("int64[N,4]", "a = Gather<axis=1>(x, i) y = Gather<axis=1>(a, j)", "ij"),
        ("string[N,4]", "a = Gather<axis=1>(x, i) y = Gather<axis=1>(a, j)", "ij"),
        ("int64[N,2,4,4]", "a = Pad(x, p) y = Slice(a, s, e, t)", "pset"),
    ],
)
def test_selections_of_other_types_are_not_rewritten(
    kind: str, nodes: str, constants: str
) -> None:
    """Selecting and padding integers or strings is not rewritten as a matrix or convolution."""
    # onnxruntime has no int64 Gemm, ONNX has no int64 Conv, and strings have no product.
    known = {
        "i": np.array([0, 3, 2]),
        "j": np.array([1, 0]),
        "s": np.array([1]),
        "e": np.array([2**62]),
        "t": np.array([2]),
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    elem, shape = kind.split("[")
    model = graph(
        f"g ({kind} x) => ({elem}[{','.join('ABCD'[: shape.count(',') + 1])}] y) {{ {nodes} }}",
        {name: known[name] for name in constants},
    )
    folded = onnx_expand.fold(model, policy="always")
    assert ops(folded) == ops(model)


def test_statistics_of_another_type_do_not_set_the_result_type() -> None:
    """A float16 convolution behind a normalization with float32 parameters stays float16."""
    # The first constant of the chain is float32, and a Conv with such a weight would be invalid.
    model = graph(
        "g (float16[N,4,5,5] x) => (float16[M,C,P,Q] y) "
        "{ a = BatchNormalization(x, p_s, p_b, p_m, p_v) y = Conv(a, w) }",
        bn("p", 4) | {"w": normal(4, 4, 1, 1).astype(np.float16)},
    )
    folded = onnx_expand.fold(model)
    onnx.checker.check_model(folded, full_check=True)


def test_a_long_chain_without_a_form_stays() -> None:
    """More than 64 maps on an axis that no matrix node maps are folded as far as possible."""
    # Long chains of matrices are searched by array, which knows costs but not forms.
    factors = " ".join(f"a{i + 1} = Mul(a{i}, k)" for i in range(66))
    body = f"a0 = Gather<axis=1>(x, i) {factors} y = Gather<axis=1>(a66, i)"
    model = graph(
        f"g ({IMAGE}) => ({ANY}) {{ {body} }}",
        {"i": np.array([3, 1, 0, 2]), "k": np.full((4, 1, 1), 1.01, np.float32)},
    )
    folded, _ = fold(model, Policy.ALWAYS)
    same(model, folded, x=normal(1, 4, 5, 5))


# -- What expand made ------------------------------------------------------------------------


SOURCES: dict[str, Any] = {
    "smallnet-3": lambda: smallnet.build(kernel=3),
    "smallnet-7": lambda: smallnet.build(kernel=7),
    "mobilenetv2": lambda: mobilenetv2.build(size=64, classes=10, width=0.5),
}


@pytest.mark.parametrize("first_width", ["keep", "expand"])
@pytest.mark.parametrize("strategy", ["cl", "ck", "fc", "cl+fc", "ck+fc", "ck+cl", "auto"])
@pytest.mark.parametrize("source", SOURCES)
def test_fold_undoes_expand(source: str, strategy: str, first_width: str) -> None:
    """Folding an expanded model restores its nodes, names, attributes and layout."""
    model = SOURCES[source]()
    expanded = onnx_expand.expand(model, strategy=strategy, rate=1, first_width=first_width)
    # An expansion without a match leaves an ordinary model.
    nothing = expanded.SerializeToString() == model.SerializeToString()
    for policy in ("marked",) if nothing else ("auto", "marked"):
        back = onnx_expand.fold(expanded, policy=policy)
        assert [n.SerializeToString() for n in back.graph.node] == [
            n.SerializeToString() for n in model.graph.node
        ]
        assert unlike_only_in_weights(back, model)
    again = onnx_expand.fold(back, policy="marked" if nothing else "auto")
    assert again.SerializeToString() == back.SerializeToString()


def test_empty_texts_that_are_written_out_stay() -> None:
    """Folding changes no byte outside the weights, even in an empty `producer_version`."""
    # onnx-ir omits texts that are present but empty.
    model = smallnet.build(kernel=3)
    assert model.HasField("producer_version")
    back = onnx_expand.fold(onnx_expand.expand(model))
    assert back.HasField("producer_version")


@pytest.mark.parametrize("source", ["smallnet-3", "smallnet-7"])
@pytest.mark.parametrize("strategy", ["cl+fc", "ck+cl+fc"])
def test_a_trained_expansion_folds_to_an_equal_model(source: str, strategy: str) -> None:
    """With any weights, the folded model equals the expanded one, and depends on x."""
    expanded = retrained(onnx_expand.expand(SOURCES[source](), strategy=strategy, rate=2))
    for policy in ("auto", "cheapest", "always"):
        folded = onnx_expand.fold(expanded, policy=policy)
        x = normal(2, 3, 32, 32)
        same(expanded, folded, input=x)
        (first,), (second,) = (compute(folded, {"input": i}) for i in (x, -x))
        assert np.max(np.abs(first - second)) > 1e-2


def test_a_trained_mobilenet_folds_to_an_equal_model() -> None:
    """Grouped expansions and residual blocks fold exactly with random statistics."""
    model = mobilenetv2.build(size=32, classes=5, width=0.25)
    expanded = retrained(onnx_expand.expand(model, strategy="cl", rate=1, include=r"\.0$|fc"), 3)
    folded = onnx_expand.fold(expanded)
    assert ops(folded) == ops(model)
    x = normal(1, 3, 32, 32)
    same(expanded, folded, tolerance=2e-4, input=x)
    (first,), (second,) = (compute(folded, {"input": i}) for i in (x, -x))
    assert np.max(np.abs(first - second)) > 1e-3


UNIT = "onnx_expand.unit"


def damaged(model: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """Return a copy of an expanded model with a damaged record."""
    broken = copy.deepcopy(model)
    marked = [n for n in broken.graph.node if any(p.key == UNIT for p in n.metadata_props)]
    for index, node in enumerate(marked):
        (entry,) = [p for p in node.metadata_props if p.key == UNIT]
        if how == "stripped":
            del node.metadata_props[:]
        elif how == "garbage":
            entry.value = "{]"
        elif how == "other types":
            entry.value = json.dumps([1, 2])
        elif how == "no template":
            entry.value = json.dumps({**json.loads(entry.value), "origin": {"node": 3}})
        elif how == "one missing" and index == 1:
            del node.metadata_props[:]
        elif how == "wrong place":
            entry.value = json.dumps({**json.loads(entry.value), "index": 7})
        elif how == "negative size":
            entry.value = json.dumps({**json.loads(entry.value), "size": -1})
        elif how == "strange template":
            record = json.loads(entry.value)
            record["origin"]["slot"] = 9
            record["origin"]["weight"] = [1]
            entry.value = json.dumps(record)
        elif how == "template of another layer":
            record = json.loads(entry.value)
            record["origin"]["weight"] = [5, 5, 2, 2]
            entry.value = json.dumps(record)
    if how == "stripped":
        del broken.metadata_props[:]
    return broken


@pytest.mark.parametrize("policy", ["auto", "marked", "cheapest", "always"])
@pytest.mark.parametrize(
    "how",
    [
        *("stripped", "garbage", "other types", "no template", "one missing", "wrong place"),
        *("negative size", "strange template", "template of another layer"),
    ],
)
def test_the_record_of_expand_may_be_damaged(how: str, policy: str) -> None:
    """With any damaged record, fold does not fail and its result computes the same."""
    model = smallnet.build(kernel=5, size=16)
    expanded = retrained(onnx_expand.expand(model, strategy="ck+cl+fc", rate=1))
    broken = damaged(expanded, how)
    folded = onnx_expand.fold(broken, policy=policy)
    onnx.checker.check_model(folded, full_check=True)
    same(expanded, folded, input=normal(1, 3, 16, 16))
    if policy in {"cheapest", "always"}:
        assert len(folded.graph.node) < len(expanded.graph.node)


@pytest.mark.parametrize("strategy", ["cl", "ck", "fc"])
def test_a_unit_with_an_inserted_node_is_preserved(strategy: str) -> None:
    """A user's Relu inside an expanded unit is kept, and nothing merges across it."""
    model = smallnet.build(kernel=5, size=16)
    expanded = retrained(onnx_expand.expand(model, strategy=strategy, rate=1))
    at, node = next(
        (i, n) for i, n in enumerate(expanded.graph.node) if n.name.endswith((".0", "_0"))
    )
    inner = node.output[0]
    expanded.graph.node.insert(at + 1, onnx.helper.make_node("Relu", [inner], ["kink"], "kink"))
    for other in expanded.graph.node:
        if other.name != "kink":
            for slot, name in enumerate(other.input):
                if name == inner:
                    other.input[slot] = "kink"
    folded = onnx_expand.fold(expanded)
    assert "kink" in {n.name for n in folded.graph.node}
    same(expanded, folded, input=normal(1, 3, 16, 16))


# -- Every kind of layer ----------------------------------------------------------------------

LAYERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "same upper": (
        "float[N,4,9,8]",
        'a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b)',
        weights(w=(4, 4, 3, 3), b=(4,)),
    ),
    "same lower, dynamic": (
        "float[N,4,H,W]",
        'a = Conv<auto_pad="SAME_LOWER">(x, w, b)',
        weights(w=(4, 4, 2, 3), b=(4,)),
    ),
    "valid": (
        "float[N,4,H,W]",
        'a = Conv<auto_pad="VALID", strides=[2,1]>(x, w)',
        weights(w=(4, 4, 3, 2)),
    ),
    "1-D": (
        "float[N,4,L]",
        "a = Conv<pads=[2,1], strides=[2], dilations=[2]>(x, w, b)",
        weights(w=(4, 4, 3), b=(4,)),
    ),
    "3-D": (
        "float[N,4,D,H,W]",
        "a = Conv<pads=[1,0,1,0,1,1], strides=[1,2,1]>(x, w, b)",
        weights(w=(4, 4, 2, 3, 3), b=(4,)),
    ),
    "depthwise": (
        "float[N,4,H,W]",
        "a = Conv<pads=[1,1,1,1], group=4>(x, w, b)",
        weights(w=(4, 1, 3, 3), b=(4,)),
    ),
    "grouped": (
        "float[N,4,H,W]",
        "a = Conv<pads=[1,1,1,1], group=2>(x, w)",
        weights(w=(4, 2, 3, 3)),
    ),
    "gemm": (
        "float[N,4]",
        "a = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)",
        weights(w=(4, 4), b=(4,)),
    ),
    "gemm, transposed": (
        "float[4,N]",
        "a = Gemm<alpha=-1.5, beta=0.5, transA=1>(x, w, b)",
        weights(w=(4, 4), b=(1, 4)),
    ),
    "gemm from the left": (
        "float[N,4]",
        "a = Gemm<transA=1, transB=1>(w, x, b)",
        weights(w=(4, 4), b=(4, 1)),
    ),
    "matmul": ("float[N,5,4]", "m = MatMul(x, w) a = Add(m, b)", weights(w=(4, 4), b=(4,))),
    "matmul of rank 2": ("float[N,4]", "a = MatMul(x, w)", weights(w=(4, 4))),
    "matmul from the left": ("float[N,4,5]", "a = MatMul(w, x)", weights(w=(4, 4))),
    # Only `include` reaches 1x1 convolutions.
    "1x1": ("float[N,4,H,W]", "a = Conv(x, w, b)", weights(w=(4, 4, 1, 1), b=(4,))),
    "depthwise 1x1": (
        "float[N,4,H,W]",
        "a = Conv<group=4>(x, w, b)",
        weights(w=(4, 1, 1, 1), b=(4,)),
    ),
}


def layer(name: str) -> tuple[onnx.ModelProto, Array]:
    """Return a layer of a kind, followed by a Relu, and an input for it."""
    kind, text, constants = LAYERS[name]
    dims = kind[kind.index("[") + 1 : -1].split(",")
    symbols = ",".join("ABCDE"[: len(dims)])
    model = graph(f"g ({kind} x) => (float[{symbols}] y) {{ {text} y = Relu(a) }}", constants)
    for index, node in enumerate(model.graph.node):
        node.name = f"layer.{index}"
    sizes = {"N": 3, "H": 9, "W": 8, "L": 11, "D": 6}
    return model, normal(*(int(sizes.get(d, d)) for d in dims))


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_expands_and_folds_back(name: str) -> None:
    """Each kind of layer is expanded, and folding restores it with what the expansion computes."""
    model, x = layer(name)
    expanded = onnx_expand.expand(model, rate=2, include=r"layer\.0")
    assert len(expanded.graph.node) > len(model.graph.node)
    folded = onnx_expand.fold(expanded)
    onnx.checker.check_model(folded, full_check=True)
    same(expanded, folded, x=x)
    assert unlike_only_in_weights(folded, model)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_folds_with_its_neighbors(name: str) -> None:
    """Each kind of layer absorbs the scalar factors around it, and computes the same."""
    kind, text, constants = LAYERS[name]
    dims = kind[kind.index("[") + 1 : -1].split(",")
    symbols = ",".join("ABCDE"[: len(dims)])
    model = graph(
        f"g ({kind} z) => (float[{symbols}] y) "
        f"{{ x = Mul(z, k) {text} n = Neg(a) y = Sub(k, n) }}",
        constants | {"k": np.array(1.5, np.float32)},
    )
    folded, _ = fold(model)
    assert ops(folded)[0] in {"MatMul", "Conv", "Gemm", "Mul"}
    # A scalar shift stays apart if a bias of n elements would add parameters.
    assert set(ops(folded)[1:]) <= {"Add", "Sub"}
    same(model, folded, z=layer(name)[1])


def test_a_gemm_of_unknown_rank_expands_and_folds_back() -> None:
    """Gemm's input has rank 2 by definition, whatever shape inference knows about it."""
    # Shape inference cannot infer the results of an operator of another domain.
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,4] x) => (float[N,3] y) '
        "{ a = own.Mystery(x) y = Gemm(a, w, b) }"
    )
    constants = weights(w=(4, 3), b=(3,))
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    expanded = onnx_expand.expand(model, strategy="fc")
    assert ops(onnx_expand.fold(expanded)) == ["Mystery", "Gemm"]


# -- Types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        ("float16", np.float16, 2e-2),
        ("bfloat16", ml_dtypes.bfloat16, 2e-1),
        ("double", np.float64, 1e-12),
    ],
)
def test_other_floating_point_types_fold(kind: str, dtype: Any, tolerance: float) -> None:
    """float16, bfloat16 and float64 chains fold in their own type, with one rounding."""
    constants = {
        name: array.astype(dtype)
        for name, array in (weights(w=(4, 4), v=(4, 4), c=(4,), k=(4,))).items()
    }
    model = graph(
        f"g ({kind}[N,4] x) => ({kind}[N,4] y) "
        "{ a = Gemm(x, w, c) b = Mul(a, k) d = Add(b, c) y = MatMul(d, v) }",
        constants,
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Gemm"]
    held = {t.name: t.data_type for t in folded.graph.initializer}
    assert set(held.values()) == {model.graph.initializer[0].data_type}
    x = normal(3, 4).astype(dtype)
    # The reference evaluates both models' own weights in float64.
    wide = {n: a.astype(np.float64) for n, a in constants.items()}
    y = ((x.astype(np.float64) @ wide["w"] + wide["c"]) * wide["k"] + wide["c"]) @ wide["v"]
    weight, bias = (
        numpy_helper.to_array(t).astype(np.float64)
        for name in folded.graph.node[0].input[1:]
        for t in folded.graph.initializer
        if t.name == name
    )
    right = any(a.name == "transB" and a.i for a in folded.graph.node[0].attribute)
    actual = x.astype(np.float64) @ (weight.T if right else weight) + bias
    np.testing.assert_allclose(actual, y, rtol=0, atol=tolerance)


# -- Graphs within nodes ----------------------------------------------------------------------

BRANCHES = """g (float[N,4] x, bool c) => (float[N,Q] y) {
  h = MatMul(x, u)
  y = If(c) <
    then_branch = t () => (float[N,P] ty) { a = MatMul(h, w) b = Mul(a, k) ty = Add(b, d) },
    else_branch = e () => (float[N,P] ey) { f = MatMul(h, w) i = Neg(f) ey = MatMul(i, v) } >
}"""


@pytest.fixture
def conditional() -> onnx.ModelProto:
    """Build a model whose branches read the main graph's values and weights."""
    return graph(
        BRANCHES,
        weights(u=(4, 4), w=(4, 3), d=(3,), v=(3, 3)) | {"k": np.array(2.0, np.float32)},
    )


def bodies(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Return the branches of the model's If."""
    node = next(n for n in model.graph.node if n.op_type == "If")
    return [attribute.g for attribute in node.attribute]


def test_branches_of_an_if_are_folded(conditional: onnx.ModelProto) -> None:
    """Linear nodes in both branches are merged, and a weight of both is copied on write."""
    folded, _ = fold(conditional)
    assert [len(body.node) for body in bodies(folded)] == [1, 1]
    for taken in (True, False):
        same(conditional, folded, x=normal(2, 4), c=np.array(taken))


def test_captured_values_have_a_consumer(conditional: onnx.ModelProto) -> None:
    """A value that only a branch reads besides its next node is still computed."""
    model = copy.deepcopy(conditional)
    tail = onnx.helper.make_node("MatMul", ["h", "u"], ["z"])
    model.graph.node.insert(1, tail)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 4])
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded)[:2] == ["MatMul", "MatMul"]
    assert Reason.SHARED in reasons(report)
    for taken in (True, False):
        same(model, folded, x=normal(2, 4), c=np.array(taken))


def test_branches_gain_no_value_info_of_weights(conditional: onnx.ModelProto) -> None:
    """The value_info of a folded branch names no initializer."""
    # onnx-ir writes value_info for the initializers of every graph.
    folded = onnx_expand.fold(conditional)
    for body in bodies(folded):
        held = {tensor.name for tensor in body.initializer}
        assert held.isdisjoint(info.name for info in body.value_info)


def test_an_expanded_branch_is_restored(conditional: onnx.ModelProto) -> None:
    """Layers inside the branches of an If are expanded and restored with their names."""
    model = copy.deepcopy(conditional)
    for index, body in enumerate(bodies(model)):
        for position, node in enumerate(body.node):
            node.name = f"branch{index}.{position}"
    expanded = onnx_expand.expand(model, strategy="fc", rate=2, include=r"branch1\.2")
    folded = onnx_expand.fold(expanded)
    names = [[n.name for n in body.node] for body in bodies(folded)]
    assert names == [[n.name for n in body.node] for body in bodies(model)]
    for taken in (True, False):
        same(expanded, folded, x=normal(2, 4), c=np.array(taken))


def test_a_scale_passes_the_border_that_its_shift_does_not() -> None:
    """One addition remains of a normalization before a padded convolution."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,6,7,7] y) {
            n = BatchNormalization(x, n_s, n_b, n_m, n_v)
            y = Conv <pads: ints = [1, 1, 1, 1]> (n, w, b)
        }
        """,
        weights(w=(6, 4, 3, 3), b=(6,)) | bn("n", 4),
    )
    folded, report = fold(model)
    assert ops(folded) == ["Add", "Conv"], [str(k.refusal) for k in report.kept]
    assert onnx_expand.check(model, folded)
    again, second = fold(folded)
    assert not second.sites
    assert again.SerializeToString() == folded.SerializeToString()


def test_a_shift_without_a_scale_stays_with_its_node() -> None:
    """If a channel is scaled by zero, its shift cannot be added before."""
    numbers = bn("n", 4)
    numbers["n_s"][1] = 0
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,6,7,7] y) {
            n = BatchNormalization(x, n_s, n_b, n_m, n_v)
            y = Conv <pads: ints = [1, 1, 1, 1]> (n, w)
        }
        """,
        weights(w=(6, 4, 3, 3)) | numbers,
    )
    folded, report = fold(model)
    assert ops(folded) == ["BatchNormalization", "Conv"]
    assert Reason.BORDER in {kept.refusal.reason for kept in report.kept}


def test_a_sum_with_constants_is_a_bias() -> None:
    """Sum adds any number of constants to its one activation."""
    model = graph(
        """
        g (float[N,4,5,5] x) => (float[N,6,5,5] y) {
            c = Conv(x, w)
            y = Sum(a, c, b)
        }
        """,
        weights(w=(6, 4, 1, 1), a=(6, 1, 1)) | {"b": np.full((1,), 0.5, np.float32)},
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv"]
    assert onnx_expand.check(model, folded)
