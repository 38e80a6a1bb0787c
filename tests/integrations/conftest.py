"""A model in training form, which every host is given."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnx_expand
from models import smallnet


@pytest.fixture(scope="package")
def expanded() -> onnx.ModelProto:
    """SmallNet, expanded: 26 nodes, which fold to 16, and to 13 with batch normalization."""
    compact = smallnet.build(kernel=7, stages=3, classes=10)
    found: onnx.ModelProto = onnx_expand.expand(compact, strategy="ck+fc", rate=2)
    return found


@pytest.fixture
def path(expanded: onnx.ModelProto, tmp_path: Path) -> Path:
    """The same model in a file."""
    found = tmp_path / "expanded.onnx"
    onnx.save(expanded, found)
    return found
