"""Thresholds of only one model are passed by some input, or the verdict notes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnx_expand
from onnx_expand.equivalence.inputs.thresholds import thresholds
from onnx_expand.model import read
from tests.support.pairs.base import ROWS, Pair, normal, pair, scalar

pytest.importorskip("onnxruntime")

_NUMBERS = {
    "w": normal(8, 8, scale=0.01),
    "l": scalar(0),
    "m": scalar(1e5),
    "half": scalar(0.5),
    "most": scalar(float(np.finfo(np.float32).max)),
}


def _behind(a: str, b: str) -> Pair:
    return pair("", ROWS, f"c = MatMul(x, w) {a}", f"c = MatMul(x, w) {b}", _NUMBERS)


def _notes(made: Pair, **options: Any) -> list[str]:
    verdict = onnx_expand.check(made.a, made.b, **options)
    assert verdict, verdict.differences
    return [note for note in verdict.notes if "no input takes" in note]


@pytest.mark.parametrize(
    ("a", "b", "tensor", "value"),
    [
        ("y = Sigmoid(c)", "s = Sigmoid(c) y = Clip(s, l, m)", "s", "100000"),
        ("s = Sigmoid(c) y = Relu(s)", "y = Sigmoid(c)", "s", "0"),
        ("e = Tanh(c) y = Neg(e)", "t = Tanh(c) u = Min(t, m) y = Neg(u)", "t", "100000"),
        ("e = Tanh(c) y = Neg(e)", "t = Tanh(c) y = Neg(t) u = Greater(t, m)", "t", "100000"),
    ],
)
def test_a_threshold_that_no_input_passes_is_noted(
    a: str, b: str, tensor: str, value: str
) -> None:
    """Behavior beyond a bound of a bounded function is untested, and the verdict notes it."""
    notes = _notes(_behind(a, b))
    assert any(f"'{tensor}'" in note and f"past {value}," in note for note in notes)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("y = Relu(c)", "y = Clip(c, l, most)"),  # bounds nothing
        ("y = Clip(c, l, half)", "r = Relu(c) y = Min(r, half)"),
        ("y = Relu(c)", "y = Max(l, c)"),
        ("y = Identity(c)", "y = MatMul(x, w)"),
        ("y = Identity(c)", "p = Relu(c) n = Neg(c) q = Relu(n) y = Sub(p, q)"),
    ],
)
def test_thresholds_of_both_models_are_not_noted(a: str, b: str) -> None:
    """Equal thresholds in other forms, or ones that inputs pass, need no note."""
    assert _notes(_behind(a, b)) == []


def test_inputs_are_only_scaled_if_they_may_be() -> None:
    """With given inputs or ranges, a threshold beyond them is noted, not passed."""
    made = _behind("y = Relu(c)", "y = Clip(c, l, m)")
    assert not onnx_expand.check(made.a, made.b)
    wanted = "'c' in B past 100000"
    assert any(wanted in note for note in _notes(made, ranges={"": (0.0, 1.0)}))
    assert any(wanted in note for note in _notes(made, inputs=[{"x": normal(2, 8)}]))


def test_thresholds_of_attributes_count() -> None:
    """Older operators have their bounds as attributes."""
    texts = "y = Clip<min=0.0, max=6.0>(x)", "r = Relu(x) y = Clip<max=7.0>(r)"
    made = pair("", ROWS, *texts, opset=10)
    found = thresholds(read(made.a), read(made.b))
    assert [(t.letter, t.value) for t in found] == [("A", 6.0), ("B", 7.0)]


def test_a_cast_to_a_narrower_type_is_noted() -> None:
    """A runtime may omit casts that are cast back; the verdict notes what they may hide."""
    made = _behind("y = Identity(c)", "h = Cast<to=10>(c) y = Cast<to=1>(h)")
    for first, second, count in ((made.a, made.b, 1), (made.b, made.a, 0), (made.b, made.b, 0)):
        verdict = onnx_expand.check(first, second)
        assert sum("casts to float16" in note for note in verdict.notes) == count
