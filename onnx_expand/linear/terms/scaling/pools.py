"""Averages, extremes and sums."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnx_expand.graph.attributes import int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers
from onnx_expand.linear.terms.scaling.base import SCALING, Channels, Scaling


@SCALING.register(
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"
)
def _pool(node: ir.Node, facts: Facts) -> Scaling | None:
    averages = "Average" in node.op_type
    gain: float | None = None if "Lp" in node.op_type else 1.0
    if not node.op_type.startswith("Global"):
        auto = text_of(node, "auto_pad", facts.opset)
        padded = any(ints_of(node, "pads")) or auto.startswith("SAME")
        beyond = bool(int_of(node, "ceil_mode", facts.opset))
        kernel, strides = ints_of(node, "kernel_shape"), ints_of(node, "strides")
        overlaps = all(s <= k for s, k in zip(strides, kernel, strict=False))
        if not averages and beyond and (padded or not overlaps):
            return None  # a window may be empty
        if averages and (padded or beyond) and int_of(node, "count_include_pad", facts.opset):
            gain = None  # the average includes the zeros
        if averages and beyond and not overlaps:
            gain = None
    positive = not averages
    return Scaling({0: 1}, positive, gain=gain, channels={0: {0: 0, 1: 1}})


_POSITIVE = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin"}
_GAINS = {"ReduceMax", "ReduceMean", "ReduceMin"}


@SCALING.register("ReduceMean", "ReduceSum", "ReduceSumSquare", *sorted(_POSITIVE))
def _reduction(node: ir.Node, facts: Facts) -> Scaling | None:
    x, op = node.inputs[0], node.op_type
    gain: float | None = 1.0 if op in _GAINS else None
    channels: Channels = {}
    shape, axes = facts.shape(x), _reduced(node, facts)
    if shape is not None and axes is not None:
        drops = not int_of(node, "keepdims", facts.opset)
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        channels = {axis: kept.index(axis) if drops else axis for axis in kept}
        sizes = [shape[axis] for axis in axes]
        known = [size for size in sizes if size is not None]
        if op == "ReduceSum" and len(known) == len(sizes) and 0 not in known:
            gain = float(math.prod(known))
    degree = 2 if op == "ReduceSumSquare" else 1
    return Scaling({0: degree}, op in _POSITIVE, gain=gain, channels={0: channels})


def _reduced(node: ir.Node, facts: Facts) -> list[int] | None:
    """Return the axes of a reduction; None if they are unknown."""
    rank = facts.rank(node.inputs[0])
    if rank is None:
        return None
    named = integers(node, "axes", facts)
    if not named and (named is None or int_of(node, "noop_with_empty_axes", facts.opset)):
        return named
    return sorted({axis % rank for axis in named}) if named else list(range(rank))
