"""Nodes that have a number for each axis, or work along one: turned, the numbers change places."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.layout.turns import TURNS, Order, Turn, at, integers, stays, tensor_of

__all__: list[str] = []


@TURNS.register("ArgMax", "ArgMin")
def _arg(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """An index along an axis; without that axis the others have to be in order as they were."""
    axis = int_of(node, "axis", facts.opset)
    kept = bool(int_of(node, "keepdims", facts.opset))
    if not kept and not stays(order, {axis % len(order)}):
        return None
    return Turn((0,), (0,) if kept else (), {"axis": at(axis, order)})


@TURNS.register("TopK")
def _top(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """The largest numbers along an axis, and where they are."""
    if facts.opset < _TOP_READS:
        return None
    return Turn((0,), (0, 1), {"axis": at(int_of(node, "axis", facts.opset), order)})


_TOP_READS = 10  # the operator set from which TopK reads how many it takes as an input


@TURNS.register("CumSum")
def _sums(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """Sums along the axis that an input names."""
    axis = integers(node, 1, facts)
    if axis is None or len(axis) != 1:
        return None
    return Turn(constants={1: ir.Tensor(np.array(at(axis[0], order), np.int64))})


@TURNS.register("Gather")
def _gather(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """A list of indices chooses along an axis; a single one takes the axis away."""
    axis, rank = int_of(node, "axis", facts.opset), facts.rank(node.inputs[1])
    if rank == 1:
        return Turn(attributes={"axis": at(axis, order)})
    if rank == 0 and stays(order, {axis % len(order)}):
        return Turn((0,), (), {"axis": at(axis, order)})
    return None


@TURNS.register("Tile")
def _tile(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """How often a value is put after itself on each axis."""
    repeats = integers(node, 1, facts)
    if repeats is None or len(repeats) != len(order):
        return None
    return Turn(constants={1: tensor_of([repeats[axis] for axis in order])})


@TURNS.register("Expand")
def _expand(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """The extents that a value is repeated to; axes that they do not name stay."""
    wanted = integers(node, 1, facts)
    if wanted is None or len(wanted) > len(order):
        return None
    wanted = [1] * (len(order) - len(wanted)) + wanted
    return Turn(constants={1: tensor_of([wanted[axis] for axis in order])})


@TURNS.register("QuantizeLinear", "DequantizeLinear")
def _quantize(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """One scale for all numbers, or one for each place on an axis; no scales of blocks."""
    rank = facts.rank(node.inputs[1])
    if rank == 0 or facts.shape(node.inputs[1]) == (1,):
        return Turn()
    if rank != 1 or facts.opset < _BY_AXIS or int_of(node, "block_size", facts.opset):
        return None
    return Turn(attributes={"axis": at(int_of(node, "axis", facts.opset), order)})


_BY_AXIS = 13


@TURNS.register("Resize")
def _resize(node: ir.Node, order: Order, facts: Facts) -> Turn | None:
    """Factors or extents by axis.

    onnxruntime interpolates along the last axes alone and refuses others when the model runs, so
    that those come last but where no numbers are mixed.
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
    turned = Turn(constants={slot: ir.Tensor(np.ascontiguousarray(numbers[list(order)]))})
    if text_of(node, "mode", facts.opset) == "nearest":
        return turned
    extents = facts.shape(node.inputs[0]) or (None,) * len(order)
    same = (1,) * len(order) if slot == 2 else extents
    resized = {at(axis, order) for axis in range(len(order)) if numbers[axis] != same[axis]}
    return turned if resized == set(range(len(order) - len(resized), len(order))) else None


_RESIZE_SIZES = 11  # the operator set from which Resize reads extents as an input
