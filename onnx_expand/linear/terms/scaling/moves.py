"""Ops that move elements, or interpolate between them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_expand.graph.attributes import float_of, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.terms.scaling.base import (
    SCALING,
    Channels,
    Part,
    Scaling,
    broadcast_axes,
    kept,
    numbers_of,
    operand,
    rank_of,
)


@SCALING.register(
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth"),
    *("Compress", "GatherElements", "GatherND", "ReverseSequence"),
)
def _movement(node: ir.Node, facts: Facts) -> Scaling | None:
    """Return the record of an op that moves elements, without following axes."""
    return Scaling({0: 1}, gain=1)


@SCALING.register("CumSum", "Trilu")
def _sums_and_zeros(node: ir.Node, facts: Facts) -> Scaling | None:
    return Scaling({0: 1})


@SCALING.register("Slice")
def _slice(node: ir.Node, facts: Facts) -> Scaling | None:
    x = node.inputs[0]
    rank = rank_of(x, facts)
    starts: Sequence[float] | None
    ends: Sequence[float] | None
    axes: Sequence[float] | None
    steps: Sequence[float] | None
    if facts.opset < _SLICE_READS:
        starts, ends = ints_of(node, "starts"), ints_of(node, "ends")
        axes, steps = ints_of(node, "axes") or range(len(starts)), [1.0] * len(starts)
    else:
        starts, ends, axes, steps = (numbers_of(node, i, facts) for i in range(1, 5))
        if starts is not None and operand(node, 3) is None:
            axes = range(len(starts))
        if starts is not None and operand(node, 4) is None:
            steps = [1.0] * len(starts)
    if not rank or axes is None:
        return Scaling({0: 1}, gain=1)
    cut = [int(axis) % rank for axis in axes]
    part = None
    shape = facts.shape(x)
    if len(cut) == 1 and shape is not None and starts and ends and steps:
        size = shape[cut[0]]
        if size is not None and size <= _LARGEST:
            places = range(size)[slice(int(starts[0]), int(ends[0]), int(steps[0]))]
            part = Part(cut[0], frozenset(places), size)
    return Scaling({0: 1}, gain=1, channels={0: kept(x, facts, cut)}, part=part)


_SLICE_READS = 10  # the first opset in which Slice reads its bounds as inputs
_LARGEST = 1 << 16  # maximum number of places of an axis to distinguish


@SCALING.register("Gather")
def _gather(node: ir.Node, facts: Facts) -> Scaling | None:
    x, indices = node.inputs[0], operand(node, 1)
    shape, rank = facts.shape(x), facts.rank(indices)
    if shape is None or rank is None or not shape:
        return Scaling({0: 1}, gain=1)
    at = int_of(node, "axis", facts.opset) % len(shape)
    channels = {axis: axis + (rank - 1) * (axis > at) for axis in range(len(shape)) if axis != at}
    numbers, size, part = numbers_of(node, 1, facts), shape[at], None
    if numbers and size is not None and size <= _LARGEST and max(map(abs, numbers)) <= size:
        part = Part(at, frozenset(int(n) % size for n in numbers), size)
    return Scaling({0: 1}, gain=1, channels={0: channels}, part=part)


@SCALING.register("Expand")
def _expand(node: ir.Node, facts: Facts) -> Scaling | None:
    return Scaling({0: 1}, gain=1, channels={0: broadcast_axes(node, 0, facts)})


@SCALING.register("Tile")
def _tile(node: ir.Node, facts: Facts) -> Scaling | None:
    if facts.opset < _TILE_REPEATS:
        return None
    repeats = numbers_of(node, 1, facts) or []
    cut = [axis for axis, times in enumerate(repeats) if times != 1]
    known = kept(node.inputs[0], facts, cut) if repeats else {}
    return Scaling({0: 1}, gain=1, channels={0: known})


_TILE_REPEATS = 6  # the first opset in which Tile has a number of repeats for each axis


@SCALING.register("Pad")
def _pad(node: ir.Node, facts: Facts) -> Scaling | None:
    """Zeros stay zeros; an edge or a mirror image is a copy."""
    x = node.inputs[0]
    mode = text_of(node, "mode", facts.opset, "constant")
    if facts.opset < _PAD_READS:
        pads: Sequence[float] | None = ints_of(node, "pads") or ints_of(node, "paddings")
        value: float | None = float_of(node, "value", facts.opset)
        axes: Sequence[float] | None = range(rank_of(x, facts))
    else:
        pads = numbers_of(node, 1, facts)
        fill = numbers_of(node, 2, facts)
        value = 0.0 if operand(node, 2) is None else fill[0] if fill else None
        axes = numbers_of(node, 3, facts)
        axes = range(rank_of(x, facts)) if operand(node, 3) is None else axes
    if mode == "constant" and value != 0:
        return None
    known: Channels = {}
    if pads is not None and axes is not None and facts.rank(x) is not None:
        half, rank = len(pads) // 2, rank_of(x, facts)
        ends = zip(axes, pads[:half], pads[half:], strict=True)
        known = kept(x, facts, [int(axis) % rank for axis, a, b in ends if a or b])
    gain = None if mode == "constant" else 1.0
    return Scaling({0: 1}, gain=gain, channels={0: known})


_PAD_READS = 11  # the first opset in which Pad reads its amounts as an input


@SCALING.register("Resize", "Upsample")
def _resize(node: ir.Node, facts: Facts) -> Scaling | None:
    """Interpolation is linear, and its weights add up to one."""
    crops = node.op_type == "Resize" and facts.opset >= _RESIZE_CROPS
    mode = text_of(node, "coordinate_transformation_mode", facts.opset) if crops else ""
    gain: float | None = 1.0
    if mode == "tf_crop_and_resize":
        if float_of(node, "extrapolation_value", facts.opset):
            return None
        gain = None
    x, axes = node.inputs[0], ints_of(node, "axes") if crops else ()
    slot = 2 if crops else 1
    scales = numbers_of(node, slot, facts) or list(node.attributes.get_floats("scales", ()))
    before, after = facts.shape(x), facts.shape(node.outputs[0])
    known: Channels = {}
    if before is not None and mode != "tf_crop_and_resize":
        every = axes or range(len(before))
        if scales and len(scales) == len(every):
            cut = [a % len(before) for a, scale in zip(every, scales, strict=True) if scale != 1]
            known = kept(x, facts, cut)
        elif not scales and _is_stretched(node) and after is not None:
            pairs = enumerate(zip(before, after, strict=True))
            known = {axis: axis for axis, (a, b) in pairs if a is not None and a == b}
    return Scaling({0: 1}, gain=gain, channels={0: known})


def _is_stretched(node: ir.Node) -> bool:
    """Return whether each axis of a Resize has its own scale."""
    return text_of(node, "keep_aspect_ratio_policy", missing="stretch") == "stretch"


_RESIZE_CROPS = 11  # the first opset in which Resize has coordinate modes


@SCALING.register("GridSample")
def _grid_sample(node: ir.Node, facts: Facts) -> Scaling | None:
    gain = None if text_of(node, "padding_mode", facts.opset) == "zeros" else 1.0
    return Scaling({0: 1}, gain=gain, channels={0: {0: 0, 1: 1}})
