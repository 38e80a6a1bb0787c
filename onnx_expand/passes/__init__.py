"""The rewrites: `Expand` and `Fold`, passes over `onnx_ir.Model`."""

from onnx_expand.linear.bridges import Border
from onnx_expand.linear.policy import Policy
from onnx_expand.passes.expand import Expand, ExpandReport, ExpandResult
from onnx_expand.passes.fold import Fold, FoldReport, FoldResult
from onnx_expand.passes.overridable import assume_constant
from onnx_expand.passes.preprocess import Preprocess
from onnx_expand.passes.report import Verification
from onnx_expand.passes.strip import StripNonlinear

__all__ = [
    "Border",
    "Expand",
    "ExpandReport",
    "ExpandResult",
    "Fold",
    "FoldReport",
    "FoldResult",
    "Policy",
    "Preprocess",
    "StripNonlinear",
    "Verification",
    "assume_constant",
]
