"""The translations; importing this package registers them all."""

from onnx_expand.train.ops import (
    activation,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    sampling,
    sequence,
    shape,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resize",
    "sampling",
    "sequence",
    "shape",
]
