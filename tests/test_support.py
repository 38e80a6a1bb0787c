"""The table of what folds is true."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_expand.lift import base
from tests.support import table as support


def test_every_linear_op_is_in_the_table() -> None:
    """An op that is registered has a row, and folds in the type and opset of most models."""
    rows = {name.split()[0] for name in support.OPS}
    assert set(base.LIFTERS) <= rows
    for op in support.OPS:
        assert support.classify(op, "float", 17)[0] == "folds", op


def test_the_table_is_what_happens() -> None:
    """The page says what folding the tiny models comes to today; `make support` writes it."""
    page = Path(__file__).parent.parent / "docs" / "support.md"
    if onnx.defs.onnx_opset_version() != 28:
        pytest.skip("the page is about the opsets of another onnx")
    assert page.read_text(encoding="utf-8") == support.document()
