"""The table of what folds is true."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_expand import model as door
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import base
from tests.support import table as support


def test_every_linear_op_is_in_the_table() -> None:
    """An op that is registered has a row, and folds in the type and opset of most models."""
    rows = {name.split()[0] for name in support.OPS}
    assert set(base.LIFTERS) <= rows
    for op in support.OPS:
        assert support.classify(op, "float", 17)[0] == "folds", op


_HARMLESS = {
    ("AveragePool", "count_include_pad"),  # nothing is padded
    ("BatchNormalization", "momentum"),
    ("Conv", "kernel_shape"),
    ("ConvTranspose", "kernel_shape"),
    ("Dropout", "seed"),
    ("ReduceMean", "noop_with_empty_axes"),  # the axes are given
}


@pytest.mark.parametrize("op", base.LIFTERS)
def test_no_attribute_is_passed_over(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is no map before all that the newest operator set says of it was asked for."""
    row = next(name for name in support.OPS if name.split()[0] == op)
    model = support.build(row, "float", support.NEWEST)
    assert model is not None
    graph = door.visit(model).model
    node = next(node for node in graph.graph if node.op_type == op)
    asked: set[str] = set()

    def listen(name: str) -> None:
        plain = getattr(type(node.attributes), name)

        def heard(self: object, key: str, *rest: object) -> object:
            asked.add(key)
            return plain(self, key, *rest)

        monkeypatch.setattr(type(node.attributes), name, heard)

    for name in ("get", "__getitem__", "__contains__"):
        listen(name)
    assert isinstance(base.lift(node, Facts(graph)), base.Linear)
    named = onnx.defs.get_schema(op, support.NEWEST, "").attributes
    assert {(op, name) for name in named if name not in asked} <= _HARMLESS


def test_the_table_is_what_happens() -> None:
    """The page says what folding the tiny models comes to today; `make support` writes it."""
    page = Path(__file__).parent.parent / "docs" / "support.md"
    if onnx.defs.onnx_opset_version() != 28:
        pytest.skip("the page is about the opsets of another onnx")
    assert page.read_text(encoding="utf-8") == support.document()
