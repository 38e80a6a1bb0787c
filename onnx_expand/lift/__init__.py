"""From nodes to the algebra: `lift` says which affine convolution a node is.

A new linear op is one function in one of the files here and a row in its test.
"""

# Importing a file registers its ops.
from onnx_expand.lift import channels, matrix, spatial
from onnx_expand.lift.base import Axes, Linear, lift
from onnx_expand.lift.convolution import conv_geometry, conv_transpose_geometry, swap_channels

__all__ = [
    "Axes",
    "Linear",
    "channels",
    "conv_geometry",
    "conv_transpose_geometry",
    "lift",
    "matrix",
    "spatial",
    "swap_channels",
]
