"""Check whether two models compute the same, with a tolerance derived from rounding."""

from onnx_expand.equivalence.bisect import Divergence, bisect
from onnx_expand.equivalence.checking import FACTOR, Figure, Verdict, check
from onnx_expand.equivalence.options import CheckOptions

__all__ = ["FACTOR", "CheckOptions", "Divergence", "Figure", "Verdict", "bisect", "check"]
