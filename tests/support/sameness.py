"""Compare two protos field by field: the judge of round trips.

It shares no code with the comparison in the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx.backend.test.case.node import collect_testcases

__all__ = ["differences", "file_models", "node_models"]

_BY = {
    "opset_import": "domain",
    "metadata_props": "key",
    "external_data": "key",
    "value_info": "name",
    "quantization_annotation": "tensor_name",
    "quant_parameter_tensor_names": "key",
}


def differences(a: Message, b: Message) -> list[str]:
    """Return the paths at which two messages have different meanings.

    Args:
        a: The message before.
        b: The message after.
    """
    return list(_compare(_plain(a), _plain(b), type(a).__name__))


def _plain(message: Message) -> dict[str, Any]:
    """Convert a message to dictionaries, lists and scalars, without empty fields."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in _BY:
            named: dict[str, Any] = {}
            for entry in map(_plain, value):
                name = str(entry.get(_BY[field.name], ""))
                named[f"{name} once more" if name in named else name] = entry
            found[field.name] = named
        elif isinstance(value, Message):
            found[field.name] = _plain(value)
        elif hasattr(value, "add"):
            found[field.name] = [_plain(entry) for entry in value]
        elif hasattr(value, "append"):
            found[field.name] = [repr(entry) for entry in value]
        elif value or field.name == "dim_value":
            found[field.name] = repr(value)
    return found


def _compare(a: Any, b: Any, place: str) -> Iterator[str]:
    if type(a) is not type(b):
        yield f"{place}: {a} became {b}"
    elif isinstance(a, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if key not in b:
                yield f"{place}.{key} is lost: {str(a[key])[:200]}"
            elif key not in a:
                yield f"{place}.{key} has come: {str(b[key])[:200]}"
            else:
                yield from _compare(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list):
        if len(a) != len(b):
            yield f"{place}: {len(a)} became {len(b)}"
        for index, (left, right) in enumerate(zip(a, b, strict=False)):
            yield from _compare(left, right, f"{place}[{index}]")
    elif a != b:
        yield f"{place}: {a[:200]} became {b[:200]}"


@cache
def node_models() -> dict[str, onnx.ModelProto]:
    """Return the models of ONNX's tests of single ops, by name."""
    with warnings.catch_warnings():  # ONNX's own code overflows in casts
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return {case.name: case.model for case in cases if case.model is not None}


@cache
def file_models() -> dict[str, Path]:
    """Return the model files included in ONNX, by name."""
    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return {str(p.relative_to(root)): p for p in sorted(root.rglob("*.onnx"))}
