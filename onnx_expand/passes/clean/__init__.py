"""Clean: remove duplicate, unused, constant and no-op nodes from a graph.

onnx-ir has passes for this, but each has a case that must not occur here. Its common subexpression
elimination treats 0.0 and -0.0 as equal, compares strings by address, merges two attributes that
callers pass separately and merges nodes of unknown domains. Its identity elimination trusts the
declared shapes. Its removal of unused nodes edits the remaining nodes. The little that is needed
of them is implemented here, on the facts that fold computes anyway.
"""

from onnx_expand.passes.clean.cleaner import Clean, Cleaner, CleanResult
from onnx_expand.passes.clean.outcome import Cleaned

__all__ = ["Clean", "CleanResult", "Cleaned", "Cleaner"]
