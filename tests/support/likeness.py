"""Compare two models byte by byte, apart from weights."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import numpy_helper


def unlike_only_in_weights(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Return whether two models are equal byte by byte, without weights and expand's metadata."""
    blank = []
    for model in (a, b):
        own = copy.deepcopy(model)
        for tensor in own.graph.initializer:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(array), tensor.name))
        kept = {p.key: p.value for p in own.metadata_props if p.key != "onnx_expand.expanded"}
        onnx.helper.set_model_props(own, kept)
        # A separate test covers whether empty texts are written or omitted.
        own.producer_version = own.producer_version or "none"
        for node in own.graph.node:
            node.domain = node.domain or "ai.onnx"
        blank.append(own.SerializeToString(deterministic=True))
    return blank[0] == blank[1]
