"""Nodes that return their input: the many spellings of the identity."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnx_expand.graph.attributes import has_references, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers, setting, slices_of
from onnx_expand.lift import CONTRADICTIONS

__all__ = ["NOOPS", "WIDER", "forwarded"]

_FAR = (1 << 31) - 1  # exporters write an end beyond any extent as one of several large integers


def forwarded(node: ir.Node, facts: Facts) -> ir.Value | None:
    """Return the value that a node always returns unchanged; None for other nodes.

    This is its input, or the value from which its input was losslessly converted.
    """
    check = NOOPS.get(node.op_type) if node.domain == "" else None
    if check is None or not node.inputs or node.inputs[0] is None:
        return None
    if has_references(node):
        return None
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return None
    try:
        return node.inputs[0] if check(node, facts) else _before_detour(node, facts)
    except CONTRADICTIONS:
        return None


WIDER = {
    ir.DataType.FLOAT16: {ir.DataType.FLOAT, ir.DataType.DOUBLE},
    ir.DataType.BFLOAT16: {ir.DataType.FLOAT, ir.DataType.DOUBLE},
    ir.DataType.FLOAT: {ir.DataType.DOUBLE},
    ir.DataType.INT8: {ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64},
    ir.DataType.UINT8: {ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64},
    ir.DataType.INT16: {ir.DataType.INT32, ir.DataType.INT64},
    ir.DataType.INT32: {ir.DataType.INT64, ir.DataType.DOUBLE},
    ir.DataType.BOOL: {ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64},
}
"""For each type the types that represent all of its values."""


def _before_detour(node: ir.Node, facts: Facts) -> ir.Value | None:
    """Return the value that one Cast widened and this Cast converts back to its type.

    onnxruntime removes such a pair itself, except if only a subgraph reads it (1.30).
    """
    wide = node.inputs[0]
    before = None if wide is None else wide.producer()
    if node.op_type != "Cast" or before is None or before.op_type != "Cast" or before.domain:
        return None
    x = before.inputs[0] if before.inputs else None
    if x is None or has_references(before):
        return None
    dtype = facts.dtype(x)
    if dtype is None or dtype != ir.DataType(int_of(node, "to")):
        return None
    return x if ir.DataType(int_of(before, "to")) in WIDER.get(dtype, ()) else None


def _cast(node: ir.Node, facts: Facts) -> bool:
    x = node.inputs[0]
    assert x is not None
    return facts.dtype(x) is not None and facts.dtype(x) == ir.DataType(int_of(node, "to"))


def _cast_like(node: ir.Node, facts: Facts) -> bool:
    x, like = node.inputs[0], node.inputs[1]
    assert x is not None
    known = facts.dtype(x)
    return like is not None and known is not None and known == facts.dtype(like)


def _of_one(node: ir.Node, facts: Facts) -> bool:
    return len(node.inputs) == 1


def _split(node: ir.Node, facts: Facts) -> bool:
    return len(node.outputs) == 1


def _expand(node: ir.Node, facts: Facts) -> bool:
    extents, wanted = facts.extents(node.inputs[0]), facts.extents_in(node.inputs[1])
    if extents is None or wanted is None or len(wanted) > len(extents):
        return False
    ends = extents[len(extents) - len(wanted) :]
    return all(w == 1 or w == size for w, size in zip(wanted, ends, strict=True))


def _tile(node: ir.Node, facts: Facts) -> bool:
    repeats = integers(node, "repeats", facts)
    return bool(repeats) and set(repeats or ()) == {1}


def _reshape(node: ir.Node, facts: Facts) -> bool:
    """A dynamic extent that is zero copies the one at its position, which is the same."""
    if len(node.inputs) < 2:
        return False
    extents, wanted = facts.extents(node.inputs[0]), facts.extents_in(node.inputs[1])
    if extents is None or wanted is None or len(extents) != len(wanted):
        return False
    same = {-1} if int_of(node, "allowzero", facts.opset) else {-1, 0}
    pairs = zip(wanted, extents, strict=True)
    return wanted.count(-1) <= 1 and all(w in same or w == size for w, size in pairs)


def _reduce(node: ir.Node, facts: Facts) -> bool:
    """A sum, mean, product or extremum of a single element is that element."""
    shape = facts.shape(node.inputs[0])
    if shape is None or not int_of(node, "keepdims", facts.opset, 1):
        return False
    axes = integers(node, "axes", facts) or ()
    return bool(axes) and all(shape[axis] == 1 for axis in axes)


def _transpose(node: ir.Node, facts: Facts) -> bool:
    perm = ints_of(node, "perm")
    return bool(perm) and list(perm) == list(range(len(perm)))


def _resize(node: ir.Node, facts: Facts) -> bool:
    if facts.opset < 11 or text_of(node, "mode", facts.opset) not in {"nearest", "linear"}:
        return False
    shifted = {"tf_crop_and_resize", "tf_half_pixel_for_nn"}
    if text_of(node, "coordinate_transformation_mode", facts.opset) in shifted:
        return False
    if facts.opset >= 18 and int_of(node, "antialias", facts.opset):
        return False
    scales, sizes = setting(node, "scales", facts), integers(node, "sizes", facts)
    if scales is not None and scales.size:
        return bool((scales == 1).all())
    shape = facts.shape(node.inputs[0])
    if not sizes or shape is None:
        return False
    axes = ints_of(node, "axes") or range(len(shape))
    return len(sizes) == len(axes) and all(
        shape[axis] == size for axis, size in zip(axes, sizes, strict=True)
    )


def _pool(node: ir.Node, facts: Facts) -> bool:
    kernel = ints_of(node, "kernel_shape")
    numbers = {*kernel, *ints_of(node, "strides")}
    return bool(kernel) and numbers == {1} and not any(ints_of(node, "pads"))


def _pad(node: ir.Node, facts: Facts) -> bool:
    pads = integers(node, "pads", facts)
    return bool(pads) and not any(pads or ())


def _slice(node: ir.Node, facts: Facts) -> bool:
    shape, cuts = facts.shape(node.inputs[0]), slices_of(node, facts)
    if shape is None or cuts is None:
        return False
    return all(
        (cut.start, cut.step) == (0, 1) and (cut.stop >= _FAR or (shape[axis] or _FAR) <= cut.stop)
        for axis, cut in cuts.items()
    )


NOOPS: dict[str, Callable[[ir.Node, Facts], bool]] = {
    "AveragePool": _pool,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _of_one,
    "Expand": _expand,
    "Max": _of_one,
    "MaxPool": _pool,
    "Mean": _of_one,
    "Min": _of_one,
    "Pad": _pad,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Sum": _of_one,
    "Tile": _tile,
    "Transpose": _transpose,
}
