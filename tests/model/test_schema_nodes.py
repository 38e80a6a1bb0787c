"""Any node that a schema allows is handled, left alone or refused, whatever its operands hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import onnx
import pytest

import onnx_expand
from onnx_expand.errors import OnnxExpandError
from tests.support.schema_nodes import schema_model, schemas


def _trained(model: onnx.ModelProto) -> Any:
    from onnx_expand.train import to_torch, write_back

    return write_back(to_torch(model), model)


WAYS: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "fold": lambda model: onnx_expand.fold(model, policy="always", inline=True),
    "inspect": onnx_expand.inspect,
    "expand": lambda model: onnx_expand.expand(model, strategy="cl", include="."),
    "train": _trained,
}

_PARTS = {
    "fold": slice(0, None, 2),
    "inspect": slice(1, None, 4),
    "expand": slice(1, None, 6),
    "train": slice(3, None, 4),
}
"""What each is given of all schemas; many are alike."""


@pytest.mark.parametrize("way", WAYS)
def test_every_op_in_every_version(way: str) -> None:
    """Nothing but an error of our own comes out, old spellings and nonsense included."""
    if way == "train" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    handled = 0
    for schema, opset in schemas():
        model = schema_model(schema, opset, seed=4)
        if model is None:
            continue
        try:
            WAYS[way](model)
        except OnnxExpandError:
            continue
        except Exception as error:
            pytest.fail(f"{schema.name} of operator set {opset}: {error!r}")
        handled += 1
    assert handled > 80
