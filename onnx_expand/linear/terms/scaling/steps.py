"""Elementwise ops of one operand."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import float_of
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.terms.scaling.base import (
    SCALING,
    Scaling,
    kept,
    numbers_of,
    operand,
)


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
    bounds: list[float] = []
    for i, (name, free) in enumerate((("min", -math.inf), ("max", math.inf))):
        if facts.opset >= _CLIP_READS:
            given = numbers_of(node, i + 1, facts)
            if given is None and operand(node, i + 1) is not None:
                return None
            bounds.append(given[0] if given else free)
        else:
            bounds.append(float_of(node, name, facts.opset, free))
    largest = float(np.finfo(np.float32).max)
    if not all(b == 0 or abs(b) >= largest for b in bounds):
        return None
    return Scaling({0: 1}, positive=True, channels={0: kept(node.inputs[0], facts)})


_CLIP_READS = 11  # the first opset in which Clip reads its bounds as inputs


@SCALING.register("Cast", "CastLike")
def _cast(node: ir.Node, facts: Facts) -> Scaling | None:
    """Between floating-point types only rounding differs."""
    return Scaling({0: 1}, channels={0: kept(node.inputs[0], facts)})


@SCALING.register("Reciprocal")
def _reciprocal(node: ir.Node, facts: Facts) -> Scaling | None:
    return Scaling({0: -1}, channels={0: kept(node.inputs[0], facts)})
