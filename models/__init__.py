"""Builders of the networks that onnx-expand is tried on, as ONNX graphs with fresh weights.

`python -m models list` names them; `from models import smallnet; smallnet.build()` makes one.
"""

from models.registry import networks

__all__ = ["networks"]
