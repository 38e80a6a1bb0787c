"""Bounds of integer inputs, from what reads them."""

from __future__ import annotations

import onnx_ir as ir

from onnx_expand.attributes import int_of
from onnx_expand.values import Facts

__all__ = ["integer_bounds"]

# Ops that hand integers on as they are.
_SAME = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
}


def integer_bounds(model: ir.Model) -> dict[str, int]:
    """For each integer input of a model what its numbers have to be below.

    Gather, GatherElements, GatherND and OneHot imply a bound; where several do, the least counts.
    Inputs that nothing bounds are left out.
    """
    if all(
        value.dtype is not None and not value.dtype.is_integer() for value in model.graph.inputs
    ):
        return {}
    facts = Facts(model)
    found = {}
    for value in model.graph.inputs:
        dtype = facts.dtype(value)
        if dtype is None or not dtype.is_integer():
            continue
        bounds = _bounds(value, facts)
        if bounds:
            found[value.name or ""] = max(1, min(bounds))
    return found


def _bounds(value: ir.Value, facts: Facts) -> list[int]:
    found: list[int] = []
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for node, index in current.uses():
            bound = _bound(node, index, facts)
            if bound is not None:
                found.append(bound)
            elif node.op_type in _SAME and node.domain == "" and index == 0:
                new = [out for out in node.outputs if out not in seen]
                seen.update(new)
                pending += new
    return found


def _bound(node: ir.Node, index: int, facts: Facts) -> int | None:
    """What a node that reads a value at an input wants it to be below."""
    if node.domain or index != {"OneHot": 0}.get(node.op_type, 1):
        return None
    if node.op_type == "OneHot":
        depth = node.inputs[1]
        known = depth is not None and facts.is_constant(depth)
        return int(facts.tensor(depth).numpy().reshape(-1)[0]) if known and depth else None
    shape = facts.shape(node.inputs[0])
    if shape is None or not shape:
        return None
    if node.op_type in {"Gather", "GatherElements"}:
        return shape[int_of(node, "axis", facts.opset) % len(shape)]
    if node.op_type == "GatherND":
        known_extents = [extent for extent in shape if extent is not None]
        return min(known_extents, default=None)
    return None
