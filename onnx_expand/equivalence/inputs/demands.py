"""Derive the meaning of integer inputs from their consumers.

An index into a table must be one of its rows; an iteration count must not be a million. The
consumers of an input determine this, also through nodes that only move or shift its values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.inputs.demand import LENGTHS, Demand, Dims, Meaning
from onnx_expand.equivalence.inputs.readers import demand_at
from onnx_expand.equivalence.parts.cells import inlined
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.shapes import Dim
from onnx_expand.graph.tensors import read_tensor

__all__ = ["demands_of"]

# Ops that pass integers on unchanged.
_SAME = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze", "Tile", "Where"),
}
_FEW = 9
_SHAPES = {
    *(("ConstantOfShape", 0), ("Reshape", 1), ("Expand", 1), ("Tile", 1), ("Resize", 3)),
    *(("Range", 0), ("Range", 1), ("Range", 2), ("Pad", 1), ("Loop", 0), ("TopK", 1)),
    *(("OneHot", 1), ("Split", 1), ("CenterCropPad", 1), ("Upsample", 1), ("Resize", 2)),
    *(("AffineGrid", 1), ("HannWindow", 0), ("HammingWindow", 0), ("BlackmanWindow", 0)),
}

_REAL = {Meaning.COUNT, Meaning.FACTORS, Meaning.SHARE}
"""The meanings that floating-point values may have."""


def demands_of(model: ir.Model) -> dict[str, Demand]:
    """Return the demands on the inputs of a model by name; inputs without one are left out.

    These are demands on integers, and on the few floating-point values that are sizes.
    """
    model = inlined(model)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    facts = Facts(model)
    found = {}
    for value in inputs:
        dtype = facts.dtype(value)
        if dtype is None or not (dtype.is_integer() or _is_short(facts.named_shape(value))):
            continue
        demand = _demand(value, facts)
        if demand is None and _makes_shapes(value, facts):
            demand = Demand(Meaning.COUNT, 0, LENGTHS)
        if not dtype.is_integer() and demand is not None:
            demand = demand if demand.meaning in _REAL else None
        if demand is not None:
            found[value.name or ""] = demand
    return found


def _is_short(dims: Dims) -> bool:
    """Return whether a value has so few elements that they may be sizes."""
    return dims is not None and (not dims or (len(dims) == 1 and dims[0] in range(_FEW)))


def _makes_shapes(value: ir.Value, facts: Facts) -> bool:
    """Return whether extents are computed from a value, by any arithmetic.

    Shapes of arbitrary values would exhaust memory.
    """
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for node, index in current.uses():
            if (node.op_type, index) in _SHAPES and node.domain in {"", "ai.onnx"}:
                return True
            for out in node.outputs:
                dtype = facts.dtype(out)
                is_small = dtype is not None and (
                    dtype.is_integer() or _is_short(facts.named_shape(out))
                )
                if is_small and out not in seen:
                    seen.add(out)
                    pending.append(out)
    return False


@dataclass(frozen=True)
class _Number:
    """A value that equals `factor * x + offset` for an input x, with bounds on the offset."""

    value: ir.Value
    factor: int = 1
    low: int = 0
    high: int = 0


def _demand(value: ir.Value, facts: Facts) -> Demand | None:
    """Combine the demands of all consumers of an input."""
    found = []
    pending, seen = [_Number(value)], {value}
    while pending:
        number = pending.pop()
        for node, index in number.value.uses():
            said = demand_at(node, index, number.value, facts)
            if said is not None:
                found.append(_before(said, number))
                continue
            after = _after(node, index, number, facts)
            if after is None:
                continue
            new = [out for out in node.outputs if out not in seen]
            seen.update(new)
            pending += [replace(after, value=out) for out in new]
    if "mask" in (value.name or "").lower() and not found:
        return Demand(Meaning.MASK, 0, 1)
    return _joined(found)


def _joined(found: list[Demand]) -> Demand | None:
    if not found:
        return None
    # The most restrictive meaning is the one to draw by.
    order = list(Meaning)
    first = max(found, key=lambda demand: order.index(demand.meaning))
    lows = [demand.low for demand in found if demand.low is not None]
    highs = [demand.high for demand in found if isinstance(demand.high, int)]
    names = [demand.high for demand in found if isinstance(demand.high, str)]
    high: Dim = min(highs) if highs else (names[0] if names else None)
    return replace(first, low=max(lows, default=None), high=high)


def _before(said: Demand, number: _Number) -> Demand:
    """Convert a demand on `factor * x + offset` to one on x."""
    if (number.factor, number.low, number.high) == (1, 0, 0) or isinstance(said.high, str):
        return said
    low = None if said.low is None else said.low - number.low
    high = None if said.high is None else said.high - number.high
    if number.factor < 0:
        low, high = high, low
    divided = [None if b is None else b / number.factor for b in (low, high)]
    low = None if divided[0] is None else int(np.ceil(divided[0]))
    high = None if divided[1] is None else int(np.floor(divided[1]))
    if low is not None and high is not None and low > high:
        return Demand()
    return replace(said, low=low, high=high)


def _after(node: ir.Node, index: int, number: _Number, facts: Facts) -> _Number | None:
    """Return a node's output as `factor * x + offset`, or None if it has no such form."""
    op = node.op_type
    if op in _SAME and (index == 0 or op in {"Concat", "Where"}):
        dtype = facts.dtype(node.outputs[0]) if op == "Cast" else None
        keeps = op != "Cast" or (dtype is not None and dtype.is_integer())
        return number if keeps and (op != "Where" or index) else None
    if op not in {"Add", "Mul", "Sub"} or len(node.inputs) != 2:
        return None
    other = node.inputs[1 - index]
    if other is None or not facts.is_constant(other):
        return None
    array = read_tensor(facts.tensor(other))
    if array.dtype.kind not in "iu" or not array.size:
        return None
    low, high = int(array.min()), int(array.max())
    if max(abs(low), abs(high)) > 1 << 40:
        return None
    if op == "Mul":
        if low != high or not low:
            return None
        ends = sorted((number.low * low, number.high * low))
        return _Number(number.value, number.factor * low, *ends)
    if op == "Add":
        return replace(number, low=number.low + low, high=number.high + high)
    if index == 0:
        return replace(number, low=number.low - high, high=number.high - low)
    return _Number(number.value, -number.factor, low - number.high, high - number.low)
