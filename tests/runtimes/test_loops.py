"""Loops that would run for hours are refused before they run, however they are nested."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand import UnsupportedError
from onnx_expand.runtimes.loops import may_be_endless

pytest.importorskip("onnxruntime")

HEAD = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) '


def loop(count: int, step: str, depth: int = 0) -> str:
    """The nodes of `count` repetitions of `step`, which maps `vN` to `wN` at a depth N."""
    n = depth
    return (
        f"m{n} = Constant<value = int64 {{{count}}}>() t{n} = Constant<value = bool {{1}}>() "
        f"r{n} = Loop(m{n}, t{n}, x) <body = b{n} (int64 i{n}, bool c{n}, float[2] v{n}) => "
        f"(bool k{n}, float[2] w{n}) {{ k{n} = Identity(c{n}) {step} }}>"
    )


def nested(count: int, depth: int) -> str:
    """Loops within each other."""
    text = f"w{depth} = Neg(v{depth})"
    for n in range(depth, 0, -1):
        text = f"{loop(count, text, n)} w{n - 1} = Add(v{n - 1}, r{n})"
    return loop(count, text)


@pytest.mark.parametrize(
    ("count", "depth", "refused"), [(100, 1, False), (300, 1, True), (2**62, 19, True)]
)
def test_nested_loops_are_multiplied(count: int, depth: int, refused: bool) -> None:
    """The product decides, even if it exceeds every float."""
    built = onnx.parser.parse_model(HEAD + f"{{ {nested(count, depth)} y = Neg(r0) }}")
    if refused:
        with pytest.raises(UnsupportedError, match=r"its loops (take \S+ iter|never end)"):
            onnx_expand.check(built, built)
    else:
        assert onnx_expand.check(built, built, samples=1)


def test_loops_that_do_not_start_count_nothing() -> None:
    """A constant condition that is false, and what is nested in it."""
    never = nested(300, 1).replace(
        "t0 = Constant<value = bool {1}", "t0 = Constant<value = bool {0}"
    )
    built = onnx.parser.parse_model(HEAD + f"{{ {never} y = Neg(r0) }}")
    large = loop(99_999, "w0 = Neg(v0)")
    for text, expected in ((large, True), (large.replace("bool {1}", "bool {0}"), False)):
        proto = onnx.parser.parse_model(HEAD + f"{{ {text} y = Neg(r0) }}")
        assert may_be_endless(ir.serde.deserialize_model(proto)) is expected
    assert onnx_expand.check(built, built, samples=1)


@pytest.mark.parametrize(("count", "refused"), [(20, False), (300, True)])
def test_loops_of_functions_count_in_the_loops_that_call_them(count: int, refused: bool) -> None:
    """A loop that calls a function with a loop is as long as both within each other."""
    step = loop(count, "w0 = own.repeat(v0)")
    function = (
        '<domain: "own", opset_import: ["" : 17]> repeat (x) => (y) '
        f"{{ {loop(count, 'w0 = Neg(v0)')} y = Identity(r0) }}"
    )
    built = onnx.parser.parse_model(HEAD + f"{{ {step} y = Neg(r0) }} {function}")
    if refused:
        with pytest.raises(UnsupportedError, match="its loops take 9e"):
            onnx_expand.check(built, built)
    else:
        assert onnx_expand.check(built, built, samples=1)


UNBOUNDED = """{{
    t = Constant<value = bool {{1}}>() most = Constant<value = float {{{limit}}}>()
    one = Constant<value = float {{1}}>()
    y = Loop(, t, x) <body = b (int64 i, bool c, float[2] v) => (bool k, float[2] w)
        {{ w = {step} m = ReduceMax<keepdims = 0>(w) k = {going} }}>
}}"""


def unbounded(step: str, going: str, limit: float = 50) -> onnx.ModelProto:
    """A loop without a trip count."""
    return onnx.parser.parse_model(HEAD + UNBOUNDED.format(limit=limit, step=step, going=going))


def test_loops_without_a_bound_are_refused_if_their_condition_is_always_true() -> None:
    """No input ends them."""
    built = unbounded("Add(v, one)", "Identity(c)")
    with pytest.raises(UnsupportedError, match="its loops never end, for any input"):
        onnx_expand.check(built, built)


def test_loops_that_do_not_end_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition that stays true is seen only in time: A is refused, and B differs."""
    monkeypatch.setattr("onnx_expand.runtimes.ort._PATIENCE", 0.3)
    endless = unbounded("Identity(v)", "Less(m, most)", 1e30)
    ends = unbounded("Add(v, one)", "Less(m, most)")
    assert onnx_expand.check(ends, ends)
    with pytest.raises(UnsupportedError, match=r"a loop did not end within 0\.3 s"):
        onnx_expand.check(endless, endless)
    verdict = onnx_expand.check(ends, endless, samples=1)
    assert not verdict
    assert "a loop did not end within 0.3 s" in verdict.differences[0]
    _, report = onnx_expand.fold(endless, verify=True, report=True)
    assert "a loop did not end" in str(report.verification)


def test_a_slow_loop_is_not_run_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference would need minutes; a file is timed like a model in memory."""
    path = tmp_path / "slow.onnx"
    onnx.save(unbounded("Add(v, one)", "Less(m, most)"), path)
    assert onnx_expand.check(path, path, samples=1).basis == "float64 reference"
    monkeypatch.setattr("onnx_expand.equivalence.trial._LONG", 0.0)
    verdict = onnx_expand.check(path, path, samples=1)
    assert verdict
    assert "the float64 reference would take long for its loops" in verdict.basis
