"""Any loop trains what `to_torch` gives."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from examples import loops
from onnx_expand.experiment import evaluate
from onnx_expand.train import to_torch


@pytest.mark.filterwarnings("ignore")  # other people's trainers warn of their own affairs
@pytest.mark.parametrize("name", loops.LOOPS)
def test_own_loops_train(name: str) -> None:
    """By hand, and with trainers where they are installed; the folded model has learnt."""
    if name != "plain":
        pytest.importorskip(name)
    model, data = loops.run(name, epochs=2)
    assert [node.op_type for node in model.graph.node][:3] == [
        "Conv",
        "BatchNormalization",
        "Relu",
    ]
    assert evaluate(to_torch(model), data) > 0.5
