"""Models with a slightly changed tensor."""

from __future__ import annotations

import onnx
from onnx import numpy_helper


def moved(model: onnx.ModelProto, name: str, by: float) -> onnx.ModelProto:
    """Return a copy of a model with the first element of an initializer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] += by
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return copy
