"""Rewrite the linear algebra of ONNX models: expand to train better, fold to deploy cheaper.

`expand`, `fold`, `run`, `check` and `inspect` take a path, an `onnx.ModelProto`, an
`onnx_ir.Model`, an `onnx_graphsurgeon.Graph` or a `torch.onnx.ONNXProgram`. Training is in
`onnx_expand.train` and `onnx_expand.experiment`, which need torch.
"""

import logging

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.api import check, expand, fold, inspect, run, strip_nonlinear
from onnx_expand.errors import (
    DifferentError,
    ModelError,
    OnnxExpandError,
    Reason,
    Refusal,
    RefusedError,
    UnsupportedError,
    UsageError,
)

logging.getLogger("onnx_expand").addHandler(logging.NullHandler())

__all__ = [
    "AffineConv",
    "DifferentError",
    "ModelError",
    "OnnxExpandError",
    "Reason",
    "Refusal",
    "RefusedError",
    "UnsupportedError",
    "UsageError",
    "check",
    "expand",
    "fold",
    "inspect",
    "run",
    "strip_nonlinear",
]

__version__ = "0.1.0"
