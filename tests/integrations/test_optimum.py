"""Optimum: what it exports folds in its folder and still computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
exporters = pytest.importorskip("optimum.exporters.onnx")

import onnx_expand  # noqa: E402
from onnx_expand.passes import FoldReport  # noqa: E402


def small(name: str) -> tuple[Any, str]:
    """A small network with random weights, and its task."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64,
    }  # fmt: skip
    if name == "bert":
        config = transformers.BertConfig(vocab_size=100, **sizes)
        return transformers.BertModel(config), "feature-extraction"
    if name == "vit":
        config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
        return transformers.ViTForImageClassification(config), "image-classification"
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1]
    )
    return transformers.ResNetForImageClassification(config), "image-classification"


@pytest.mark.parametrize(("name", "most"), [("bert", 100), ("vit", 75), ("resnet", 40)])
def test_an_export_folds_in_its_folder(name: str, most: int, tmp_path: Path) -> None:
    """Fewer nodes, of the same numbers, under the name that Optimum looks for."""
    network, task = small(name)
    exporters.onnx_export_from_model(network.eval(), tmp_path, task=task, do_validation=False)
    path = tmp_path / "model.onnx"
    before = onnx_expand.inspect(path)
    report: FoldReport
    _, report = onnx_expand.fold(path, path, verify=1, report=True)
    assert report.verification.equal
    assert onnx_expand.inspect(path).nodes <= most < before.nodes
