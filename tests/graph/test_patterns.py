"""Composite patterns: what onnxruntime fuses in a model it fuses in the folded model, too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_expand
from onnx_expand.errors import Reason
from onnx_expand.graph.expressions import Apply, Constant, Expression, Value, apply
from onnx_expand.graph.patterns import PATTERNS, Pattern
from tests.support.composites import WIDTH, fused_ops, model_of, spelled
from tests.support.graphs_text import bn, graph, weights
from tests.support.judge import Source, judge
from tests.support.opsets import NEWEST

OPSETS = (9, 11, 13, 17, 18, 20, NEWEST)
SPELLINGS = 8
SIZES: tuple[Mapping[str, int], ...] = ({"N": 1}, {"N": 3})
BY_NAME = {pattern.name: pattern for pattern in PATTERNS}
# What onnxruntime computes each pattern by, once it is spelled for that.
FUSED = {
    "LayerNormalization": {"LayerNormalization", "SimplifiedLayerNormalization"},
    "RMSNormalization": {"SimplifiedLayerNormalization", "RMSNormalization"},
    "Gelu": {"BiasGelu"},
    "Gelu (tanh)": {"FastGelu"},
    "Gelu (sigmoid)": {"QuickGelu"},
    "HardSwish": {"HardSigmoid", "HardSwish"},
    "HardSigmoid": {"HardSigmoid"},
    "LayerNormalization, no scale": {"LayerNormalization"},
    "RMSNormalization, no scale": {"SimplifiedLayerNormalization", "RMSNormalization"},
}
# A normalization may be another kind of normalization afterwards, where the whole is one.
KINDS = {op: "normalization" for name in FUSED if "Norm" in name for op in FUSED[name]}
UNARY = [pattern for pattern in PATTERNS if pattern.name not in {"attention", "ReLU6"}]


def lost(source: Counter[str], folded: Counter[str]) -> Counter[str]:
    """The fused ops that are gone; a scale that a product took in may be gone itself."""
    of_kind = [Counter[str](), Counter[str]()]
    for found, ops in zip(of_kind, (source, folded), strict=True):
        for op, count in ops.items():
            found[KINDS.get(op, op)] += count
    missing = of_kind[0] - of_kind[1]
    del missing["FusedMatMul"]
    return missing


def spellings(pattern: Pattern, seed: int) -> list[Expression]:
    """Spellings of a pattern, drawn at random."""
    rng = np.random.default_rng(seed)
    drawn = [spelled(pattern.spelling, rng) for _ in range(SPELLINGS)]
    return list(dict.fromkeys(drawn))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("pattern", UNARY, ids=lambda p: p.name)
def test_no_fusion_is_lost(pattern: Pattern, opset: int, tmp_path: Path) -> None:
    """Whatever the spelling, what the source has fused is fused, and the pattern is."""
    for spelling in spellings(pattern, opset):
        model = model_of(spelling, opset)
        folded = onnx_expand.fold(model)
        for every in (False, True):
            before = fused_ops(model, tmp_path, every=every)
            after = fused_ops(folded, tmp_path, every=every)
            assert not lost(before, after), (spelling, before, after)
            if opset >= pattern.since:
                assert FUSED[pattern.name] & after.keys(), (spelling, after)
        assert judge(Source(model, SIZES), folded) == []


@pytest.mark.parametrize("name", ["Gelu", "Gelu (tanh)", "LayerNormalization"])
def test_the_runtime_fuses_few_spellings(name: str, tmp_path: Path) -> None:
    """The witness for writing patterns anew: of some spellings nothing is fused as they are."""
    rng = np.random.default_rng(0)
    forms = [BY_NAME[name].spelling, BY_NAME[name].fused]
    drawn = [spelled(form, rng) for form in forms for _ in range(9) if form is not None]
    fused = [bool(FUSED[name] & fused_ops(model_of(s, 13), tmp_path).keys()) for s in drawn]
    assert any(fused)
    assert not all(fused)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.fused], ids=lambda p: p.name)
def test_fused_spellings_stay(pattern: Pattern) -> None:
    """Where there is no operator yet, what is fused stays, a Cast that changes nothing aside."""
    assert pattern.fused is not None
    for seed in range(6):
        spelling = spelled(pattern.fused, np.random.default_rng(seed))
        model = model_of(spelling, 13)
        folded = onnx_expand.fold(model)
        kinds, now = (
            Counter(n.op_type for n in m.graph.node if n.op_type != "Cast")
            for m in (model, folded)
        )
        if pattern.name != "HardSwish":
            assert now == kinds
        again = onnx_expand.fold(folded)
        assert again.graph == folded.graph


OPERATORS = {
    "LayerNormalization": (17, "LayerNormalization"),
    "RMSNormalization": (23, "RMSNormalization"),
    "Gelu": (20, "Gelu"),
    "Gelu (tanh)": (20, "Gelu"),
    "HardSwish": (14, "HardSwish"),
    "HardSigmoid": (11, "HardSigmoid"),
    "LayerNormalization, no scale": (17, "LayerNormalization"),
    "RMSNormalization, no scale": (23, "RMSNormalization"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_pattern_becomes_its_operator(name: str) -> None:
    """From the operator set on that has it, the operator is all that is left."""
    since, op = OPERATORS[name]
    for spelling in spellings(BY_NAME[name], 5):
        model = model_of(spelling, since)
        folded, report = onnx_expand.fold(model, report=True)
        assert [n.op_type for n in folded.graph.node] == ["MatMul", "Add", op, "MatMul", "Add"]
        assert judge(Source(model, SIZES), folded) == []
        site = next(s for s in report.sites if len(s.result) == 1)
        assert set(site.nodes) <= {n.name for n in model.graph.node}


def mutated(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Change one number, one operand or one attribute of a model; return what was changed."""
    nodes = list(model.graph.node)[2:-2]  # those of the pattern
    read = {name for node in nodes for name in node.input}
    constants = [c for c in model.graph.initializer if c.name in read and c.name != "axes"]
    kind = rng.choice(["number", "rank", "operand", "axes", "output"])
    if kind == "axes":
        for axes in (a for node in nodes for a in node.attribute if a.name == "axes"):
            axes.ints[0] = -2
        for axis in (c for c in model.graph.initializer if c.name == "axes"):
            axis.CopyFrom(numpy_helper.from_array(np.array([-2]), "axes"))
    elif kind == "operand":
        node = nodes[rng.integers(len(nodes))]
        place = int(rng.integers(len(node.input)))
        if node.input[place] not in {c.name for c in model.graph.initializer}:
            node.input[place] = "v0"  # the product before the bias that the pattern reads
    elif kind == "output":
        info = helper.make_tensor_value_info(nodes[0].output[0], onnx.TensorProto.FLOAT, None)
        model.graph.output.append(info)
    elif constants:
        constant = constants[rng.integers(len(constants))]
        array = numpy_helper.to_array(constant)
        if kind == "number":
            array = (array * rng.choice([1.001, 0.5, -1.0, 3.0])).astype(array.dtype)
        else:
            array = array.reshape((1,) * int(rng.integers(1, 4)) + array.shape)
        constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return str(kind)


@pytest.mark.parametrize("opset", [13, NEWEST])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_what_resembles_a_pattern_keeps_its_value(pattern: Pattern, opset: int) -> None:
    """One other number, rank, operand or axis: what is written anew computes the same."""
    if pattern.name == "attention":
        return
    rng = np.random.default_rng(opset)
    for spelling in spellings(pattern, opset):
        model = model_of(spelling, opset)
        what = mutated(model, rng)
        source = Source(model, SIZES)
        if not source.error:
            assert judge(source, onnx_expand.fold(model)) == [], (what, spelling)


@pytest.mark.parametrize("opset", [13, 17, 20, NEWEST])
@pytest.mark.parametrize("name", ["Gelu", "Gelu (tanh)", "HardSwish", "HardSigmoid", "ReLU6"])
def test_numbers_of_more_axes_are_no_pattern(name: str, opset: int) -> None:
    """They give the result more axes, which the operator would not."""
    for spelling in spellings(BY_NAME[name], opset):
        model = model_of(spelling, opset, shape=("N", 5, WIDTH))
        for constant in model.graph.initializer:
            array = numpy_helper.to_array(constant)
            if not array.ndim and array.dtype == np.float32 and opset > 11:
                clips = {i for n in model.graph.node if n.op_type == "Clip" for i in n.input[1:]}
                if constant.name not in clips:
                    whole = array.reshape(1, 1, 1, 1)
                    constant.CopyFrom(numpy_helper.from_array(whole, constant.name))
        assert judge(Source(model, SIZES), onnx_expand.fold(model)) == [], spelling


@pytest.mark.parametrize("name", ["LayerNormalization", "RMSNormalization"])
def test_a_scale_with_more_axes_becomes_a_vector(name: str) -> None:
    """[1, 1, 8] is one number for each feature, as the operators want it in [8]."""
    for spelling in spellings(BY_NAME[name], 1):
        model = model_of(spelling, NEWEST)
        for constant in model.graph.initializer:
            if constant.name in {"scale", "shift"}:
                whole = numpy_helper.to_array(constant).reshape(1, 1, WIDTH)
                constant.CopyFrom(numpy_helper.from_array(whole, constant.name))
        folded = onnx_expand.fold(model)
        assert name in {n.op_type for n in folded.graph.node}
        assert judge(Source(model, SIZES), folded) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_are_not_written_anew(dtype: type[np.floating]) -> None:
    """No kernel is asked for that a runtime may lack in another type than float32."""
    for pattern in UNARY:
        if pattern.name == "Gelu (sigmoid)" and dtype is np.float64:
            continue
        spelling = spelled(pattern.spelling, np.random.default_rng(3))
        model = model_of(spelling, 23, dtype)
        folded = onnx_expand.fold(model)
        ops = {n.op_type for n in folded.graph.node}
        assert ops <= {n.op_type for n in model.graph.node}


def halved(x: Value) -> Apply:
    """A GELU of which one half could go into the next product."""
    gate = apply("Erf", x / float(np.sqrt(2))) + 1
    return (x * gate) * 0.5


def test_a_part_of_a_pattern_in_the_next_weight_loses_the_fusion(tmp_path: Path) -> None:
    """The witness: the policy that merges whatever it can leaves nothing to be fused."""
    model = model_of(halved(Value("x")), 13)
    assert fused_ops(model, tmp_path)["BiasGelu"] == 1
    assert fused_ops(onnx_expand.fold(model), tmp_path)["BiasGelu"] == 1
    merged = onnx_expand.fold(model, policy="always")
    assert len(merged.graph.node) < len(model.graph.node)
    assert fused_ops(merged, tmp_path)["BiasGelu"] == 0


def test_the_nodes_of_a_pattern_have_a_reason() -> None:
    """The report names the nodes that stay for a pattern, and which pattern it is."""
    _, report = onnx_expand.fold(model_of(halved(Value("x")), 13), report=True)
    kept = [k for k in report.kept if k.refusal.reason is Reason.PATTERN]
    assert len(kept) == 1
    assert "Gelu" in kept[0].refusal.message
    assert len(kept[0].nodes) == 4  # all but Erf, which nobody takes for linear


@pytest.mark.parametrize("number", [0.4, 0.51, -0.5])
def test_another_constant_is_no_pattern(number: float) -> None:
    """What only looks like a GELU is folded like anything else."""
    gate = apply("Erf", Value("x") / float(np.sqrt(2))) + 1
    model = model_of((Value("x") * gate) * number, 13)
    folded = onnx_expand.fold(model)
    assert len(folded.graph.node) == len(model.graph.node) - 1


def test_what_is_read_in_between_is_no_pattern() -> None:
    """No runtime fuses nodes whose inner value is an output; nothing is kept for that."""
    model = model_of(halved(Value("x")), 13)
    inner = next(n for n in model.graph.node if n.op_type == "Mul")
    model.graph.output.append(
        helper.make_tensor_value_info(inner.output[0], onnx.TensorProto.FLOAT, None)
    )
    _, report = onnx_expand.fold(model, report=True)
    assert Reason.PATTERN not in {k.refusal.reason for k in report.kept}


def test_constants_of_half_precision_match() -> None:
    """Constants match within the rounding of their type, and not beyond it."""
    rng = np.random.default_rng(0)
    for pattern in (BY_NAME["Gelu"], BY_NAME["Gelu (tanh)"]):
        model = model_of(spelled(pattern.spelling, rng), 13, np.float16)
        _, report = onnx_expand.fold(model, report=True)
        assert Reason.PATTERN in {k.refusal.reason for k in report.kept}


# -- What the runtime does anyway -------------------------------------------------------------

NETWORKS = {
    "convolution, normalization, activation": (
        "g (float[N,8,12,10] x) => (float[N,8,12,10] y) { "
        "a = Conv <pads = [1, 1, 1, 1]> (x, k) b = BatchNormalization(a, n_s, n_b, n_m, n_v) "
        "c = Relu(b) d = Conv <pads = [1, 1, 1, 1]> (c, l) e = Mul(d, s) f = Add(e, x) "
        "y = Relu(f) }"
    ),
    "squeeze and excitation": (
        "g (float[N,8,12,10] x) => (float[N,8,12,10] y) { "
        "a = Conv <pads = [1, 1, 1, 1]> (x, k) b = BatchNormalization(a, n_s, n_b, n_m, n_v) "
        "c = GlobalAveragePool(b) d = Conv(c, p) e = Relu(d) f = Conv(e, q) "
        "h = HardSigmoid(f) i = Mul(b, h) y = Conv(i, p) }"
    ),
    "HardSwish between convolutions": (
        "g (float[N,8,12,10] x) => (float[N,8,12,10] y) { "
        "a = Conv <pads = [1, 1, 1, 1]> (x, k) b = BatchNormalization(a, n_s, n_b, n_m, n_v) "
        "c = Add(b, three) d = Clip(c, zero, six) e = Mul(b, d) f = Div(e, six) "
        "h = Mul(f, one) i = Add(h, half) y = Conv <pads = [1, 1, 1, 1]> (i, l) }"
    ),
    "products with biases": (
        "g (float[N,6,8] x) => (float[N,6,8] y) { a = MatMul(x, w) b = Add(a, t) c = Relu(b) "
        "d = MatMul(c, w2) e = Add(d, t) y = Add(e, x) }"
    ),
    "quantized convolution": (
        "g (float[N,8,12,10] x) => (float[N,8,12,10] y) { "
        "xq = QuantizeLinear(x, r, z) xd = DequantizeLinear(xq, r, z) "
        "kd = DequantizeLinear(kq, r, zw) a = Conv <pads = [1, 1, 1, 1]> (xd, kd) "
        "b = Relu(a) bq = QuantizeLinear(b, r, z0) bd = DequantizeLinear(bq, r, z0) "
        "c = Mul(bd, s) d = Add(c, sb) dq = QuantizeLinear(d, r, z) "
        "dd = DequantizeLinear(dq, r, z) y = Conv(dd, p) }"
    ),
    "quantized product": (
        "g (float[N,6,8] x) => (float[N,6,8] y) { "
        "xq = QuantizeLinear(x, r, z) xd = DequantizeLinear(xq, r, z) "
        "wd = DequantizeLinear(wq, r, zw) a = MatMul(xd, wd) "
        "aq = QuantizeLinear(a, r, z) ad = DequantizeLinear(aq, r, z) "
        "b = Mul(ad, half) y = MatMul(b, w) }"
    ),
}


# What onnxruntime makes of the source at least, so that there is something to lose.
HAS = {
    "convolution, normalization, activation": "FusedConv",
    "squeeze and excitation": "FusedConv",
    "quantized convolution": "QLinearConv",
    "quantized product": "QLinearMatMul",
}


def network(name: str, opset: int) -> onnx.ModelProto:
    """One of the networks, with the constants that it reads."""
    rng = np.random.default_rng(0)
    numbers = {"three": 3, "zero": 0, "six": 6, "one": 1.5, "half": 0.5, "r": 0.05}
    constants: dict[str, Any] = {n: np.float32(v) for n, v in numbers.items()}
    shapes: dict[str, tuple[int, ...]] = {
        "k": (8, 8, 3, 3),
        "l": (8, 8, 3, 3),
        "p": (8, 8, 1, 1),
        "q": (8, 8, 1, 1),
    }
    shapes |= {"w": (8, 8), "w2": (8, 8), "t": (8,), "s": (8, 1, 1), "sb": (8, 1, 1)}
    constants |= {n: rng.standard_normal(s).astype(np.float32) / 4 for n, s in shapes.items()}
    constants |= bn("n", 8)
    constants |= {"z": np.uint8(128), "z0": np.uint8(0), "zw": np.int8(0)}
    constants |= {"kq": rng.integers(-99, 99, (8, 8, 3, 3)).astype(np.int8)}
    constants |= {"wq": rng.integers(-99, 99, (8, 8)).astype(np.int8)}
    text = NETWORKS[name]
    words = set(re.findall(r"\w+", text))
    used = {n: np.asarray(v) for n, v in constants.items() if n in words}
    return graph(text, used, opset=opset)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_runtime_fuses_anyway_is_not_undone(
    name: str, opset: int, tmp_path: Path
) -> None:
    """Convolutions with activations, products with biases, quantized regions stay fused."""
    model = network(name, opset)
    folded = onnx_expand.fold(model)
    for every in (False, True):
        before = fused_ops(model, tmp_path, every=every)
        after = fused_ops(folded, tmp_path, every=every)
        for reordered in ("ReorderInput", "ReorderOutput"):
            del before[reordered]
        assert not lost(before, after), (before, after)
        assert every or name not in HAS or before[HAS[name]]
    assert judge(Source(model, ({"N": 1}, {"N": 2})), folded) == []


@pytest.mark.parametrize("opset", OPSETS)
def test_a_relu6_of_max_and_min_is_one_clip(opset: int, tmp_path: Path) -> None:
    """In every order; behind a convolution onnxruntime then computes it within that."""
    rng = np.random.default_rng(opset)
    for spelling in dict.fromkeys(spelled(BY_NAME["ReLU6"].spelling, rng) for _ in range(9)):
        model = model_of(spelling, opset)
        folded = onnx_expand.fold(model)
        kinds = Counter(n.op_type for n in folded.graph.node)
        assert kinds["Clip"] == 1
        assert not kinds & Counter({"Max": 1, "Min": 1, "Relu": 1})
        assert judge(Source(model, SIZES), folded) == []
    behind = graph(
        """
        g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
            c = Conv(x, w)
            m = Max(c, zero)
            y = Min(m, six)
        }
        """,
        {
            "w": np.ones((4, 4, 1, 1), np.float32),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
        },
    )
    assert not fused_ops(behind, tmp_path)["FusedConv"]
    assert fused_ops(onnx_expand.fold(behind), tmp_path)["FusedConv"] == 1


def test_other_bounds_are_no_relu6() -> None:
    """A bound for each channel, and bounds that Clip would not take in this order."""
    high = np.array(6, np.float32)
    for low in (np.zeros((4, 1, 1), np.float32), np.array(1, np.float32)):
        model = graph(
            """
            g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
                m = Max(x, low)
                y = Min(m, high)
            }
            """,
            {"low": low, "high": high},
        )
        assert [n.op_type for n in onnx_expand.fold(model).graph.node] == ["Max", "Min"]


@pytest.mark.parametrize("epsilon", [np.nan, -np.inf, np.inf])
def test_a_normalization_by_nothing_finite_stays(epsilon: float) -> None:
    """What cannot be an attribute is no reason to refuse the model."""
    model = graph(
        "g (float[N,4] x) => (float[N,4] y) { m = ReduceMean<axes = [-1]>(x) c = Sub(x, m)"
        " s = Mul(c, c) v = ReduceMean<axes = [-1]>(s) a = Add(v, e) r = Sqrt(a) d = Div(c, r)"
        " p = Mul(d, w) y = Add(p, b) }",
        {**weights(w=(4,), b=(4,)), "e": np.array(epsilon, np.float32)},
    )
    assert "Sqrt" in [node.op_type for node in onnx_expand.fold(model).graph.node]


@pytest.mark.parametrize("name", ["LayerNormalization", "RMSNormalization"])
def test_a_normalization_divides_by_its_deviation(name: str, tmp_path: Path) -> None:
    """X (1 / root) takes a node more than x / root, and onnxruntime fuses both."""
    x, scale = Value("x"), Constant("scale")
    centred = x - apply("ReduceMean", x) if name == "LayerNormalization" else x
    root = apply("Sqrt", apply("ReduceMean", centred**2) + Constant("epsilon"))
    scaled = (centred * (1 / root)) * scale
    spelling = scaled + Constant("shift") if name == "LayerNormalization" else scaled
    model = model_of(spelling, 13)
    folded = onnx_expand.fold(model)
    assert len(folded.graph.node) == len(model.graph.node) - 1
    for each in (model, folded):
        assert FUSED[name] & fused_ops(each, tmp_path).keys()
    assert judge(Source(model, SIZES), folded) == []
