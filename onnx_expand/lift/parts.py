"""Lift Split and SplitToSequence, with one map for each part of the axis."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of, ints_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.lift.base import LARGEST, Linear, input_of
from onnx_expand.lift.spatial import integers_of, selection

__all__ = ["lift_parts"]


def lift_parts(node: ir.Node, facts: Facts) -> list[Linear]:
    """Return the maps of a node that splits an axis, one for each part.

    The node is a Split, or a SequenceAt that selects one part of a SplitToSequence.
    """
    sequence = node.inputs[0] if node.op_type == "SequenceAt" and node.inputs else None
    split = node if sequence is None else sequence.producer()
    if split is None or node.domain or Trait.CUTS not in op_of(split).traits:
        return []
    x = split.inputs[0]
    shape = facts.shape(x)
    if x is None or not shape:
        return []
    axis = int_of(split, "axis", facts.opset) % len(shape)
    size = shape[axis]
    if size is None or size > LARGEST:
        return []
    sizes = _sizes(split, size, facts)
    if sum(sizes) != size or min(sizes, default=0) < 1:
        return []
    starts = [0, *(int(end) for end in np.cumsum(sizes))]
    parts = [
        replace(selection(node, np.arange(a, b), size, axis), is_part=True)
        for a, b in itertools.pairwise(starts)
    ]
    if split is node:
        if len(parts) != len(node.outputs):
            return []
        named = ((i, part) for i, part in enumerate(parts) if node.outputs[i].name)
        return [replace(part, output=i) for i, part in named]
    place = node.inputs[1]
    if place is None or not facts.is_constant(place) or not int_of(split, "keepdims", facts.opset):
        return []
    (i,) = integers_of(facts, place)
    return [replace(parts[i], entry=split)] if -len(parts) <= i < len(parts) else []


def _sizes(split: ir.Node, channels: int, facts: Facts) -> tuple[int, ...]:
    """Return the number of channels of each part; empty if not known."""
    given = input_of(split, 1, optional=True) if len(split.inputs) > 1 else None
    step = 1
    if given is not None:
        if not facts.is_constant(given):
            return ()
        sizes = integers_of(facts, given)
        if facts.dims(given):
            return sizes
        step = sizes[0]
    elif split.op_type == "Split":
        if ints_of(split, "split"):
            return ints_of(split, "split")
        count = int_of(split, "num_outputs", facts.opset, len(split.outputs))
        step = -(-channels // count) if count > 0 else 0
    if step < 1:
        return ()
    return tuple(min(step, channels - at) for at in range(0, channels, step))
