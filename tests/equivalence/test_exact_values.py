"""Differences at one value, one size, one order of outputs, or in overridden weights only."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_expand
from tests.support.pairs.base import ROWS, normal, pair, scalar

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("value", [-7.0, 0.375, 17.25, 1234.5])
@pytest.mark.parametrize(
    "jump",
    [
        "e = Equal(x, k) y = Where(e, other, x)",
        "g = Greater(x, k) e = GreaterOrEqual(x, k) n = Xor(g, e) y = Where(n, other, x)",
    ],
)
def test_values_that_a_model_compares_with_are_drawn_exactly(value: float, jump: str) -> None:
    """Also beside many small constants that are compared with nothing."""
    numbers = {"k": scalar(value), "other": scalar(value + 3), "b": normal(8)}
    made = pair("", ROWS, "z = Add(x, b) y = Identity(x)", f"z = Add(x, b) {jump}", numbers)
    assert not onnx_expand.check(made.a, made.b)


@pytest.mark.parametrize("bound", [-1e6, -3e4, 50.0, 3e4, 1e6])
def test_far_bounds_are_passed_on_both_sides(bound: float) -> None:
    """The inputs are scaled for each bound by itself, with both signs."""
    low, high = (bound, -2 * bound) if bound < 0 else (-2 * bound, bound)
    numbers = {"l": scalar(low), "h": scalar(high)}
    made = pair("", ROWS, "y = Identity(x)", "y = Clip(x, l, h)", numbers)
    verdict = onnx_expand.check(made.a, made.b)
    assert not verdict
    assert not any("no input takes" in note for note in verdict.notes)


@pytest.mark.parametrize("extent", [4, 7, 16, 512])
@pytest.mark.parametrize("op", ["Equal", "Greater"])
def test_extents_that_a_model_compares_with_are_tried(extent: int, op: str) -> None:
    """A model that computes something else at one batch, or beyond it, differs."""
    text = f"s = Shape(x) n = Gather(s, zero) e = {op}(n, k) f = Where(e, two, one) y = Mul(x, f)"
    numbers = {
        "zero": np.int64(0), "k": np.int64(extent), "one": scalar(1), "two": scalar(2),
    }  # fmt: skip
    made = pair("", ROWS, "y = Identity(x)", text, numbers)
    assert not onnx_expand.check(made.a, made.b)


def test_the_order_of_outputs_counts() -> None:
    """Callers may read outputs by position."""
    text = "y = Relu(x) z = Neg(x)"
    made = pair("", ROWS, text, text, {})
    for model, names in ((made.a, "yz"), (made.b, "zy")):
        del model.graph.output[:]
        for name in names:
            model.graph.output.add(name=name).type.tensor_type.elem_type = 1
    assert onnx_expand.check(made.a, made.a)
    verdict = onnx_expand.check(made.a, made.b)
    assert verdict.differences == ("the order of the outputs is y, z in A, z, y in B",)


def _overridable(body: str) -> onnx.ModelProto:
    model: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        f"g (float[N,4] x, float[4] k) => (float[N,4] y) {{ {body} }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.full(4, 2, np.float32), "k"))
    return model


def test_overridable_weights_are_overridden() -> None:
    """A model that only computes the same with the stored weight differs, and is not excused."""
    own, baked = _overridable("y = Mul(x, k)"), _overridable("y = Add(x, x)")
    assert onnx_expand.check(own, own)
    verdict = onnx_expand.check(own, baked)
    assert not verdict
    assert "overridden weights" in verdict.differences[0]
