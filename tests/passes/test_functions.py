"""Local functions are folded in place, or inlined first on request."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.errors import ModelError, Reason
from onnx_expand.passes import Fold, FoldReport, Policy
from tests.support.graphs_text import ops, weights

_TEXT = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N,4,5,5] x) => (float[N,6,5,5] y) {
    a = own.block(x, v, w)
    b = own.scale(a)
    c = own.scale(b)
    y = own.leak <alpha = 0.5> (c)
}
<domain: "own", opset_import: ["" : 17]>
block (x, v, w) => (y) { a = Conv(x, v)  y = Conv(a, w) }
<domain: "own", opset_import: ["" : 17]>
scale (x) => (y) {
    two = Constant <value: tensor = float {2}> ()
    three = Constant <value: tensor = float {3}> ()
    a = Mul(x, two)
    y = Mul(a, three)
}
<domain: "own", opset_import: ["" : 17]>
leak <alpha> (x) => (y) { y = LeakyRelu <alpha: float = @alpha> (x) }
"""


def model() -> onnx.ModelProto:
    """Build a model of four calls."""
    proto = onnx.parser.parse_model(_TEXT)
    for name, array in weights(v=(8, 4, 1, 1), w=(6, 8, 1, 1)).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def fold(proto: onnx.ModelProto, *, inline: bool) -> tuple[onnx.ModelProto, FoldReport]:
    """Return a folded copy and the report."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    own = ir.serde.deserialize_model(copy)
    report = Fold(Policy.CHEAPEST, inline=inline).call(own).report
    return ir.serde.serialize_model(own), report


def test_a_function_is_folded_in_place() -> None:
    """Two scales in a body become one; a function with several calls stays."""
    pytest.importorskip("onnxruntime")
    before = model()
    after, report = fold(before, inline=False)
    assert ops(after) == ["Conv", "scale", "scale", "leak"]
    bodies = {f.name: [n.op_type for n in f.node] for f in after.functions}
    assert bodies["scale"] == ["Constant", "Mul"]
    assert "block" not in bodies
    assert report.sites
    onnx.checker.check_model(after)
    assert onnx_expand.check(before, after)


def test_inlined_functions_merge_with_their_neighbours() -> None:
    """All linear nodes of the four calls become one convolution."""
    pytest.importorskip("onnxruntime")
    before = model()
    after, _ = fold(before, inline=True)
    assert ops(after) == ["Conv", "LeakyRelu"]
    assert not after.functions
    assert onnx_expand.check(before, after)


def test_folding_functions_twice_is_folding_once() -> None:
    """A folded body does not change again."""
    after, _ = fold(model(), inline=False)
    again, report = fold(after, inline=False)
    assert not report.sites
    assert again.SerializeToString() == after.SerializeToString()


def test_recursive_functions_are_refused() -> None:
    """Inlining them would not end."""
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[4] x) => (float[4] y) { y = own.a(x) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]>
    a (x) => (y) { y = own.b(x) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]>
    b (x) => (y) { y = own.a(x) }
    """
    own = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    with pytest.raises(ModelError, match="inlined"):
        Fold(Policy.CHEAPEST, inline=True).call(own)


def test_an_attribute_of_the_caller_is_not_known() -> None:
    """Whether a LeakyRelu is the identity depends on the slope that a caller passes."""
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N,4] x) => (float[N,4] y) { y = own.f <alpha = 0.5> (x) }
    <domain: "own", opset_import: ["" : 17]>
    f <alpha> (x) => (y) {
        two = Constant <value: tensor = float {2}> ()
        a = Mul(x, two)
        b = LeakyRelu <alpha: float = @alpha> (a)
        y = Mul(b, two)
    }
    """
    after, report = fold(onnx.parser.parse_model(text), inline=False)
    assert [n.op_type for n in after.functions[0].node] == ["Constant", "Mul", "LeakyRelu", "Mul"]
    assert not report.sites


def test_shapes_within_functions_are_written_once() -> None:
    """Before IR version 10 the graph has the value_info of functions: folding again adds none."""
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N,1] x) => (float[N,1] y) { y = own.b(x, x) }
    <domain: "own", opset_import: ["" : 17]>
    b (p, r) => (q) {
      s = Sub(r, p)
      k = Constant <value = float[1,1] {2.0}> () t = MatMul(s, k)
      l = Constant <value = float[1,1] {3.0}> () q = MatMul(t, l)
    }"""
    once = onnx_expand.fold(onnx.parser.parse_model(text))
    again = onnx_expand.fold(once)
    names = [info.name for info in once.graph.value_info]
    assert len(names) == len(set(names)) > 0
    assert again.SerializeToString() == once.SerializeToString()


# -- Functions that are called once -------------------------------------------------------------

_ONCE = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N,4,5,5] x) => (float[N,6,P,Q] y) { %s }
<domain: "own", opset_import: ["" : 17]>
block (x, v, s) => (y) { a = Conv(x, v)  b = Mul(a, s) y = Relu(b) }
<domain: "own", opset_import: ["" : 17, "own" : 1]>
outer (x, v, s) => (y) { a = own.block(x, v, s)  y = Neg(a) }
<domain: "own", opset_import: ["" : 17]>
plain (x, v) => (y) { a = Conv(x, v)  y = Relu(a) }
<domain: "own", opset_import: ["" : 17]>
double (x) => (y) { c = Constant <value: tensor = float {2}> ()  y = Mul(x, c) }
"""

ONCE = {
    "weights that it alone is given": ("y = own.block(x, v, s)", ["Conv", "Relu"]),
    "within another function": ("y = own.outer(x, v, s)", ["Conv", "Relu", "Neg"]),
    "a scale of its own, behind a layer": ("a = Conv(x, v) y = own.double(a)", ["Conv"]),
    "before a layer": ("a = own.double(x) y = Conv(a, v)", ["Conv"]),
    "several calls, which stay": (
        "a = own.block(x, u, r) b = own.block(a, v, s) y = Relu(b)",
        ["block", "block", "Relu"],
    ),
    "nothing that could merge": ("z = Relu(x) y = own.plain(z, v)", ["Relu", "plain"]),
    "a weight that callers may replace": ("y = own.block(x, w, s)", ["block"]),
}


@pytest.mark.parametrize("name", ONCE)
def test_a_call_whose_weights_are_its_own_folds(name: str) -> None:
    """A function is inlined if it is called once and something merges; other calls stay."""
    pytest.importorskip("onnxruntime")
    text, expected = ONCE[name]
    before = onnx.parser.parse_model(_ONCE % text)
    arrays = weights(v=(6, 4, 1, 1), u=(4, 4, 1, 1), s=(6, 1, 1), r=(4, 1, 1), w=(6, 4, 1, 1))
    used = {name for node in before.graph.node for name in node.input}
    for key in sorted(used & set(arrays)):
        before.graph.initializer.append(onnx.numpy_helper.from_array(arrays[key], key))
    if "w" in used:
        kind = onnx.helper.make_tensor_value_info("w", 1, arrays["w"].shape)
        before.graph.input.append(kind)
    after, report = fold(before, inline=False)
    assert ops(after) == expected
    if "several" in name:
        assert all("inline" in k.refusal.hint for k in report.kept if "block" in k.nodes)
        assert Reason.DYNAMIC in {k.refusal.reason for k in report.kept}
    onnx.checker.check_model(after)
    assert onnx_expand.check(before, after)
