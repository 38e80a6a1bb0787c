"""Layouts: in which order of axes each node works, so that the fewest bytes are transposed."""

from onnx_expand.layout.rewrite import Turned, straighten_layouts

__all__ = ["Turned", "straighten_layouts"]
