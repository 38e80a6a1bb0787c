"""Elementwise ops of one operand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import setting
from onnx_expand.linear.terms.scaling.base import SCALING, Scaling, kept


@SCALING.register("Abs", "LeakyRelu", "PRelu", "Relu")
def _rectifier(node: ir.Node, facts: Facts) -> Scaling | None:
    """`max(0, s x) = s max(0, x)` for nonnegative s."""
    x = node.inputs[0]
    if facts.rank(x) != facts.rank(node.outputs[0]):
        return None  # a slope of higher rank
    return Scaling({0: 1}, positive=True, channels={0: kept(x, facts)})


@SCALING.register("Clip")
def _clip(node: ir.Node, facts: Facts) -> Scaling | None:
    """A Clip with 0 as its only bound is a rectifier."""
    largest = float(np.finfo(np.float32).max)
    for name in ("min", "max"):
        bound = setting(node, name, facts)
        if bound is None or not all(b == 0 or abs(b) >= largest for b in bound.astype(float)):
            return None
    return Scaling({0: 1}, positive=True, channels={0: kept(node.inputs[0], facts)})


@SCALING.register("Cast", "CastLike")
def _cast(node: ir.Node, facts: Facts) -> Scaling | None:
    """Between floating-point types only rounding differs."""
    return Scaling({0: 1}, channels={0: kept(node.inputs[0], facts)})


@SCALING.register("Reciprocal")
def _reciprocal(node: ir.Node, facts: Facts) -> Scaling | None:
    return Scaling({0: -1}, channels={0: kept(node.inputs[0], facts)})
