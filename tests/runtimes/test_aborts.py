"""Attributes on which onnxruntime ends the process are refused in one line, wherever they are."""

from __future__ import annotations

import onnx
import pytest

import onnx_expand
from onnx_expand import UnsupportedError

pytest.importorskip("onnxruntime")

FATAL = {
    "RandomUniform<low=1.0, high=0.5, shape=[2, 2]>()": "RandomUniform has low 1 above high 0.5",
    "RandomUniform<low=1.5, shape=[2, 2]>()": "RandomUniform has low 1.5 above high 1",
    "RandomUniformLike<high=-1.0>(x)": "RandomUniformLike has low 0 above high -1",
    "RandomNormal<scale=0.0, shape=[2, 2]>()": "RandomNormal has scale 0, not above 0",
    "RandomNormalLike<scale=-1.0>(x)": "RandomNormalLike has scale -1, not above 0",
    "Split<num_outputs = 1>(t)": "Split has num_outputs 1 for 2 outputs",
    "GatherND<batch_dims=-9223372036854775808>(t, i)": "GatherND has batch_dims -9223372036854",
    "GatherND<batch_dims=-9223372036854775808>(x, i)": "GatherND has batch_dims -9223372036854",
}
HEAD = '<ir_version: 8, opset_import: ["" : 18, "own" : 1]> '
PORTS = "g (float[2,2] x, bool c) => (float[2,2] y) "
TABLES = "<float[2,2] t = {1, 2, 3, 4}, int64[2,2,1] i = {0, 1, 1, 0}> "

PLACES = {
    "graph": "{{ {r} = {call} s = Shape(x) z = Expand(r, s) y = Sub(x, z) }}",
    "branch": "{{ r = If(c) <then_branch = b () => (float[] a) {{ {a} = {call} }}, "
    "else_branch = e () => (float[] a) {{ a = Identity(x) }}> y = Sub(x, r) }}",
}


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEAD + text)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", FATAL)
def test_fatal_attributes_are_refused(call: str, place: str) -> None:
    """Check names the node and the attribute, and fold writes its result unchecked."""
    more = ", other" if "Split" in call else ""
    text = PLACES[place].format(call=call, r=f"r{more}", a=f"a{more}")
    built = model(PORTS + TABLES + text)
    with pytest.raises(UnsupportedError, match=FATAL[call]):
        onnx_expand.check(built, built)
    _, report = onnx_expand.fold(built, report=True)
    assert report.verification.verdict is None


@pytest.mark.parametrize("source", ["t", "x"])
def test_omitted_parts_are_refused(source: str) -> None:
    """A Split of a constant is not evaluated, and one of an activation is not run."""
    built = model(PORTS + TABLES + f"{{ o, r = Split<num_outputs = 2>({source}) y = Sub(x, r) }}")
    built.graph.node[0].output[0] = ""
    with pytest.raises(UnsupportedError, match="Split has an omitted output"):
        onnx_expand.check(built, built)
    assert onnx_expand.fold(built).graph.node


@pytest.mark.parametrize(
    ("call", "refused"),
    [("draw<top = 0.5>(x)", True), ("draw<top = 2.0>(x)", False), ("draw(x)", True)],
)
def test_attributes_of_calls_are_seen_in_functions(call: str, refused: bool) -> None:
    """The value that a call passes on decides, or the function's default."""
    built = model(
        f"g (float[2,2] x) => (float[2,2] y) {{ z = own.{call} y = Sub(x, z) }} "
        '<domain: "own", opset_import: ["" : 18, "own" : 1]> '
        "draw <top: float = 0.25> (x) => (y) { y = own.inner <high: float = @top> (x) } "
        '<domain: "own", opset_import: ["" : 17]> '
        "inner <high> (x) => (y) "
        "{ r = RandomUniformLike <low = 1.0, high: float = @high, seed = 1.0> (x) "
        "y = Sub(r, r) }"
    )
    if refused:
        with pytest.raises(UnsupportedError, match="low 1 above high"):
            onnx_expand.check(built, built)
    else:
        assert onnx_expand.check(built, built)


def test_the_limits_themselves_run() -> None:
    """A uniform of one value and gathering without batches are valid."""
    built = model(
        PORTS + TABLES + "{ r = RandomUniformLike<low = 1.0, high = 1.0>(x) "
        "q = GatherND<batch_dims = 0>(x, i) z = Sub(x, r) y = Add(z, q) }"
    )
    assert onnx_expand.check(built, built)
    onnx_expand.fold(built, verify=True)
