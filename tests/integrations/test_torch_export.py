"""torch.onnx: what its exporter returns goes through fold, expand and check as it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_expand

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def program() -> Any:
    """A convolution with batch normalization, and a linear layer behind another."""

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.norm = torch.nn.BatchNorm2d(8)
            self.head = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))

    net = Net().eval()
    x = torch.randn(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own calls
        exported = torch.onnx.export(net, (x,), dynamo=True, optimize=False, verbose=False)
    return exported, net, x


def test_a_program_folds(program: Any, tmp_path: Path) -> None:
    """The result is a program that runs, saves and computes what the network does."""
    exported, net, x = program
    folded, report = onnx_expand.fold(exported, policy="cheapest", verify=True, report=True)
    assert type(folded) is type(exported)
    assert report.verification.equal
    assert [n.op_type for n in folded.model.graph if n.op_type in {"Gemm", "MatMul"}] == ["Gemm"]
    assert "BatchNormalization" in {n.op_type for n in exported.model.graph}
    (result,) = folded(x)
    np.testing.assert_allclose(result.detach().numpy(), net(x).detach().numpy(), atol=1e-5)
    folded.save(tmp_path / "folded.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "folded.onnx"))
    assert onnx_expand.check(exported, tmp_path / "folded.onnx")


def test_inspect_and_run_take_a_program(program: Any) -> None:
    """Every function that takes a model takes a program."""
    exported, _, _ = program
    assert onnx_expand.inspect(exported).parameters > 0
    result = onnx_expand.run(exported, "fold:policy=cheapest,check")
    assert type(result) is type(exported)
