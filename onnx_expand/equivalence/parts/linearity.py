"""Determine which parts of a model are affine, and which of their axes may have any extent.

A value is *moving* if it depends on the inputs of the part. A part is affine if no node multiplies
two moving values, and nodes only move, add, scale or contract moving values with constants.
Extents are not moving: the input sizes determine them.

A part is a *window* if each output element reads a window of the spatial axes, the same for all
samples of a batch. It works on *rows* if all axes except the last are treated alike. Such parts
compute the same function at any extents of these axes that exceed their borders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_expand.equivalence.parts.magnitude import is_float, products
from onnx_expand.graph.attributes import flag_of, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.upstream import upstream

__all__ = ["Dependence", "dependences", "work"]

_MOVING = {
    *("Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad"),
    *("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
_ADDING = {"Add", "Sub", "Sum", "Mean", "Neg", "Cast"}
_WEIGHING = {"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Resize"}
_PRODUCTS = {"Mul", "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"}
# Operands that parameterize the op: if one is moving, the op is not affine.
_SETTINGS = {
    **dict.fromkeys(("Gather", "Reshape", "Expand", "Tile", "Slice", "Split", "Squeeze"), 1),
    **dict.fromkeys(("Unsqueeze", "Pad", "Dropout", "Resize", "ReduceMean", "ReduceSum"), 1),
    **dict.fromkeys(("Div", "BatchNormalization"), 1),
}
_ELEMENTWISE = {"Add", "Sub", "Sum", "Mean", "Neg", "Mul", "Div", "Identity", "Cast", "Dropout"}
_EXTENTS = {"Shape", "Size"}


@dataclass(frozen=True)
class Dependence:
    """How a value depends on the inputs of its part.

    Attributes:
        moves: Whether it depends on them.
        obstacle: Why it is not affine, empty if it is.
        window: Whether an element reads a window of the spatial axes of one sample.
        rows: Whether an element reads one row, the values along the last axis.
        reach: The extent of the window along the spatial axis where it is largest.
        stride: The stride between windows.
    """

    moves: bool = False
    obstacle: str = ""
    window: bool = True
    rows: bool = True
    reach: int = 1
    stride: int = 1


def dependences(model: ir.Model, facts: Facts) -> dict[str, Dependence]:
    """Return the dependence of each output of a model of parts.

    Args:
        model: Parts side by side, each with its own inputs and output.
        facts: The facts of this model.
    """
    known: dict[ir.Value, Dependence] = {
        value: Dependence(moves=is_float(value, facts)) for value in model.graph.inputs
    }
    for node in model.graph:
        so_far = _after(node, facts, known)
        known.update(dict.fromkeys(node.outputs, so_far))
    return {out.name or "": known.get(out, Dependence()) for out in model.graph.outputs}


def work(model: ir.Model, facts: Facts) -> dict[str, int]:
    """Return the number of multiply-adds that each output of a model of parts takes."""
    found = {}
    for out in model.graph.outputs:
        total = 0
        for node in {n for value in upstream(out) if (n := value.producer()) is not None}:
            dims = facts.shape(node.outputs[0]) or ()
            total += math.prod(extent or 1 for extent in dims) * (products(node, facts) or 1)
        found[out.name or ""] = total
    return found


def _after(node: ir.Node, facts: Facts, known: Mapping[ir.Value, Dependence]) -> Dependence:
    places = {
        place: known[value]
        for place, value in enumerate(node.inputs)
        if value is not None and value in known and known[value].moves
    }
    if not places or (node.op_type in _EXTENTS and not node.domain):
        return Dependence()
    before = list(places.values())
    so_far = Dependence(
        True,
        next((so_far.obstacle for so_far in before if so_far.obstacle), ""),
        all(so_far.window for so_far in before),
        all(so_far.rows for so_far in before),
        max(so_far.reach for so_far in before),
        max(so_far.stride for so_far in before),
    )
    if so_far.obstacle:
        return so_far
    if not _is_affine(node, places):
        name = node.name or node.outputs[0].name
        return replace(so_far, obstacle=f"{node.op_type} '{name}' is not linear")
    fixed = [
        value
        for place, value in enumerate(node.inputs)
        if value is not None and place not in places
    ]
    so_far = replace(so_far, rows=so_far.rows and _keeps_rows(node, fixed, places, facts))
    return _windowed(node, fixed, so_far, facts)


def _is_affine(node: ir.Node, places: Mapping[int, Dependence]) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    settings = _SETTINGS.get(node.op_type)
    if settings is not None and any(place >= settings for place in places):
        return False
    if node.op_type in _PRODUCTS:
        # A third operand, the bias, is added, not multiplied.
        factors = node.op_type in {"Mul", "MatMul", "Einsum"}
        return sum(factors or place < 2 for place in places) <= 1
    return node.op_type in _SETTINGS or node.op_type in _MOVING | _ADDING | _WEIGHING


def _keeps_rows(
    node: ir.Node, fixed: Sequence[ir.Value], places: Mapping[int, Dependence], facts: Facts
) -> bool:
    if node.op_type in _ELEMENTWISE:
        return all(_only(value, facts, lambda axis, rank: axis == rank - 1) for value in fixed)
    if node.op_type == "MatMul":
        return list(places) == [0] and facts.rank(node.inputs[1]) == 2
    if node.op_type == "Gemm":
        bias = fixed[1:] if len(node.inputs) > 2 else []
        plain = not flag_of(node, "transA")
        alike = all(_only(value, facts, lambda axis, rank: axis == rank - 1) for value in bias)
        return plain and list(places) == [0] and alike
    return _along(node, facts, last=True)


def _windowed(
    node: ir.Node, fixed: Sequence[ir.Value], so_far: Dependence, facts: Facts
) -> Dependence:
    if not so_far.window:
        return so_far
    if node.op_type in {"Conv", "ConvTranspose", "AveragePool"}:
        return _slid(node, so_far, facts)
    if node.op_type == "BatchNormalization" or node.op_type in _ELEMENTWISE:
        across = node.op_type == "BatchNormalization"
        rank = facts.rank(node.outputs[0])
        alike = across or all(_per_channel(value, rank, facts) for value in fixed)
        return replace(so_far, window=alike)
    if node.op_type == "Pad":
        return replace(so_far, window=_pads_space(node, facts))
    return replace(so_far, window=_along(node, facts, last=False))


def _slid(node: ir.Node, so_far: Dependence, facts: Facts) -> Dependence:
    weight = facts.shape(node.inputs[1]) if node.op_type != "AveragePool" else None
    kernel = ints_of(node, "kernel_shape")
    sizes = [extent or 1 for extent in weight[2:]] if weight else list(kernel)
    holes = ints_of(node, "dilations") or (1,) * len(sizes)
    steps = ints_of(node, "strides") or (1,)
    if not sizes or int_of(node, "ceil_mode") or "output_shape" in node.attributes:
        return replace(so_far, window=False)
    span = max((size - 1) * hole for size, hole in zip(sizes, holes, strict=True))
    if node.op_type == "ConvTranspose":
        return replace(so_far, reach=so_far.reach + -(-span // min(steps)) * so_far.stride)
    return replace(
        so_far, reach=so_far.reach + span * so_far.stride, stride=so_far.stride * max(steps)
    )


def _only(value: ir.Value, facts: Facts, allowed: Callable[[int, int], bool]) -> bool:
    """Return whether a value is constant, with extent one on all axes except the allowed ones."""
    dims = facts.shape(value)
    return (
        dims is not None
        and facts.is_constant(value)
        and all(extent == 1 or allowed(axis, len(dims)) for axis, extent in enumerate(dims))
    )


def _per_channel(value: ir.Value, rank: int | None, facts: Facts) -> bool:
    return rank is not None and _only(value, facts, lambda axis, own: axis == own - rank + 1)


def _pads_space(node: ir.Node, facts: Facts) -> bool:
    if text_of(node, "mode") != "constant" or len(node.inputs) > 3:
        return False
    widths = node.inputs[1] if len(node.inputs) > 1 else None
    if widths is not None:
        if not facts.is_constant(widths):
            return False
        pads = [int(width) for width in facts.tensor(widths).numpy().reshape(-1)]
    else:
        pads = list(ints_of(node, "pads"))
    return bool(pads) and pads[0] == pads[len(pads) // 2] == 0


def _along(node: ir.Node, facts: Facts, *, last: bool) -> bool:
    """Return whether a node only cuts or joins along the channels, or along the last axis."""
    rank = facts.rank(node.outputs[0])
    if node.op_type not in {"Concat", "Split", "Gather", "Slice"} or rank is None:
        return False
    wanted = rank - 1 if last else 1
    axes = [int_of(node, "axis")]
    if node.op_type == "Gather" and facts.rank(node.inputs[1]) != 1:
        return False
    if node.op_type == "Slice":
        given = node.inputs[3] if len(node.inputs) > 3 else None
        if given is None or not facts.is_constant(given):
            return False
        axes = [int(axis) for axis in facts.tensor(given).numpy().reshape(-1)]
    return all(axis % rank == wanted for axis in axes)
