"""Products of one input as one wider product and a Split, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from onnx_expand.graph.editing import Rewriter
from onnx_expand.graph.facts import Facts
from onnx_expand.passes import Policy
from onnx_expand.passes.benchmark import Benchmark, Timings
from onnx_expand.passes.widths import Width, resize
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.judge import Source, judge
from tests.support.opsets import NEWEST

OPSETS = (7, 11, 13, 18, NEWEST)
SIZES: tuple[Mapping[str, int], ...] = ({"N": 1}, {"N": 3})
WIDTHS = (3, 5, 4)

# The shape of x, the nodes from x to y0, y1, y2, and the shape of the i-th weight.
FORMS = {
    "MatMul": ("N,6,8", "y{i} = MatMul(x, w{i})", "8,{n}", None),
    "MatMul + Add": ("N,6,8", "a{i} = MatMul(x, w{i}) y{i} = Add(b{i}, a{i})", "8,{n}", "{n}"),
    "Gemm": ("N,8", "y{i} = Gemm(x, w{i}, b{i})", "8,{n}", "{n}"),
    "Gemm, transB": ("N,8", "y{i} = Gemm <transB = 1> (x, w{i}, b{i})", "{n},8", "{n}"),
    "Conv 1x1": ("N,8,5,6", "y{i} = Conv(x, w{i})", "{n},8,1,1", None),
    "Conv 3x3": (
        "N,8,5,6",
        "y{i} = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w{i}, b{i})",
        "{n},8,3,3",
        "{n}",
    ),
}


def model_of(name: str, opset: int, tail: str = "z{i} = Relu(y{i})") -> onnx.ModelProto:
    """Build three products of x, each read by a Relu."""
    shape, text, weight, bias = FORMS[name]
    nodes = " ".join(f"{text} {tail}".format(i=i) for i in range(3))
    shapes = {}
    for i, n in enumerate(WIDTHS):
        shapes[f"w{i}"] = tuple(map(int, weight.format(n=n).split(",")))
        if bias is not None:
            shapes[f"b{i}"] = (n,)
    letters = ",".join("ABCD"[: len(shape.split(","))])
    outputs = ", ".join(f"float[{letters}] z{i}".replace("A", f"A{i}") for i in range(3))
    return graph(
        f"g (float[{shape}] x) => ({outputs}) {{ {nodes} }}", weights(0, **shapes), opset=opset
    )


def resized(model: onnx.ModelProto, width: Width) -> tuple[onnx.ModelProto, int]:
    """Return the model with other products, and the number of sites."""
    held = ir.serde.deserialize_model(model)
    rewriter = Rewriter(held)
    count = len(list(resize(held.graph, Facts(held), rewriter, width)))
    rewriter.finish()
    return ir.serde.serialize_model(held), count


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", FORMS)
def test_one_wide_product_computes_the_same_and_back(name: str, opset: int) -> None:
    """The wide product computes the same, and splitting it restores the ops."""
    model = model_of(name, opset)
    wide, count = resized(model, Width.WIDER)
    assert count == 1
    op = FORMS[name][1].split(" = ")[1].split("(")[0].split(" ")[0]
    assert ops(wide).count(op) == 1
    assert ops(wide).count("Split") == 1
    source = Source(model, SIZES)
    assert judge(source, wide) == []
    back, count = resized(wide, Width.NARROWER)
    assert count == 1
    assert sorted(ops(back)) == sorted(ops(model))
    assert judge(source, back) == []
    for once, what in ((wide, Width.WIDER), (back, Width.NARROWER)):
        assert resized(once, what)[1] == 0


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        # Another value, other attributes, other forms, groups: no single product computes these.
        ("y0 = MatMul(x, w) y1 = MatMul(y0, v)", {"w": (8, 8), "v": (8, 4)}),
        ("y0 = Gemm(x, w) y1 = Gemm <alpha = 2.0> (x, v)", {"w": (8, 8), "v": (8, 4)}),
        ("y0 = Gemm(x, w) y1 = Gemm <transB = 1> (x, v)", {"w": (8, 8), "v": (4, 8)}),
        (
            "y0 = MatMul(x, w) a = MatMul(x, v) y1 = Add(a, b)",
            {"w": (8, 8), "v": (8, 4), "b": (4,)},
        ),
        (
            "y0 = Gemm(x, w, b) y1 = Gemm(x, v, c)",
            {"w": (8, 8), "v": (8, 4), "b": (1,), "c": (4,)},
        ),
        # A weight with two consumers would be stored twice.
        ("y0 = MatMul(x, w) y1 = MatMul(x, w)", {"w": (8, 8)}),
    ],
)
def test_other_products_stay(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Products of other values or of other kinds stay apart."""
    model = graph(
        f"g (float[N,8] x) => (float[N,P] y0, float[N,Q] y1) {{ {text} }}", weights(0, **shapes)
    )
    assert resized(model, Width.WIDER)[1] == 0


def test_a_wide_product_with_other_consumers_stays() -> None:
    """A wide product is not split if it has a consumer besides its Split."""
    model = graph(
        "g (float[N,8] x) => (float[N,4] y0, float[N,8] y1) { a = MatMul(x, w) "
        "y0, b = Split <axis = 1, num_outputs = 2> (a) y1 = Relu(a) }",
        weights(w=(8, 8)),
        opset=18,
    )
    assert resized(model, Width.NARROWER)[1] == 0


def pretend(monkeypatch: pytest.MonkeyPatch, taken: Mapping[str, int]) -> None:
    """Replace measurements of whole models by given times per op."""

    def time(self: Benchmark, models: Mapping[str, ir.Model], *_: Any, **__: Any) -> Timings:
        del self
        totals = {n: sum(taken.get(x.op_type, 1) for x in m.graph) for n, m in models.items()}
        return Timings({name: [total] * 9 for name, total in totals.items()})

    monkeypatch.setattr(Benchmark, "time", time)


@pytest.mark.parametrize(("product", "split", "wide"), [(100, 10, True), (1, 500, False)])
def test_measured_times_decide(
    monkeypatch: pytest.MonkeyPatch, product: int, split: int, wide: bool
) -> None:
    """Only the policy `latency` writes one wide product, if it is faster."""
    pretend(monkeypatch, {"MatMul": product, "Split": split})
    model = model_of("MatMul", 17)
    found = ops(fold(model, Policy.LATENCY)[0])
    assert found.count("MatMul") == (1 if wide else 3)
    assert ops(fold(model, Policy.CHEAPEST)[0]).count("MatMul") == 3
    narrow, _ = resized(model, Width.WIDER)
    found = ops(fold(narrow, Policy.LATENCY)[0])
    assert found.count("MatMul") == (1 if wide else 3)


BRANCHES = """
    g (float[N,12,9,9] x) => (float[N,24,9,9] y) {
        s = Conv(x, w0, b0) t = Relu(s)
        a = Conv(t, w1, b1) p = Relu(a) b = Conv(t, w2, b2) q = ACT(b) c = Conv(t, w3, b3)
        r = Relu(c) d = Conv <pads = [1, 1, 1, 1]> (q, k1) e = Relu(d)
        f = Conv <pads = [2, 2, 2, 2]> (r, k2) h = Relu(f)
        m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (t) n = Conv(m, w4, b4)
        o = Relu(n) y = Concat <axis = 1> (p, e, h, o)
    }
"""


@pytest.mark.parametrize("act", ["Relu", "Sigmoid"])
def test_branches_of_a_block_merge_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The 1x1 layers of an Inception block read one value; equal activations stay with them."""
    pretend(monkeypatch, {"Conv": 100})
    constants = weights(w0=(8, 12, 1, 1), w1=(6, 8, 1, 1), w2=(4, 8, 1, 1), w3=(5, 8, 1, 1))
    constants |= weights(w4=(6, 8, 1, 1), k1=(6, 4, 3, 3), k2=(6, 5, 5, 5))
    constants |= weights(b0=(8,), b1=(6,), b2=(4,), b3=(5,), b4=(6,))
    model = graph(BRANCHES.replace("ACT", act), constants, opset=17)
    folded, _ = fold(model, Policy.LATENCY)
    found = ops(folded)
    assert (found.count("Conv"), found.count("Split")) == (5, 1)
    # One Relu of the wide layer instead of three, or the three different ones.
    assert found.count("Relu") + found.count("Sigmoid") == (5 if act == "Relu" else 7)
    assert judge(Source(model, SIZES), folded) == []


def test_kernels_of_other_sizes_stay() -> None:
    """A Fire block's 1x1 and 3x3 would be one 3x3 of nine times the products of the 1x1."""
    model = graph(
        "g (float[N,8,9,9] x) => (float[N,10,9,9] y) { a = Conv(x, w1) p = Relu(a) "
        "b = Conv <pads = [1, 1, 1, 1]> (x, w2) q = Relu(b) y = Concat <axis = 1> (p, q) }",
        weights(w1=(4, 8, 1, 1), w2=(6, 8, 3, 3)),
    )
    assert resized(model, Width.WIDER)[1] == 0
