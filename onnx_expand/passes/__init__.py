"""Passes over `onnx_ir.Model` such as `Expand` and `Fold`.

The symlink `passes` in the project's root points here. Imported through it, the modules are the
same objects, so that `passes.fold.Fold` is `onnx_expand.passes.fold.Fold`.
"""

import importlib
import pkgutil
import sys

from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.bridges import Border
from onnx_expand.passes.clean import Clean, Cleaned, CleanResult
from onnx_expand.passes.expand import Expand, ExpandResult
from onnx_expand.passes.expansions import ExpandReport
from onnx_expand.passes.fold import Fold, FoldReport, FoldResult
from onnx_expand.passes.overridable import assume_constant
from onnx_expand.passes.preprocess import Preprocess
from onnx_expand.passes.report import Verification
from onnx_expand.passes.strip import StripNonlinear

__all__ = [
    "Border",
    "Clean",
    "CleanResult",
    "Cleaned",
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

if __name__ != "onnx_expand.passes":
    _own = importlib.import_module("onnx_expand.passes")
    sys.modules[__name__] = _own
    for _module in pkgutil.iter_modules(_own.__path__):
        _name = f"{_own.__name__}.{_module.name}"
        sys.modules[f"{__name__}.{_module.name}"] = importlib.import_module(_name)
