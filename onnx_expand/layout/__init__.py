"""Choose the axis order in which each node works, so that the fewest bytes are transposed."""

# Importing a module registers its ops.
from onnx_expand.layout import axes
from onnx_expand.layout.rewrite import straighten_layouts

__all__ = ["axes", "straighten_layouts"]
