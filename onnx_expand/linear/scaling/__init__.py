"""Ops that factors pass: which of their inputs they are homogeneous in, and of what degree.

An op is homogeneous of degree k in an input when `f(s x) = s^k f(x)`: all that moves numbers
without changing them, all that is linear in an input, products of several, and, for factors that
are not negative, what compares numbers with each other or with zero. `SCALING` is the table; a new
op of this kind is one function in one of the files here and a row in its test.
"""

# Importing a file registers its ops.
from onnx_expand.linear.scaling import moves, pools, products, steps
from onnx_expand.linear.scaling.base import (
    SCALING,
    Channels,
    Part,
    Scaling,
    elementwise,
    scaling_of,
)

__all__ = [
    "SCALING",
    "Channels",
    "Part",
    "Scaling",
    "elementwise",
    "moves",
    "pools",
    "products",
    "scaling_of",
    "steps",
]
