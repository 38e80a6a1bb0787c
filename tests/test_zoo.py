"""Folding of other people's networks: all that is free is merged, and nothing gets dearer."""

from __future__ import annotations

import onnx
import pytest

import onnx_expand
from tests.graphs_text import fold
from tests.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_all_that_is_free_is_merged_and_nothing_gets_dearer(name: str) -> None:
    """No normalization is left that could go, no bottleneck is merged, no product is added."""
    member = ZOO[name]
    model = member.build()
    folded, _ = fold(model)
    before, after = onnx_expand.inspect(model), onnx_expand.inspect(folded)
    assert {op: after.ops.get(op, 0) for op in member.left} == member.left
    assert after.macs is not None
    assert before.macs is not None
    assert after.macs < before.macs if member.cheaper else after.macs == before.macs
    assert after.parameters <= before.parameters
    assert onnx_expand.fold(folded).SerializeToString() == folded.SerializeToString()


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_computes_the_same_when_folded(name: str) -> None:
    """Folded networks agree in onnxruntime to the rounding that `check` measures."""
    pytest.importorskip("onnxruntime")
    model = ZOO[name].build()
    onnx.checker.check_model(model, full_check=True)
    for policy in ("cheapest", "always"):
        verdict = onnx_expand.check(
            model, onnx_expand.fold(model, policy=policy), samples=1, providers=["cpu"]
        )
        assert verdict, verdict.summary()
