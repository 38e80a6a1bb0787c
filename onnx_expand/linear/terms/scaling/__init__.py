"""Ops that factors pass: the inputs in which they are homogeneous, and the degrees.

An op is homogeneous of degree k in an input if `f(s x) = s^k f(x)`: ops that only move elements,
ops that are linear in an input, products of several inputs, and, for nonnegative factors, ops that
compare values with each other or with zero. `SCALING` is the table; a new op of this kind is one
function in one of these files and a row in its test.
"""

# Importing a file registers its ops.
from onnx_expand.linear.terms.scaling import moves, pools, products
from onnx_expand.linear.terms.scaling.base import (
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
]
