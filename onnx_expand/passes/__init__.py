"""The rewrites: `Expand` and `Fold`, passes over `onnx_ir.Model`."""

from onnx_expand.passes.expand import Expand, ExpandReport, ExpandResult
from onnx_expand.passes.fold import Fold, FoldReport, FoldResult
from onnx_expand.passes.partition import Policy

__all__ = [
    "Expand",
    "ExpandReport",
    "ExpandResult",
    "Fold",
    "FoldReport",
    "FoldResult",
    "Policy",
]
