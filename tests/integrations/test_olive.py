"""Olive: fold in a workflow that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnx_expand

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
pytest.importorskip("onnxruntime")
pytest.importorskip("requests")  # which olive imports and does not ask for
pytest.importorskip("olive.workflows")


def workflow(path: Path, **options: Any) -> dict[str, Any]:
    """A workflow of one pass."""
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(path)},
        "passes": {"fold": {"type": "OnnxExpandFold", "policy": "cheapest", **options}},
        "output_dir": str(path.with_name("out")),
        "cache_dir": str(path.with_name("cache")),
    }


def test_a_workflow_folds(path: Path) -> None:
    """The workflow's output is the folded model."""
    from onnx_expand.integrations.olive import run

    run(workflow(path))
    (found,) = path.with_name("out").rglob("*.onnx")
    assert len(onnx.load(found).graph.node) < len(onnx.load(path).graph.node)
    assert onnx_expand.check(path, found)


def test_a_workflow_with_external_weights(path: Path) -> None:
    """Weights beside the model come in and go out."""
    from onnx_expand.integrations.olive import run

    large = path.with_name("large.onnx")
    onnx.save(
        onnx.load(path), large, save_as_external_data=True, size_threshold=0, location="w.bin"
    )
    run(workflow(large, verify=False))
    (found,) = path.with_name("out").rglob("*.onnx")
    assert onnx_expand.check(large, found)


def test_the_command_line_of_olive(path: Path) -> None:
    """The package configuration that is printed makes `olive run` know the pass."""
    package = path.with_name("package.json")
    printed = subprocess.run(
        [sys.executable, "-m", "onnx_expand.integrations.olive"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    package.write_text(printed.stdout)
    config = path.with_name("workflow.json")
    config.write_text(json.dumps(workflow(path)))
    done = subprocess.run(
        [sys.executable, "-m", "olive", "run", "--config", config, "--package-config", package],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = path.with_name("out").rglob("*.onnx")
    assert onnx_expand.check(path, found)
