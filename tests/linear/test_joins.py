"""Parallel branches, paddings, selections and computed weights fold into one node, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.errors import Reason
from onnx_expand.passes import Border, Policy, Preprocess
from tests.support.graphs_text import bn, fold, graph, ops, weights

pytest.importorskip("onnxruntime")

IMAGE = "float[N,4,H,W] x"
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])

# name: (nodes, constants, what must come out)
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "repvgg": (
        "a = Conv<pads=[1,1,1,1]>(x, w3) b = BatchNormalization(a, p_s, p_b, p_m, p_v) "
        "c = Conv(x, w1) d = BatchNormalization(c, q_s, q_b, q_m, q_v) "
        "e = BatchNormalization(x, r_s, r_b, r_m, r_v) f = Add(b, d) y = Add(f, e)",
        weights(w3=(4, 4, 3, 3), w1=(4, 4, 1, 1)) | bn("p", 4) | bn("q", 4) | bn("r", 4),
        "Conv",
    ),
    "acnet": (
        "a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[0,1,0,1]>(x, h) "
        "c = Conv<pads=[1,0,1,0]>(x, v) d = Add(a, b) y = Add(d, c)",
        weights(w=(4, 4, 3, 3), h=(4, 4, 1, 3), v=(4, 4, 3, 1)),
        "Conv",
    ),
    "acnet, cropped": (
        "a = Conv<pads=[0,1,0,1]>(x, w) s = Slice(x, one, last, two) "
        "b = Conv<pads=[0,1,0,1]>(s, h) y = Add(a, b)",
        weights(w=(4, 4, 3, 3), h=(4, 4, 1, 3))
        | {"one": np.array([1]), "last": np.array([-1]), "two": np.array([2])},
        "Conv",
    ),
    "residual depthwise": (
        "a = Conv<pads=[1,1,1,1], group=4>(x, w) y = Add(x, a)",
        weights(w=(4, 1, 3, 3)),
        "Conv",
    ),
    "dilated branches": (
        "a = Conv<pads=[4,4,4,4], group=4>(x, w9) "
        "b = Conv<pads=[4,4,4,4], dilations=[4,4], group=4>(x, w3) y = Add(a, b)",
        weights(w9=(4, 1, 9, 9), w3=(4, 1, 3, 3)),
        "Conv",
    ),
    "fastvit mixer": (
        "a = Conv<pads=[1,1,1,1], group=4>(x, w) b = BatchNormalization(x, p_s, p_b, p_m, p_v) "
        "c = Sub(a, b) d = Mul(c, k) y = Add(x, d)",
        weights(w=(4, 1, 3, 3), k=(4, 1, 1)) | bn("p", 4),
        "Conv",
    ),
    "two averaged heads": (
        "a = Conv(x, v) b = Conv(x, w) c = Add(a, b) y = Mul(c, half)",
        weights(v=(4, 4, 1, 1), w=(4, 4, 1, 1)) | {"half": np.array(0.5, np.float32)},
        "Conv",
    ),
    "concat into a convolution": (
        "a = Conv(x, v) b = Conv(x, w) c = Concat<axis=1>(a, b) y = Conv(c, u)",
        weights(v=(5, 4, 1, 1), w=(2, 4, 1, 1), u=(3, 7, 1, 1)),
        "Conv",
    ),
    "nested branches": (
        "a = Conv(x, v) b = Conv(a, w) c = Add(a, b) d = Add(c, x) y = Neg(d)",
        weights(v=(4, 4, 1, 1), w=(4, 4, 1, 1)),
        "Conv",
    ),
    "three times the input": (
        "a = Add(x, x) b = Mul(a, k) y = Add(b, x)",
        {"k": np.array(3.0, np.float32)},
        "Mul",
    ),
    "pad before a biased 1x1": (
        "a = Pad(x, pads) y = Conv(a, w, b)",
        weights(w=(4, 4, 1, 1), b=(4,)) | {"pads": PADS},
        "Conv",
    ),
    "selected channels": (
        "a = Conv(x, w) y = Gather<axis=1>(a, i)",
        weights(w=(4, 4, 3, 3)) | {"i": np.array([3, 1])},
        "Conv",
    ),
    "dropout and a slope of one": (
        "a, mask = Dropout(x) b = LeakyRelu<alpha=1.0>(a) y = Conv(b, w)",
        weights(w=(4, 4, 3, 3)),
        "Conv",
    ),
    "computed weight and bias": (
        "v = Mul(w, k) u = Reshape(v, shape) z = Constant<value_float=0.0>() "
        "zero = CastLike(z, x) n = Constant<value_ints=[4]>() b = Expand(zero, n) "
        "a = Conv(x, u, b) y = BatchNormalization(a, p_s, p_b, p_m, p_v)",
        weights(w=(4, 36), k=(4, 1)) | {"shape": np.array([4, 4, 3, 3])} | bn("p", 4),
        "Conv",
    ),
    "transposed convolution": (
        "a = Conv(x, v) b = ConvTranspose<strides=[2,2], pads=[1,1,1,1], group=2>(a, w, c) "
        "d = BatchNormalization(b, p_s, p_b, p_m, p_v) y = Mul(d, k)",
        weights(v=(4, 4, 1, 1), w=(4, 3, 3, 3), c=(6,), k=(6, 1, 1)) | bn("p", 6),
        "ConvTranspose",
    ),
}


AVERAGE = (
    "a = Conv<pads=[1,1,1,1]>(x, w) y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a)",
    weights(w=(4, 4, 3, 3)),
)


@pytest.mark.parametrize("name", CASES)
def test_one_node_remains(name: str) -> None:
    """The pattern becomes one node that computes the same, for odd and even sizes."""
    nodes, constants, expected = CASES[name]
    model = graph(f"g ({IMAGE}) => (float[M,C,P,Q] y) {{ {nodes} }}", constants)
    policy = Policy.ALWAYS if name == "transposed convolution" else Policy.CHEAPEST
    folded, report = fold(model, policy)
    assert ops(folded) == [expected]
    assert len(report.sites) == 1
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


@pytest.mark.parametrize("policy", [Policy.CHEAPEST, Policy.ALWAYS])
@pytest.mark.parametrize("sizes", ["H,W", "H,8", "9,8"])
def test_an_average_merges_where_its_windows_are_known_to_fit(sizes: str, policy: Policy) -> None:
    """An AveragePool takes inputs smaller than its window, which a Conv refuses: it waits."""
    nodes, constants = AVERAGE
    text = f"g (float[N,4,{sizes}] x) => (float[M,C,P,Q] y) {{ {nodes} }}"
    model = graph(text, constants)
    folded, report = fold(model, policy)
    is_static = sizes == "9,8"
    assert ops(folded) == (["Conv"] if is_static else ["Conv", "AveragePool"])
    if not is_static:
        assert [kept.refusal.reason for kept in report.kept] == [Reason.UNKNOWN_SHAPE]
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


def test_what_leaves_nothing_stays() -> None:
    """A pooling of no window gives an empty tensor, and a Conv an error: the pooling stays."""
    model = graph(
        "g (float[1,2,1,1] x) => (float[1,1,0,0] y) "
        "{ a = AveragePool<kernel_shape=[2,2]>(x) b = Add(a, c) y = Slice(b, s, e, i) }",
        {"c": np.ones(1, np.float32), "s": np.array([0]), "e": np.array([1]), "i": np.array([1])},
    )
    folded, _ = fold(model)
    assert "Conv" not in ops(folded)
    assert onnx_expand.check(model, folded, samples=1)


@pytest.mark.parametrize("pooling", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("window", ["kernel_shape=[3,3]", "kernel_shape=[2,2], strides=[2,2]"])
def test_a_convolution_is_not_put_behind_what_may_be_empty(window: str, pooling: str) -> None:
    """Of inputs that are small a pooling may leave nothing, on which a Conv ends with an error."""
    model = graph(
        f"g (float[N,4,H,W] x) => (float[M,C,P,Q] y) {{ r = Relu(x) p = {pooling}<{window}>(r) "
        "a = Gather<axis=1>(p, i) y = Mul(a, k) }",
        weights(k=(2, 1, 1)) | {"i": np.array([3, 1])},
    )
    folded, _ = fold(model, Policy.ALWAYS)
    assert ("Conv" in ops(folded)) == ("strides" in window)
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


@pytest.mark.parametrize("rank", [2, 3])
def test_low_rank_side_path_is_merged(rank: int) -> None:
    """A LoRA side path disappears into its matrix."""
    shape = "N,8" if rank == 2 else "N,5,8"
    model = graph(
        f"g (float[{shape}] x) => (float[{shape}] y) {{ a = MatMul(x, w) b = Add(a, c) "
        "d = MatMul(x, p) e = MatMul(d, q) f = Mul(e, s) y = Add(b, f) }",
        weights(w=(8, 8), c=(8,), p=(8, 2), q=(2, 8)) | {"s": np.array(0.5, np.float32)},
    )
    folded, _ = fold(model)
    assert ops(folded) == (["Gemm"] if rank == 2 else ["MatMul", "Add"])
    assert onnx_expand.check(model, folded, samples=1)


def test_a_fork_that_something_else_reads_stays() -> None:
    """Branches merge behind a value that is also read elsewhere, which itself stays."""
    model = graph(
        f"g ({IMAGE}) => (float[N,4,H,W] y, float[N,4,H,W] z) "
        "{ v = Conv(x, u) a = Conv(v, w) b = Conv(v, t) y = Add(a, b) z = Relu(v) }",
        weights(u=(4, 4, 1, 1), w=(4, 4, 1, 1), t=(4, 4, 1, 1)),
    )
    folded, report = fold(model)
    assert ops(folded) == ["Conv", "Conv", "Relu"]
    assert Reason.SHARED in {kept.refusal.reason for kept in report.kept}
    assert onnx_expand.check(model, folded, samples=1)


def test_a_bottleneck_beside_a_residual_stays() -> None:
    """Merging x + bottleneck(x) into one dense convolution would cost more, and is refused."""
    model = graph(
        f"g ({IMAGE}) => (float[N,4,H,W] y) "
        "{ a = Conv(x, u) b = Conv<pads=[1,1,1,1]>(a, v) c = Conv(b, w) y = Add(x, c) }",
        weights(u=(1, 4, 1, 1), v=(1, 1, 3, 3), w=(4, 1, 1, 1)),
    )
    folded, report = fold(model)
    assert ops(folded) == ops(model)
    assert {kept.refusal.reason for kept in report.kept} == {Reason.COST}


def test_branches_that_broadcast_are_no_sum() -> None:
    """The sum x + mean(x) broadcasts over positions, which no convolution does: it stays."""
    model = graph(
        "g (float[N,4,6,6] x) => (float[N,4,6,6] y) "
        "{ a = GlobalAveragePool(x) b = Conv(a, w) y = Add(x, b) }",
        weights(w=(4, 4, 1, 1)),
    )
    folded, _ = fold(model, Policy.ALWAYS)
    assert "Add" in ops(folded)
    assert onnx_expand.check(model, folded, samples=1)


@pytest.mark.parametrize(
    "attributes",
    ["ceil_mode=1", "pads=[1,1,1,1]"],
)
def test_uneven_averages_stay(attributes: str) -> None:
    """Average pooling whose windows differ at the border is not merged."""
    model = graph(
        f"g ({IMAGE}) => (float[M,C,P,Q] y) {{ a = Conv(x, w) "
        f"y = AveragePool<kernel_shape=[2,2], strides=[2,2], {attributes}>(a) }}",
        weights(w=(4, 4, 3, 3)),
    )
    folded, report = fold(model)
    assert ops(folded) == ops(model)
    assert Reason.UNSUPPORTED in {kept.refusal.reason for kept in report.kept}


# -- Borders ----------------------------------------------------------------------------------

SHIFTED = (
    "a = Sub(x, mean) b = Div(a, std) c = Conv<pads=[1,1,1,1], strides=[2,2]>(b, w, d) "
    "y = BatchNormalization(c, p_s, p_b, p_m, p_v)"
)


@pytest.mark.parametrize(
    ("border", "means", "extents", "expected"),
    [
        (Border.ONES, 4, "H,W", ["Pad", "Conv"]),
        (Border.MAP, 4, "9,8", ["Conv", "Add"]),
        (Border.PAD, 1, "H,W", ["Pad", "Conv"]),
        (Border.EXACT, 4, "H,W", ["Sub", "Conv"]),
        (Border.MAP, 4, "H,W", ["Sub", "Conv"]),
        (Border.PAD, 4, "H,W", ["Sub", "Conv"]),
    ],
)
def test_a_shift_before_padding(
    border: Border, means: int, extents: str, expected: list[str]
) -> None:
    """Each rewrite of a border is exact; where it does not apply the nodes stay apart."""
    rng = np.random.default_rng(5)
    constants = weights(w=(6, 4, 3, 3), d=(6,)) | bn("p", 6)
    constants["mean"] = np.broadcast_to(rng.standard_normal((means, 1, 1)), (4, 1, 1)).astype(
        np.float32
    )
    constants["std"] = rng.uniform(0.5, 2, (4, 1, 1)).astype(np.float32)
    model = graph(f"g (float[N,4,{extents}] x) => (float[M,C,P,Q] y) {{ {SHIFTED} }}", constants)
    folded, report = fold(model, border=border)
    assert ops(folded) == expected
    assert onnx_expand.check(model, folded, samples=1)
    if expected[0] == "Sub":
        assert Reason.BORDER in {kept.refusal.reason for kept in report.kept}


def test_merging_over_a_border_would_be_wrong() -> None:
    """The refused merge of a shift and a padded convolution would change the output."""
    constants = weights(w=(6, 4, 3, 3))
    shift = np.full((4, 1, 1), 2.0, np.float32)
    text = "g (float[N,4,9,9] x) => (float[M,C,P,Q] y) {{ {} }}"
    model = graph(
        text.format("a = Sub(x, mean) y = Conv<pads=[1,1,1,1]>(a, w)"),
        constants | {"mean": shift},
    )
    bias = -2.0 * constants["w"].sum(axis=(1, 2, 3))
    naive = graph(text.format("y = Conv<pads=[1,1,1,1]>(x, w, d)"), constants | {"d": bias})
    assert not onnx_expand.check(model, naive, samples=1)
    numbers = next(k.refusal.numbers for k in fold(model)[1].kept)
    assert numbers["border_error"] > 0.1 * numbers["output_scale"]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("mean", [(0.4, 0.5, 0.6), (0.5,)])
@pytest.mark.parametrize("pad", [0, 1])
def test_preprocessing_goes_into_the_first_convolution(
    swap: bool, mean: tuple[float, ...], pad: int
) -> None:
    """Mean, deviation and channel order fold into the first convolution, padded or not."""
    pads = ",".join([str(pad)] * 4)
    constants = weights(w=(6, 3, 3, 3), d=(6,))
    text = (
        f"g (float[N,3,H,W] x) => (float[M,C,P,Q] y) {{{{ {{}} y = Conv<pads=[{pads}]>({{}}) }}}}"
    )
    raw = ir.serde.deserialize_model(graph(text.format("", "x, w, d"), constants))
    Preprocess(mean, (0.2, 0.3, 0.25), swap).call(raw)
    folded, report = fold(ir.serde.serialize_model(raw), image="x")
    pre = "s = Gather<axis=1>(x, i) " if swap else "s = Identity(x) "
    expected = graph(
        text.format(pre + "a = Sub(s, mean) b = Div(a, std)", "b, w, d"),
        constants
        | {
            "i": np.array([2, 1, 0]),
            "mean": np.broadcast_to(np.array(mean, np.float32), (3,)).reshape(3, 1, 1),
            "std": np.array([0.2, 0.3, 0.25], np.float32).reshape(3, 1, 1),
        },
    )
    assert ops(folded) == (["Pad", "Conv"] if pad else ["Conv"])
    form = {site.border for site in report.sites} - {Border.EXACT}
    assert form == ({Border.PAD if len(mean) == 1 else Border.ONES} if pad else set())
    assert onnx_expand.check(expected, folded, samples=1)


def test_a_bias_of_two_axes_is_refused() -> None:
    """A bias that no runtime accepts, as an exporter writes it, is refused and does no harm."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,5,5] x) => (float[N,4,5,5] y) '
        "{ a = Conv(x, w, b) y = Conv(a, w) }"
    )
    for name, shape in (("w", (4, 4, 1, 1)), ("b", (4, 2))):
        array = np.ones(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    assert ops(onnx_expand.fold(model)) == ["Conv", "Conv"]


def chunked(concat: str = "Concat <axis: int = 1> (p, q)", more: str = "") -> onnx.ModelProto:
    """Two halves of the channels, each with a convolution of its own."""
    return graph(
        f"""
        g (float[N,8,5,5] x) => (float[N,8,5,5] y{", float[N,4,5,5] b" if more else ""}) {{
            a, b = Split <axis: int = 1> (x)
            p = Conv <pads: ints = [1, 1, 1, 1]> (a, v)
            q = Conv <pads: ints = [1, 1, 1, 1]> (b, w)
            y = {concat}
        }}
        """,
        weights(v=(4, 4, 3, 3), w=(4, 4, 3, 3)),
        opset=13,
    )


def test_convolutions_of_parts_are_one_with_groups() -> None:
    """Split, Conv each and Concat are one grouped convolution of as many products."""
    model = chunked()
    folded, _ = fold(model)
    assert ops(folded) == ["Conv"]
    assert onnx.helper.get_node_attr_value(folded.graph.node[0], "group") == 2
    assert onnx_expand.check(model, folded)


def test_parts_that_are_swapped_are_no_groups() -> None:
    """Merged, the halves would be one dense convolution of twice the products."""
    model = chunked("Concat <axis: int = 1> (q, p)")
    folded, _ = fold(model)
    assert ops(folded) == ["Split", "Conv", "Conv", "Concat"]
    always, _ = fold(model, Policy.ALWAYS)
    assert ops(always) == ["Conv"]
    assert onnx_expand.check(model, always)


def test_a_part_that_is_read_elsewhere_keeps_the_split() -> None:
    """The output b comes from the Split, which merging would remove."""
    model = chunked(more="b")
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["Split", "Conv", "Conv", "Concat"]
    assert onnx_expand.check(model, folded)
    assert not report.sites
