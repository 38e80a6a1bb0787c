"""Lift nodes to the algebra: `lift` returns the affine convolution that a node computes.

A new linear op needs one function in one of the modules here and a row in its test.
"""

# Importing a module registers its ops.
from onnx_expand.lift import channels, matrix, repeats, spatial
from onnx_expand.lift.base import CONTRADICTIONS, LIFTERS, Axes, Linear, contradiction, lift
from onnx_expand.lift.convolution import conv_geometry, conv_transpose_geometry, swap_channels
from onnx_expand.lift.parts import lift_parts

__all__ = [
    "CONTRADICTIONS",
    "LINEAR_OPS",
    "Axes",
    "Linear",
    "channels",
    "contradiction",
    "conv_geometry",
    "conv_transpose_geometry",
    "lift",
    "lift_parts",
    "matrix",
    "repeats",
    "spatial",
    "swap_channels",
]

LINEAR_OPS = frozenset(LIFTERS)
"""Op types whose nodes can be affine maps."""
