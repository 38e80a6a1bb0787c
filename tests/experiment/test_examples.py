"""Any training loop can train the modules of `to_torch`."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from examples import loops
from onnx_expand.experiment import evaluate
from onnx_expand.train import to_torch


@pytest.mark.filterwarnings("ignore")  # other trainers have warnings of their own
@pytest.mark.parametrize("name", loops.LOOPS)
def test_own_loops_train(name: str) -> None:
    """A hand-written loop and installed trainers train; the folded model has learned."""
    if name != "plain":
        pytest.importorskip(name)
    model, data = loops.run(name, epochs=2)
    assert [node.op_type for node in model.graph.node][:3] == [
        "Conv",
        "BatchNormalization",
        "Relu",
    ]
    assert evaluate(to_torch(model), data) > 0.5
