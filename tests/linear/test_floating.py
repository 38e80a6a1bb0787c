"""Maps of channels merge with convolutions whose borders nobody knows, and change no number."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.passes import Policy
from tests.support.graphs import Array, as_double, compute
from tests.support.graphs_text import bn, fold, graph, ops, weights
from tests.support.strategies import with_numbers

SIZES = [(1, 1), (2, 5), (7, 8), (9, 4)]
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def floating(draw: st.DrawFn, channels: int) -> Geometry:
    """A convolution whose pads follow from an input of two axes."""
    group = draw(st.sampled_from([1, 2]))
    transposed = draw(st.booleans())
    mode = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
    asked = transposed and draw(st.booleans())
    return Geometry(
        channels,
        draw(st.sampled_from([2, 4])),
        (draw(st.integers(2, 4)), 3),
        (draw(st.integers(2, 3)), draw(st.integers(1, 3))),
        group=group,
        bias=draw(st.booleans()),
        transposed=transposed,
        auto_pad=draw(st.sampled_from([mode, ""])) if asked else mode,
        output_shape=(11, 12) if asked else (),
    )


def pointwise(n: int, m: int, *, bias: bool, mixes: bool, seed: int) -> AffineConv:
    """A map of single positions."""
    rng = np.random.default_rng(seed)
    shift = rng.standard_normal(n) if bias else None
    if mixes:
        return AffineConv(rng.standard_normal((n, m)), shift)
    return AffineConv.per_channel(rng.standard_normal(m), shift)


@given(f=floating(4), seed=SEEDS, mixes=st.booleans(), size=st.sampled_from(SIZES))
@settings(deadline=None)
def test_a_floating_map_composes_with_single_positions(
    f: Geometry, seed: int, mixes: bool, size: tuple[int, int]
) -> None:
    """(g f h)(x) = g(f(h(x))) for g with a shift and h without, whatever the pads come to."""
    n = f.out_channels
    inner = with_numbers(f, seed)
    g = pointwise(n, n, bias=True, mixes=mixes, seed=seed)
    h = pointwise(4, 4, bias=False, mixes=mixes, seed=seed + 1)
    x = np.random.default_rng(seed).standard_normal((2, 4, *size))
    whole = g @ inner @ h
    assert whole.geometry.floats
    np.testing.assert_allclose(whole(x), g(inner(h(x))), rtol=0, atol=1e-10)
    np.testing.assert_allclose((inner + inner)(x), 2 * inner(x), rtol=0, atol=1e-10)


@given(f=floating(4), seed=SEEDS, size=st.sampled_from([(7, 8), (9, 4)]))
@settings(deadline=None)
def test_a_shift_before_a_floating_map_is_refused(
    f: Geometry, seed: int, size: tuple[int, int]
) -> None:
    """With the witness: as if its pads were the shift, other numbers would come out."""
    h = pointwise(4, 4, bias=True, mixes=False, seed=seed)
    inner = replace(with_numbers(f, seed), output_shape=())
    inner = inner if inner.auto_pad else replace(inner, auto_pad="SAME_UPPER")
    with pytest.raises(RefusedError) as caught:
        _ = inner @ h
    assert caught.value.refusal.reason is Reason.BORDER
    settled = inner.geometry.settled(size)
    if not any(settled.pads) or f.transposed:
        return
    x = np.random.default_rng(seed).standard_normal((1, 4, *size))
    merged = inner @ replace(h, bias=None)
    carried = inner.weight.sum(axis=(2, 3))
    assert h.bias is not None
    shift = carried.reshape(inner.group, -1, carried.shape[1]) @ h.bias.reshape(inner.group, -1, 1)
    wrong = merged(x) + shift.reshape(-1, 1, 1)
    assert np.max(np.abs(wrong - inner(h(x)))) > 1e-6


def test_kernels_do_not_meet_a_floating_map() -> None:
    """Neither before nor behind nor beside it, which is said in terms of what would help."""
    same = Geometry(4, 4, (3, 3), (2, 2), auto_pad="SAME_UPPER")
    plain = Geometry(4, 4, (3, 3))
    beside = Geometry(4, 4, (1, 1), (2, 2))
    for refusal in (same.then(plain), plain.then(same), same.plus(beside), beside.plus(same)):
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.UNKNOWN_SHAPE
        assert "explicit pads" in refusal.hint
    # The witness: on even extents the middle of the kernel is one position further.
    pads = {size: same.settled((size, size)).pads for size in (6, 7)}
    assert pads == {6: (0, 0, 1, 1), 7: (1, 1, 1, 1)}


# -- Graphs -----------------------------------------------------------------------------------

LAYERS = {
    "same upper": 'Conv<auto_pad="SAME_UPPER", strides=[2,2]>',
    "same lower": 'Conv<auto_pad="SAME_LOWER", strides=[2,1]>',
    "same, grouped": 'Conv<auto_pad="SAME_UPPER", strides=[3,3], group=2>',
    "transposed, same": 'ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>',
    "transposed, lower": 'ConvTranspose<auto_pad="SAME_LOWER", strides=[2,2]>',
    "transposed, valid": 'ConvTranspose<auto_pad="VALID", strides=[2,2]>',
    "transposed, shape": "ConvTranspose<output_shape=[11,12], strides=[2,2]>",
    "transposed, padded": "ConvTranspose<output_padding=[1,0], strides=[2,2], pads=[0,1,1,0]>",
}
BEFORE = {
    "nothing": ("", "x"),
    "scale": ("s = Mul(x, c)", "s"),
    "scale of all": ("s = Neg(x)", "s"),
    "1x1": ("s = Conv(x, q)", "s"),
}
BEHIND = {
    "normalization": "t = BatchNormalization(a, n_s, n_b, n_m, n_v)",
    "scale and shift": "u = Mul(a, d) t = Add(u, e)",
    "1x1": "t = Conv(a, p, v)",
}


def _arrays() -> dict[str, Array]:
    shapes = {"c": (1, 4, 1, 1), "d": (4, 1, 1), "e": (1, 4, 1, 1)}
    shapes |= {"q": (4, 4, 1, 1), "p": (4, 4, 1, 1), "v": (4,), "b": (4,)}
    return {**weights(3, **shapes), **bn("n", 4)}


def _agree(model: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    sizes = [(5, 6)] if "output_shape" in str(model) else [(5, 6), (6, 5), (7, 7)]
    for seed, size in enumerate(sizes):
        x = np.random.default_rng(seed).standard_normal((2, 4, *size)).astype(np.float32)
        for e, a in zip(compute(model, {"x": x}), compute(folded, {"x": x}), strict=True):
            assert e.shape == a.shape
            np.testing.assert_allclose(a, e, rtol=0, atol=5e-5 * max(1.0, np.abs(e).max()))


# A 1x1 next to groups costs less apart.
COMBINED = [
    these
    for these in itertools.product(LAYERS, BEFORE, BEHIND)
    if "1x1" not in these or "group" not in LAYERS[these[0]]
]


@pytest.mark.parametrize(("layer", "before", "behind"), COMBINED)
def test_channels_go_into_a_layer_of_unknown_borders(layer: str, before: str, behind: str) -> None:
    """One node is left, with the attributes that it had."""
    pytest.importorskip("onnxruntime")
    first, value = BEFORE[before]
    grouped = "group=2" in LAYERS[layer]
    text = f"a = {LAYERS[layer]}({value}, w, b)"
    model = graph(
        f"g (float[N,4,H,W] x) => (float[N,4,P,Q] y) {{ {first} {text} {BEHIND[behind]} "
        "y = Relu(t) }",
        {**_arrays(), **weights(w=(4, 2 if grouped else 4, 3, 3))},
    )
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    folded, _ = fold(model, Policy.CHEAPEST)
    op = LAYERS[layer].partition("<")[0]
    assert ops(folded) == [op, "Relu"]
    old = next(n for n in model.graph.node if n.op_type == op and len(n.input) == 3)
    attributes = {a.name: a for a in folded.graph.node[0].attribute}
    for attribute in old.attribute:
        assert attributes[attribute.name] == attribute
    _agree(model, folded)


def test_a_shift_stays_before_a_layer_of_unknown_borders() -> None:
    """Its scale goes into the layer, and it remains an addition, with the reason."""
    pytest.importorskip("onnxruntime")
    model = graph(
        "g (float[N,4,H,W] x) => (float[N,4,P,Q] y) { "
        "s = BatchNormalization(x, n_s, n_b, n_m, n_v) "
        'a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(s, w) y = Relu(a) }',
        {**bn("n", 4), **weights(w=(4, 4, 3, 3))},
    )
    folded, report = fold(model, Policy.CHEAPEST)
    assert ops(folded) == ["Add", "Conv", "Relu"]
    assert Reason.BORDER in {kept.refusal.reason for kept in report.kept}
    _agree(model, folded)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("behind", [False, True])
def test_a_shift_does_not_pass_sums_of_unknown_borders(layer: str, behind: bool) -> None:
    """A kernel of equal sums multiplies a shift by one number, but for the zeros of its border."""
    pytest.importorskip("onnxruntime")
    layer = LAYERS[layer].replace(", group=2", "").replace("<", "<group=4, ")
    first, last = ("s = Add(x, e)", "t = Identity(a)"), ("s = Neg(x)", "t = Add(a, e)")
    before, after = last if behind else first
    model = graph(
        f"g (float[N,4,H,W] x) => (float[N,4,P,Q] y) {{ {before} a = {layer}(s, w) {after} "
        "y = Conv(t, p, v) }",
        _arrays() | {"w": np.ones((4, 1, 3, 3), np.float32)},
    )
    _agree(model, fold(model, Policy.CHEAPEST)[0])


@pytest.mark.parametrize("behind", BEHIND)
def test_a_weight_says_rank_and_channels_behind_a_foreign_op(behind: str) -> None:
    """What onnxruntime's own Gelu leaves open, the convolution behind it says."""
    pytest.importorskip("onnxruntime")
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '
        "g (float[N,4,H,W] x) => (float[N,4,P,Q] y) { f = com.microsoft.Gelu(x) "
        f"s = Mul(f, k) a = Conv<pads=[1,1,1,1]>(s, w) {BEHIND[behind]} y = Relu(t) }}"
    )
    model = onnx.parser.parse_model(text)
    arrays = {**_arrays(), **weights(w=(4, 4, 3, 3), k=())}
    for name in {name for node in model.graph.node for name in node.input} & set(arrays):
        model.graph.initializer.append(onnx.numpy_helper.from_array(arrays[name], name))
    folded, report = fold(model, Policy.CHEAPEST)
    assert ops(folded) == ["Gelu", "Conv", "Relu"], [str(k.refusal) for k in report.kept]
    _agree(model, folded)


def test_what_the_double_reference_says() -> None:
    """The merged layer is the one that the source means in float64, at sizes of both parities."""
    model = graph(
        "g (float[N,4,H,W] x) => (float[N,4,P,Q] y) { "
        's = Neg(x) a = Conv<auto_pad="SAME_LOWER", strides=[2,3]>(s, w, b) '
        "t = BatchNormalization(a, n_s, n_b, n_m, n_v) y = Relu(t) }",
        {**bn("n", 4), **weights(w=(4, 4, 4, 3), b=(4,))},
    )
    folded, _ = fold(model, Policy.CHEAPEST)
    for size in [(6, 6), (7, 8), (5, 9)]:
        x = np.random.default_rng(0).standard_normal((1, 4, *size)).astype(np.float32)
        (expected,), (actual,) = as_double(model, {"x": x}), as_double(folded, {"x": x})
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
