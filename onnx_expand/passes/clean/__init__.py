"""Clean: what a graph computes twice, for nobody, from constants alone or not at all.

onnx-ir has passes of that kind, each with an edge that this door may not pass: its elimination of
common subexpressions takes 0.0 for -0.0, strings for their addresses and two attributes that
callers hand over for one, and merges nodes of domains that it knows nothing of; its elimination of
identities believes what a file claims of shapes; its removal of unused nodes edits those that
stay. What is needed of them is little, and written here on the facts that fold has anyway.
"""

from onnx_expand.passes.clean.cleaner import Clean, Cleaner, CleanResult
from onnx_expand.passes.clean.outcome import Cleaned

__all__ = ["Clean", "CleanResult", "Cleaned", "Cleaner"]
