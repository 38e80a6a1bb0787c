"""Check whether two models compute the same, with a tolerance derived from rounding."""

from onnx_expand.equivalence.checking import FACTOR, Figure, Verdict, check
from onnx_expand.equivalence.options import CheckOptions
from onnx_expand.equivalence.parts.bisect import Divergence, bisect

__all__ = ["FACTOR", "CheckOptions", "Divergence", "Figure", "Verdict", "bisect", "check"]
