"""Ops that move elements, or interpolate between them."""

from __future__ import annotations

import onnx_ir as ir

from onnx_expand.graph.attributes import float_of, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers, operand, setting, slices_of
from onnx_expand.linear.terms.scaling.base import (
    SCALING,
    Channels,
    Part,
    Scaling,
    broadcast_axes,
    kept,
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
    rank, shape = rank_of(x, facts), facts.shape(x)
    starts, axes = integers(node, "starts", facts), integers(node, "axes", facts)
    if axes == []:
        axes = None if starts is None else list(range(len(starts)))
    if not rank or axes is None:
        return Scaling({0: 1}, gain=1)
    cut = [axis % rank for axis in axes]
    cuts, part = slices_of(node, facts), None
    if len(cut) == 1 and shape is not None and cuts:
        size = shape[cut[0]]
        if size is not None and size <= _LARGEST:
            places = range(size)[cuts[axes[0]]]
            part = Part(cut[0], frozenset(places), size)
    return Scaling({0: 1}, gain=1, channels={0: kept(x, facts, cut)}, part=part)


_LARGEST = 1 << 16  # maximum number of places of an axis to distinguish


@SCALING.register("Gather")
def _gather(node: ir.Node, facts: Facts) -> Scaling | None:
    x, indices = node.inputs[0], operand(node, 1)
    shape, rank = facts.shape(x), facts.rank(indices)
    if shape is None or rank is None or not shape:
        return Scaling({0: 1}, gain=1)
    at = int_of(node, "axis", facts.opset) % len(shape)
    channels = {axis: axis + (rank - 1) * (axis > at) for axis in range(len(shape)) if axis != at}
    numbers, size, part = integers(node, "indices", facts), shape[at], None
    if numbers and size is not None and size <= _LARGEST and max(map(abs, numbers)) <= size:
        part = Part(at, frozenset(n % size for n in numbers), size)
    return Scaling({0: 1}, gain=1, channels={0: channels}, part=part)


@SCALING.register("Expand")
def _expand(node: ir.Node, facts: Facts) -> Scaling | None:
    return Scaling({0: 1}, gain=1, channels={0: broadcast_axes(node, 0, facts)})


@SCALING.register("Tile")
def _tile(node: ir.Node, facts: Facts) -> Scaling | None:
    if facts.opset < _TILE_REPEATS:
        return None
    repeats = integers(node, "repeats", facts) or []
    cut = [axis for axis, times in enumerate(repeats) if times != 1]
    known = kept(node.inputs[0], facts, cut) if repeats else {}
    return Scaling({0: 1}, gain=1, channels={0: known})


_TILE_REPEATS = 6  # the first opset in which Tile has a number of repeats for each axis


@SCALING.register("Pad")
def _pad(node: ir.Node, facts: Facts) -> Scaling | None:
    """Zeros stay zeros; an edge or a mirror image is a copy."""
    x = node.inputs[0]
    mode = text_of(node, "mode", facts.opset, "constant")
    fill = setting(node, "constant_value" if facts.opset >= _PAD_READS else "value", facts)
    if mode == "constant" and (fill is None or fill.any()):
        return None
    known: Channels = {}
    pads, axes = integers(node, "pads", facts), integers(node, "axes", facts)
    pads = pads or list(ints_of(node, "paddings"))
    rank = rank_of(x, facts)
    if pads and axes is not None and rank:
        half, axes = len(pads) // 2, axes or list(range(rank))
        ends = zip(axes, pads[:half], pads[half:], strict=True)
        known = kept(x, facts, [axis % rank for axis, a, b in ends if a or b])
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
    given = setting(node, "scales", facts)
    scales = [] if given is None else given.tolist()
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
