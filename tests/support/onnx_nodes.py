"""The node tests included in ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


SIZES = (8, 16, 32, 64)


INTEGERS = {onnx.TensorProto.DataType.Value(f"{s}INT{n}") for s in ("", "U") for n in SIZES}


def cases() -> Iterator[Any]:
    """Return the tests with numeric inputs and outputs, except those of function bodies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases("")
    seen = set()
    for case in found:
        if case.model is None:
            continue
        ports = [*case.model.graph.input], [*case.model.graph.output]
        known = [[p.type.tensor_type.elem_type in FLOATS | INTEGERS for p in s] for s in ports]
        is_number = all(map(any, known))
        own = all(node.domain in {"", "ai.onnx"} for node in case.model.graph.node)
        skipped = case.name.endswith("_expanded") or "training" in case.name
        if is_number and own and not skipped and case.name not in seen:
            seen.add(case.name)
            yield case


def array_of(value: Any) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """Return an input or output of a test as an array of a type that numpy has itself."""
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    array = np.array(value)
    own = array.dtype.kind in "biuf" and array.dtype.isbuiltin == 1
    return array if own else array.astype(np.float32)
