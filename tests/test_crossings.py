"""Each op in many forms, between layers, computes the same after folding."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")

from onnx_expand.lift.base import LIFTERS
from onnx_expand.linear.terms.noops import NOOPS
from onnx_expand.linear.terms.scaling import SCALING
from tests.support.crossing import OPS, crossed, crossing
from tests.support.fuzz import failures

_BLOCKS = 4


def test_every_op_that_fold_handles_is_at_the_crossings() -> None:
    """A new op needs a row in the table of nodes."""
    assert {*LIFTERS, *SCALING, *NOOPS} <= {*OPS}


@pytest.mark.parametrize("block", range(_BLOCKS))
def test_each_op_computes_the_same_after_folding(block: int) -> None:
    """A sample of `make fuzz`, by both policies that users choose, and twice."""
    runs = 0
    for seed in range(block, len(OPS), _BLOCKS):
        source = crossed(seed)
        runs += not source.error
        for way in ("auto", "always"):
            assert failures(source.model, way, source) == [], (seed, way)
    assert runs > len(OPS) // _BLOCKS * 0.8


def test_crossings_hold_everything() -> None:
    """All types, scopes and stores of constants occur, and the same model each time."""
    models = [crossing(seed)[0] for seed in range(2 * len(OPS))]
    nodes = [n for m in models for n in (*m.graph.node, *(n for f in m.functions for n in f.node))]
    assert {"If", "Loop", "block", "DequantizeLinear", "Constant"} <= {n.op_type for n in nodes}
    types = {m.graph.input[0].type.tensor_type.elem_type for m in models}
    assert {1, 10, 11, 16} <= types
    assert types & {6, 7}
    held = [{t.name for t in m.graph.initializer} for m in models]
    pairs = list(zip(models, held, strict=True))
    assert any(own & {v.name for v in m.graph.output} for m, own in pairs)
    assert any(own & {v.name for v in m.graph.input} for m, own in pairs)
    assert len({m.opset_import[0].version for m in models}) > 10
    assert crossing(5)[0] == models[5]
