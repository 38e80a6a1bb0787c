"""onnxscript: fold before and after its optimizer, and between its rewrite rules."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.passes import Fold, Policy

pytest.importorskip("onnxruntime")
optimizer = pytest.importorskip("onnxscript.optimizer")
rewriter = pytest.importorskip("onnxscript.rewriter")


@pytest.mark.parametrize("first", ["fold", "optimize"])
def test_before_and_after_optimize(expanded: onnx.ModelProto, first: str) -> None:
    """Either order computes the same and ends with as few nodes."""
    model = ir.serde.deserialize_model(expanded)
    steps: list[Callable[[ir.Model], object]] = [Fold(Policy.CHEAPEST), optimizer.optimize_ir]
    for step in steps if first == "fold" else steps[::-1]:
        step(model)
    assert onnx_expand.check(expanded, model)
    assert len(list(model.graph)) == len(onnx_expand.fold(expanded, policy="cheapest").graph.node)


def test_as_a_step_among_rewrite_rules(expanded: onnx.ModelProto) -> None:
    """A rule of onnxscript finds the node that fold made."""

    def target(op, x, w, b):  # type: ignore[no-untyped-def]
        return op.Relu(op.Conv(x, w, b))

    def replacement(op, x, w, b):  # type: ignore[no-untyped-def]
        return op.ConvRelu(x, w, b, _domain="custom")

    rule = rewriter.RewriteRule(target, replacement)
    model = ir.serde.deserialize_model(expanded)
    assert rewriter.RewriteRuleSet([rule]).apply_to_model(model) == 0
    Fold(Policy.CHEAPEST)(model)
    assert rewriter.RewriteRuleSet([rule]).apply_to_model(model) == 3
