"""Layouts: in which order of axes each node works, so that the fewest bytes are transposed."""

# Importing a file registers its ops.
from onnx_expand.layout import places
from onnx_expand.layout.rewrite import Turned, straighten_layouts

__all__ = ["Turned", "places", "straighten_layouts"]
