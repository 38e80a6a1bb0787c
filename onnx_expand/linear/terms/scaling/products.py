"""Products and extremes of several operands, and elementwise ops of one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import flag_of, float_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import operand, setting
from onnx_expand.linear.terms.scaling.base import (
    SCALING,
    Channels,
    Scaling,
    broadcast_axes,
    computed_slots,
    kept,
    same_extent,
)


@SCALING.register("Max", "Min")
def _extreme(node: ir.Node, facts: Facts) -> Scaling | None:
    """`max(s x, s y) = s max(x, y)`."""
    slots = computed_slots(node, facts)
    if len(slots) < len(node.inputs) or facts.opset < _EXTREMES_BROADCAST:
        return None
    channels = {slot: broadcast_axes(node, slot, facts) for slot in slots}
    return Scaling(dict.fromkeys(slots, 1), positive=True, joint=True, channels=channels)


@SCALING.register("Div", "Mul")
def _product(node: ir.Node, facts: Facts) -> Scaling | None:
    if facts.opset < _BROADCASTS or len(node.inputs) != 2:
        return None
    slots = computed_slots(node, facts)
    degrees = {slot: -1 if node.op_type == "Div" and slot else 1 for slot in slots}
    return Scaling(degrees, channels={slot: broadcast_axes(node, slot, facts) for slot in slots})


# The first opsets in which these broadcast as numpy does.
_BROADCASTS = 7
_EXTREMES_BROADCAST = 8


@SCALING.register("MatMul")
def _matmul(node: ir.Node, facts: Facts) -> Scaling | None:
    slots = computed_slots(node, facts)
    ranks = [facts.rank(value) for value in node.inputs]
    out = facts.rank(node.outputs[0])
    channels: dict[int, Channels] = {}
    for slot in slots:
        rank = ranks[slot]
        if rank is None or out is None or any(r is None or r < 2 for r in ranks):
            continue
        batch = broadcast_axes(node, slot, facts, spared=2)
        own = (rank - 1, out - 1) if slot else (rank - 2, out - 2)
        channels[slot] = {**batch, own[0]: own[1]}
    return Scaling(dict.fromkeys(slots, 1), channels=channels)


@SCALING.register("Gemm")
def _gemm(node: ir.Node, facts: Facts) -> Scaling | None:
    if operand(node, 2) is not None and float_of(node, "beta", facts.opset):
        return None  # the added operand has no factor
    slots = [slot for slot in computed_slots(node, facts) if slot < 2]
    rows = flag_of(node, "transA", facts.opset), 1 - flag_of(node, "transB", facts.opset)
    channels = {slot: {rows[slot]: slot} for slot in slots}
    return Scaling(dict.fromkeys(slots, 1), channels=channels)


@SCALING.register("Conv", "ConvTranspose")
def _convolution(node: ir.Node, facts: Facts) -> Scaling | None:
    """Return the record of a convolution whose kernel the model computes."""
    if operand(node, 2) is not None:
        return None
    slots = computed_slots(node, facts)
    channels: dict[int, Channels] = {slot: {} if slot else {0: 0} for slot in slots}
    if 1 in slots and node.op_type == "Conv":
        channels[1] = {0: 1}
    return Scaling(dict.fromkeys(slots, 1), channels=channels)


@SCALING.register("Einsum")
def _einsum(node: ir.Node, facts: Facts) -> Scaling | None:
    slots = computed_slots(node, facts)
    left, arrow, after = text_of(node, "equation").replace(" ", "").partition("->")
    terms = left.split(",")
    channels: dict[int, Channels] = {}
    if arrow and "." not in left + after and len(terms) == len(node.inputs):
        own, out = [facts.extents(v) for v in node.inputs], facts.extents(node.outputs[0])
        for slot in slots:
            term, extents = terms[slot], own[slot]
            if out is None or extents is None or len(set(term)) < len(term):
                continue
            places = {axis: after.find(letter) for axis, letter in enumerate(term)}
            channels[slot] = {
                axis: at
                for axis, at in places.items()
                if at >= 0 and same_extent(extents[axis], out[at])
            }
    return Scaling(dict.fromkeys(slots, 1), channels=channels)


# -- One operand --------------------------------------------------------------------------------


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
