"""onnx_ir: our passes in its pass managers."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import CheckerPass, CommonSubexpressionEliminationPass, NameFixPass

import onnx_expand
from onnx_expand.passes import Expand, Fold, Policy

pytest.importorskip("onnxruntime")


def test_sequential(expanded: onnx.ModelProto) -> None:
    """Fold between passes of onnx_ir: modified at first, not again."""
    model = ir.serde.deserialize_model(expanded)
    passes = ir.passes.Sequential(
        CommonSubexpressionEliminationPass(), Fold(Policy.CHEAPEST), NameFixPass(), CheckerPass()
    )
    result = passes(model)
    assert result.modified
    assert onnx_expand.check(expanded, result.model)
    assert not ir.passes.Sequential(Fold(Policy.CHEAPEST))(result.model).modified


def test_pass_manager_stops_when_nothing_changes(expanded: onnx.ModelProto) -> None:
    """A manager that repeats its passes ends after the round in which fold changes nothing."""
    rounds = []

    class Counted(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            rounds.append(len(list(model.graph)))
            return ir.passes.PassResult(model, False)

    model = ir.serde.deserialize_model(expanded)
    manager = ir.passes.PassManager([Counted(), Fold(Policy.CHEAPEST)], steps=9, early_stop=True)
    result = manager(model)
    assert result.modified
    assert len(rounds) == 2
    assert rounds[1] < rounds[0]
    assert onnx_expand.check(expanded, result.model)


def test_functionalize(expanded: onnx.ModelProto) -> None:
    """As a functional pass, fold leaves the model that it is given alone."""
    model = ir.serde.deserialize_model(expanded)
    before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    result = ir.passes.functionalize(Fold(Policy.CHEAPEST))(model)
    assert result.model is not model
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == before
    assert onnx_expand.check(model, result.model)


def test_expand_and_fold_are_no_change() -> None:
    """Expand, then fold, in one sequence, is the model again."""
    from models import smallnet

    compact = smallnet.build(kernel=5, stages=3, classes=10)
    model = ir.serde.deserialize_model(compact)
    ir.passes.Sequential(Expand("ck+fc", init="preserve"), Fold())(model)
    assert [n.op_type for n in model.graph] == [n.op_type for n in compact.graph.node]
    assert onnx_expand.check(compact, model)
