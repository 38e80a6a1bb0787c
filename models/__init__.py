"""Builders of the networks that onnx-expand is tried on, as ONNX graphs with fresh weights.

`onnx-expand models list` names them; `from models import smallnet; smallnet.build()` makes one.
Where onnx-expand is installed from a wheel, the package is `onnx_expand.models`.
"""

from .registry import networks

__all__ = ["networks"]
