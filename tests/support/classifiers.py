"""Small classifiers."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_expand.model import read, to_proto
from tests.support.torch_graphs import images, parse

CLASSIFIER = (
    "c = Conv<pads=[1, 1, 1, 1]>(x, w, b) n = BatchNormalization(c, s, t, m, v) r = Relu(n)"
    "k = Clip(r, , limit) p = GlobalAveragePool(k) f = Flatten(p) y = Gemm(f, g)"
)


def classifier() -> onnx.ModelProto:
    """Build a convolution, normalization, clipping, pooling and classifier, with dotted names."""
    model = parse(CLASSIFIER, "(float[n, 3, 5, 5] x) => (float[n, 2] y)")
    names = {
        "w": "features.0.weight",
        "b": "features.0.bias",
        "s": "features.1.weight",
        "t": "features.1.bias",
        "m": "features.1.running_mean",
        "v": "features.1.running_var",
        "limit": "limit",
        "g": "head.weight",
    }
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = names.get(name, name)
    arrays = {
        "features.0.weight": images(4, 3, 3, 3),
        "features.0.bias": images(4, seed=1),
        "features.1.weight": np.ones(4, np.float32),
        "features.1.bias": np.zeros(4, np.float32),
        "features.1.running_mean": images(4, seed=2),
        "features.1.running_var": np.ones(4, np.float32),
        "limit": np.array(6, np.float32),
        "head.weight": images(4, 2, seed=3),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    # The parser omits fields that every other writer fills with empty strings.
    return to_proto(read(model))
