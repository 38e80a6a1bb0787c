"""Affine parts of both models are proven equal, and every wrong weight is found."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnx_expand
from onnx_expand import check
from onnx_expand.equivalence.parts.proofs import DOUBT, small_ball
from onnx_expand.equivalence.parts.region import Grade, Region
from onnx_expand.equivalence.parts.regions import examine
from onnx_expand.equivalence.verdict import Basis
from onnx_expand.model import read
from tests.support.graphs_text import bn, graph, weights
from tests.support.random_graphs import random_graph

pytest.importorskip("onnxruntime")

Array = npt.NDArray[Any]
CPU = ("cpu", "cpu")
UNIT = 2.0**-24

IMAGE = "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) "
PARTS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "normalized": (
        IMAGE + "{ a = Conv<pads=[1,1,1,1]>(x, w) y = BatchNormalization(a, n_s, n_b, n_m, n_v) }",
        {"w": (4, 3, 3, 3)},
    ),
    "strided": (
        IMAGE + "{ a = Conv<pads=[1,0,1,1], strides=[2,2]>(x, w, c)"
        " y = BatchNormalization(a, n_s, n_b, n_m, n_v) }",
        {"w": (4, 3, 3, 2), "c": (4,)},
    ),
    "composed": (
        IMAGE + "{ a = Conv(x, w) y = Conv<pads=[1,1,1,1]>(a, v, c) }",
        {"w": (5, 3, 1, 1), "v": (4, 5, 3, 3), "c": (4,)},
    ),
    "branches": (
        IMAGE + "{ a = Conv<pads=[1,1,1,1]>(x, w, c) b = Conv(x, v) y = Add(a, b) }",
        {"w": (4, 3, 3, 3), "v": (4, 3, 1, 1), "c": (4,)},
    ),
    "static": (
        "g (float[1,3,12,13] x) => (float[1,4,P,Q] y) { a = Conv<pads=[1,1,1,1]>(x, w, c)"
        " y = BatchNormalization(a, n_s, n_b, n_m, n_v) }",
        {"w": (4, 3, 3, 3), "c": (4,)},
    ),
    "matrices": (
        "g (float[N,T,6] x) => (float[N,T,4] y) { a = MatMul(x, w) b = MatMul(a, v)"
        " y = Add(b, c) }",
        {"w": (6, 9), "v": (9, 4), "c": (4,)},
    ),
    "transposed": (
        IMAGE + "{ a = ConvTranspose<strides=[2,2]>(x, w)"
        " y = BatchNormalization(a, n_s, n_b, n_m, n_v) }",
        {"w": (3, 4, 3, 3)},
    ),
}


@cache
def pair(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a part and its folded form."""
    text, shapes = PARTS[name]
    arrays = weights(7, **shapes) | (bn("n", 4) if "n_s" in text else {})
    model = graph(text, arrays)
    folded = onnx_expand.fold(model)
    assert len(folded.graph.node) < len(model.graph.node)
    return model, folded


def feeds(model: onnx.ModelProto) -> dict[str, Array]:
    """Draw a normal input, with extents 11 and 9 for symbolic axes."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    free = iter((1, 9, 11))
    shape = [dim.dim_value or next(free) for dim in dims]
    return {"x": np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


def part(a: onnx.ModelProto, b: onnx.ModelProto) -> Region:
    """Return the part in which two models differ; if there are several, an unproven one."""
    regions = examine(read(a), read(b), feeds(a), CPU).regions
    return min(regions, key=lambda region: region.proof is not None)


def off(model: onnx.ModelProto, tensor: int, place: int, by: float) -> onnx.ModelProto:
    """Return a copy with one element of one initializer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = copy.graph.initializer[tensor]
    array = numpy_helper.to_array(own).copy()
    array.reshape(-1)[place] += np.float32(by)
    own.CopyFrom(numpy_helper.from_array(array, own.name))
    return copy


def places(model: onnx.ModelProto) -> list[tuple[int, int]]:
    """Return every element of every initializer that is a weight or a bias."""
    return [
        (index, place)
        for index, tensor in enumerate(model.graph.initializer)
        if tensor.data_type == onnx.TensorProto.FLOAT
        for place in range(math.prod(tensor.dims))
    ]


@pytest.mark.parametrize("name", PARTS)
def test_a_folded_part_is_proven(name: str) -> None:
    """Its weights are correct within a few roundings, and the deviation is stated."""
    a, b = pair(name)
    for first, second in ((a, b), (b, a)):
        region = part(first, second)
        assert region.grade is Grade.PROVEN, region
        assert region.proof is not None
        assert region.proof.relative < 10
        assert region.proof.deviation < region.proof.detects < 1e-3
        assert region.proof.probes == 32
        assert "no weight is off by more than" in region.proof.statement()
    verdict = check(a, b, samples=1, providers=["cpu"])
    assert verdict.rests_on is Basis.PROOF
    assert "; differing parts proven: 1 of 1" in verdict.summary()
    stated = verdict.as_dict()
    assert stated["rests_on"] == "proof"
    assert stated["regions"][0]["grade"] == "proven"
    assert stated["regions"][0]["proof"]["doubt"] == DOUBT


@pytest.mark.parametrize("name", PARTS)
def test_every_wrong_weight_is_found(name: str) -> None:
    """Each wrong weight or bias above the stated limit is found, one by one."""
    a, b = pair(name)
    proof = part(a, b).proof
    assert proof is not None
    for tensor, place in places(b):
        region = part(a, off(b, tensor, place, 1.05 * proof.detects))
        assert region.proof is None, (tensor, place)
        assert region.fault or "is off by up to" in region.reason


@pytest.mark.parametrize("name", PARTS)
def test_rounded_weights_are_proven(name: str) -> None:
    """A change of each weight by one unit in the last place is still proven."""
    a, b = pair(name)
    rng = np.random.default_rng(1)
    for tensor, place in rng.permutation(places(b))[:25]:
        value = numpy_helper.to_array(b.graph.initializer[tensor]).reshape(-1)[place]
        region = part(a, off(b, int(tensor), int(place), 2 * UNIT * float(value)))
        assert region.grade is Grade.PROVEN, region


@given(
    name=st.sampled_from(sorted(PARTS)),
    power=st.floats(-9, 0),
    where=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_the_stated_deviation_is_an_upper_bound(name: str, power: float, where: int) -> None:
    """For any change of a weight, either it is found or the stated deviation is larger."""
    a, b = pair(name)
    tensor, place = places(b)[where % len(places(b))]
    wrong = off(b, tensor, place, 10**power)
    arrays = [numpy_helper.to_array(m.graph.initializer[tensor]).reshape(-1) for m in (b, wrong)]
    gap = abs(float(arrays[1][place]) - float(arrays[0][place]))
    region = part(a, wrong)
    if region.proof is not None:
        own = 4 * UNIT * abs(float(arrays[0][place]))
        assert gap - own <= max(region.proof.deviation, region.proof.shift)


def test_the_bound_of_a_chi_square_holds() -> None:
    """No sum of squares among a million exceeds the bound, and a bound of one in ten is tight."""
    rng = np.random.default_rng(0)
    for count in (8, 16, 32):
        means = np.mean(np.square(rng.standard_normal((200_000, count))), axis=1)
        low, high = small_ball(count, 1e-9)
        assert means.min() > low
        assert means.max() < high
        low, high = small_ball(count, 0.1)
        assert 0.001 < np.mean(means < low) < 0.1
        assert 0.001 < np.mean(means > high) < 0.1


# -- What the inputs of the models do not show --------------------------------------------------


def test_a_weight_that_no_activation_reaches_is_found() -> None:
    """A Relu that is zero on every input hides a weight from all outputs."""
    text = (
        "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) { a = Conv(x, w, d) r = Relu(a)"
        " b = Conv(r, v) y = BatchNormalization(b, n_s, n_b, n_m, n_v) }"
    )
    arrays = weights(w=(5, 3, 1, 1), v=(4, 5, 3, 3), d=(5,)) | bn("n", 4)
    arrays["w"][2], arrays["d"][2] = 0, -1
    model = graph(text, arrays)
    folded = onnx_expand.fold(model)
    assert check(model, folded, samples=1, providers=["cpu"]).rests_on is Basis.PROOF
    index = next(i for i, t in enumerate(folded.graph.initializer) if list(t.dims) == [4, 5, 3, 3])
    wrong = off(folded, index, 2 * 9, 0.1)  # of the dead channel
    tested = check(model, wrong, samples=1, providers=["cpu"], regions=False)
    assert tested.equal
    verdict = check(model, wrong, samples=1, providers=["cpu"])
    assert not verdict
    assert "a weight of it is off by about" in verdict.differences[0]


def test_a_wrong_border_is_found() -> None:
    """A bias before a padded convolution, merged as if there were no border."""
    rng = np.random.default_rng(3)
    w1, w2 = rng.standard_normal((3, 2, 1, 1)), rng.standard_normal((4, 3, 3, 3))
    b1 = np.full(3, 1e-4)
    head = "g (float[N,2,H,W] x) => (float[N,4,P,Q] y) "
    chain = graph(
        head + "{ a = Conv(x, w1, b1) y = Conv<pads=[1,1,1,1]>(a, w2) }",
        {"w1": w1.astype(np.float32), "b1": b1.astype(np.float32), "w2": w2.astype(np.float32)},
    )
    w = np.einsum("omhw,miab->oihw", w2, w1).astype(np.float32)
    b = np.einsum("omhw,m->o", w2, b1).astype(np.float32)
    merged = graph(head + "{ y = Conv<pads=[1,1,1,1]>(x, w, b) }", {"w": w, "b": b})
    region = part(chain, merged)
    assert "a bias of it is off" in region.fault


def test_dependent_inputs_are_not_differences() -> None:
    """If one model reads a product and the other its factor, the part grows to their root."""
    arrays = weights(w=(6, 4), c=(4,))
    head = "g (float[N,6] x) => (float[N,4] y, float[N,4] a) "
    one = graph(head + "{ a = MatMul(x, w) y = Add(a, c) }", arrays)
    two = graph(head + "{ a = MatMul(x, w) y = Gemm(x, w, c) }", arrays)
    assert part(one, two).grade is Grade.PROVEN
    assert part(one, off(two, 1, 0, 1e-2)).fault


def test_duplicates_behind_a_function_are_not_differences() -> None:
    """Equal tensors may replace each other, though no proof covers it."""
    arrays = weights(w=(6, 4), v=(6, 4))
    head = "g (float[N,6] x) => (float[N,4] y) { q = Tanh(x) k = Tanh(x) "
    one = graph(head + "a = MatMul(q, w) b = MatMul(k, v) y = Add(a, b) }", arrays)
    both = (arrays["w"] + arrays["v"]).astype(np.float32)
    two = graph(head + "y = MatMul(q, u) }", {"u": both})
    verdict = check(one, two, samples=1, providers=["cpu"])
    assert verdict
    assert verdict.rests_on is Basis.BOUNDS
    assert verdict.regions[0].grade is Grade.TESTED


# -- What a verdict rests on ------------------------------------------------------------------


def test_a_cancelled_output_is_not_a_difference() -> None:
    """An exact zero in A and a rounding error in B are equal, since the part is."""
    arrays = weights(w=(4, 3, 3, 3)) | bn("n", 4)
    head = "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) "
    a = graph(head + "{ a = Conv(x, w) b = Conv(x, w) y = Sub(a, b) }", arrays)
    scale = arrays["w"] * np.float32(3)
    third = np.array(1 / 3, np.float32)
    b = graph(
        head + "{ a = Conv(x, w) c = Conv(x, v) b = Mul(c, t) y = Sub(a, b) }",
        {"w": arrays["w"], "v": scale, "t": third},
    )
    verdict = check(a, b, samples=1, providers=["cpu"])
    assert verdict, verdict.differences
    assert verdict.rests_on in {Basis.PROOF, Basis.BOUNDS}
    assert any(figure.excuse for figure in verdict.outputs)
    assert any("A amplifies rounding that much" in note for note in verdict.notes)
    wrong = graph(
        head + "{ a = Conv(x, w) c = Conv(x, v) b = Mul(c, t) y = Sub(a, b) }",
        {"w": arrays["w"], "v": scale * np.float32(1.001), "t": third},
    )
    assert not check(a, wrong, samples=1, providers=["cpu"])


def test_equal_graphs_rest_on_identity() -> None:
    """Equal nodes and constants, with any names, need no test."""
    model = pair("normalized")[0]
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    verdict = check(model, copy, samples=1, providers=["cpu"])
    assert verdict.rests_on is Basis.IDENTITY
    assert verdict.summary().endswith("; the graphs are the same")
    assert check(model, copy, samples=1, providers=["cpu"], regions=False).rests_on is Basis.TESTS


def test_different_functions_are_different_parts() -> None:
    """Calls are compared by the bodies of their functions."""
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[N,4] x) => (float[N,4] y) {{ a = own.block(x) y = Relu(a) }}
        <domain: "own", opset_import: ["" : 17]>
        block (p) => (q) {{
            k = Constant<value_float: float = {number}>()
            s = Mul(p, k) r = Neg(s) q = Neg(r) }}"""
    one, two = (onnx.parser.parse_model(text.format(number=n)) for n in (2.0, 2.0000002))
    (region,) = examine(
        read(one), read(two), feeds(one) | {"x": np.ones((2, 4), np.float32)}, CPU
    ).regions
    assert region.grade is Grade.PROVEN
    verdict = check(one, one, samples=1, providers=["cpu"])
    assert verdict.rests_on is Basis.IDENTITY


@given(seed=st.integers(0, 2**32 - 1), length=st.integers(4, 14))
@example(seed=82838, length=6)  # a duplicate is read where A computes it again
@example(seed=510678, length=7)  # at few positions the two inputs of a part do not match
@settings(max_examples=25, deadline=None)
def test_folds_are_proven(seed: int, length: int) -> None:
    """All changes of fold to affine parts of random graphs are proven, without false alarms."""
    model = random_graph(seed, length=length)
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    given = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
    folded = onnx_expand.fold(model)
    for region in examine(read(model), read(folded), given, CPU).regions:
        assert region.holds, region.summary()
        assert region.grade is Grade.PROVEN or "is not linear" in region.reason, region


def test_a_cancelled_inner_tensor_is_not_a_difference() -> None:
    """A zero in A that is a rounding error in B bounds a part, whatever follows."""
    arrays = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1)) | bn("n", 4)
    third, tiny = np.array(1 / 3, np.float32), np.array(1e-9, np.float32)
    head = "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) { a = Conv(x, w) "
    tail = " m = Abs(d) p = Add(m, e) q = Log(p) r = Conv(q, v) "
    tail += "y = BatchNormalization(r, n_s, n_b, n_m, n_v) }"
    one = graph(head + "b = Conv(x, w) d = Sub(a, b)" + tail, {**arrays, "e": tiny})
    two = graph(
        head + "c = Conv(x, u) b = Mul(c, t) d = Sub(a, b)" + tail,
        {**arrays, "u": arrays["w"] * np.float32(3), "t": third, "e": tiny},
    )
    verdict = check(one, two, samples=1, providers=["cpu"])
    assert verdict.rests_on is Basis.PROOF, verdict.differences
    assert {region.tensor for region in verdict.regions} <= {"b", "d"}


def hidden(bias: bool) -> onnx.ModelProto:
    """Build a normalized layer whose results, through a function, vanish beside a bias."""
    arrays = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), d=(4,))
    arrays["v"] *= np.float32(1e-9)
    arrays["b"] = np.array([3, -2, 4, -3], np.float32)
    head = "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) "
    first = "a = Conv(x, w, b)" if bias else "a = Conv(x, w)"
    text = head + "{" + first + " c = Sigmoid(a) y = Conv(c, v, d) }"
    return graph(text, arrays if bias else {k: a for k, a in arrays.items() if k != "b"})


def test_a_missing_bias_is_found() -> None:
    """Equal names with other values and the same consumers are not the same tensor."""
    a, b = hidden(True), hidden(False)
    assert check(a, b, samples=1, providers=["cpu"], regions=False)
    verdict = check(a, b, samples=1, providers=["cpu"])
    assert not verdict
    assert verdict.differences[0].startswith("'a', computed by a in B: a bias of it is off")


@pytest.mark.parametrize("reader", ["LayerNormalization<axis = -1>(a, s)", "Shape(a)"])
def test_irrelevant_values_are_not_differences(reader: str) -> None:
    """A normalization ignores a common shift, and Shape ignores all elements."""
    arrays: dict[str, Array] = {**weights(w=(6, 4)), "s": np.ones(4, np.float32)}
    arrays["c"] = np.full(4, 5, np.float32)
    kind = "int64[2]" if "Shape" in reader else "float[N,4]"
    head = f"g (float[N,6] x) => ({kind} y) {{ "
    one = graph(head + f"m = MatMul(x, w) a = Add(m, c) y = {reader} }}", arrays)
    two = graph(head + f"a = MatMul(x, w) y = {reader} }}", arrays)
    assert check(one, two, samples=1, providers=["cpu"])


def test_a_moved_scale_is_not_a_difference() -> None:
    """A scale may move to the next layer through a function that factors pass."""
    arrays = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))
    head = (
        "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"
    )
    halves = {"w": arrays["w"] / np.float32(2), "v": arrays["v"] * np.float32(2)}
    assert check(graph(head, arrays), graph(head, halves), samples=1, providers=["cpu"])


def test_cancellation_is_compared_with_other_roundings() -> None:
    """On denormal inputs, a normalization amplifies the rounding of a shift to ones."""
    arrays: dict[str, Array] = {**weights(w=(6, 4)), "s": np.ones(4, np.float32)}
    arrays["c"] = np.full(4, 5, np.float32)
    head = "g (float[N,6] x) => (float[N,4] y) { m = MatMul(x, w) a = Add(m, c) "
    tail = "y = LayerNormalization<axis = -1>(a, s) }"
    one = graph(head + tail, arrays)
    two = graph("g (float[N,6] x) => (float[N,4] y) { a = MatMul(x, w) " + tail, arrays)
    verdict = check(one, two, samples=1, providers=["cpu"])
    assert verdict, verdict.differences
    excused = [figure for figure in verdict.outputs if figure.excuse]
    assert all("denormal" in figure.place.sample for figure in excused)
    text = "g (float[N,6] x) => (float[N,4] y) { a = MatMul(x, w) b = Add(a, e) "
    shifted = graph(
        text + "y = LayerNormalization<axis = -1>(b, s) }",
        arrays | {"e": np.array([1e-3, 0, 0, 0], np.float32)},
    )
    assert not check(one, shifted, samples=1, providers=["cpu"])
