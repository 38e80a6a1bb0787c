"""Reorderings of ops that work along one axis, or have one parameter per axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.layout.reorderings import (
    REORDERINGS,
    Order,
    Reordering,
    keeps_order,
    new_axis,
    tensor_of,
)

__all__: list[str] = []


@REORDERINGS.register("ArgMax", "ArgMin")
def _arg(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axis; if the result drops it, the order must not permute the others."""
    axis = int_of(node, "axis", facts.opset)
    kept = bool(int_of(node, "keepdims", facts.opset))
    if not kept and not keeps_order(order, {axis % len(order)}):
        return None
    return Reordering((0,), (0,) if kept else (), {"axis": new_axis(axis, order)})


@REORDERINGS.register("TopK")
def _top_k(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axis of both results."""
    if facts.opset < _TOP_READS:
        return None
    return Reordering((0,), (0, 1), {"axis": new_axis(int_of(node, "axis", facts.opset), order)})


_TOP_READS = 10  # from this opset on, K is an input


@REORDERINGS.register("CumSum")
def _cum_sum(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axis, which is an input."""
    axis = integers(node, "axis", facts)
    if axis is None or len(axis) != 1:
        return None
    return Reordering(constants={1: ir.Tensor(np.array(new_axis(axis[0], order), np.int64))})


@REORDERINGS.register("Gather")
def _gather(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axis; a scalar index drops it, so the order must not permute the others."""
    axis, rank = int_of(node, "axis", facts.opset), facts.rank(node.inputs[1])
    if rank == 1:
        return Reordering(attributes={"axis": new_axis(axis, order)})
    if rank == 0 and keeps_order(order, {axis % len(order)}):
        return Reordering((0,), (), {"axis": new_axis(axis, order)})
    return None


@REORDERINGS.register("Tile")
def _tile(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the repeats."""
    repeats = integers(node, "repeats", facts)
    if repeats is None or len(repeats) != len(order):
        return None
    return Reordering(constants={1: tensor_of([repeats[axis] for axis in order])})


@REORDERINGS.register("Expand")
def _expand(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the target extents, which are aligned by the last axes."""
    wanted = integers(node, "shape", facts)
    if wanted is None or len(wanted) > len(order):
        return None
    wanted = [1] * (len(order) - len(wanted)) + wanted
    return Reordering(constants={1: tensor_of([wanted[axis] for axis in order])})


@REORDERINGS.register("QuantizeLinear", "DequantizeLinear")
def _quantize(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Move the axis of the scales, if there is one; block scales are not supported."""
    rank = facts.rank(node.inputs[1])
    if rank == 0 or facts.shape(node.inputs[1]) == (1,):
        return Reordering()
    if rank != 1 or facts.opset < _BY_AXIS or int_of(node, "block_size", facts.opset):
        return None
    return Reordering(attributes={"axis": new_axis(int_of(node, "axis", facts.opset), order)})


_BY_AXIS = 13


@REORDERINGS.register("Resize")
def _resize(node: ir.Node, order: Order, facts: Facts) -> Reordering | None:
    """Permute the scales or extents.

    onnxruntime interpolates along the last axes only and fails at run time for others, so the
    resized axes must remain last unless the mode is `nearest`.
    """
    if facts.opset < _RESIZE_SIZES or "axes" in node.attributes:
        return None
    if text_of(node, "coordinate_transformation_mode", facts.opset) == "tf_crop_and_resize":
        return None
    slot = 3 if len(node.inputs) > 3 and node.inputs[3] is not None else 2
    value = node.inputs[slot] if len(node.inputs) > slot else None
    if value is None or not facts.is_constant(value):
        return None
    numbers = read_tensor(facts.tensor(value)).reshape(-1)
    if len(numbers) != len(order):
        return None
    reordered = Reordering(constants={slot: ir.Tensor(np.ascontiguousarray(numbers[list(order)]))})
    if text_of(node, "mode", facts.opset) == "nearest":
        return reordered
    extents = facts.shape(node.inputs[0]) or (None,) * len(order)
    same = (1,) * len(order) if slot == 2 else extents
    resized = {new_axis(axis, order) for axis in range(len(order)) if numbers[axis] != same[axis]}
    return reordered if resized == set(range(len(order) - len(resized), len(order))) else None


_RESIZE_SIZES = 11  # from this opset on, extents are an input
