"""Folding of other people's networks: all that is free is merged, and nothing gets dearer."""

from __future__ import annotations

import onnx
import pytest

import onnx_expand
from models import networks
from tests.support.graphs import retrained
from tests.support.graphs_text import fold
from tests.support.smallest import SMALLEST
from tests.support.zoo import ZOO


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


@pytest.mark.parametrize("name", sorted(networks()))
def test_the_networks_lose_their_normalizations_and_nothing_else(name: str) -> None:
    """Each network keeps every other node when folded, and its products, and what it computes."""
    pytest.importorskip("onnxruntime")
    options = {"classes": 5, **SMALLEST[name]}
    if name == "yololite":
        options["norm"] = True
    # So large that the pooling over the last image is not that of a single pixel.
    options["size"] = max(64, options["size"])
    model = retrained(networks()[name].build(**options))
    folded, _ = fold(model)
    before, after = onnx_expand.inspect(model), onnx_expand.inspect(folded)
    gone = {"BatchNormalization", "Dropout"}
    left = {op: count for op, count in before.ops.items() if op not in gone}
    if name == "shufflenetv2":  # the last shuffle is a permutation of the next layer's inputs
        left |= {"Reshape": left["Reshape"] - 2, "Transpose": left["Transpose"] - 1}
    assert after.ops == left
    assert after.macs == before.macs
    assert onnx_expand.check(model, folded, samples=1, providers=["cpu"])
