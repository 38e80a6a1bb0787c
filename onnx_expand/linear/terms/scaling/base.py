"""The record of how factors pass a node, and functions for its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.graph.attributes import has_references
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Handlers, Trait, ops_with
from onnx_expand.linear.terms.axis_maps import Extent

__all__ = [
    "SCALING",
    "Channels",
    "Part",
    "Scaling",
    "broadcast_axes",
    "computed_slots",
    "elementwise",
    "is_of_maps",
    "kept",
    "rank_of",
    "same_extent",
    "scaling_of",
]

Channels = Mapping[int, int]
"""Maps axes of an input to the axes of the output with the same channels."""


@dataclass(frozen=True)
class Part:
    """The places of one axis that a node copies.

    Attributes:
        axis: The axis of the input.
        places: The copied places.
        size: The extent of the axis.
    """

    axis: int
    places: frozenset[int]
    size: int


@dataclass(frozen=True)
class Scaling:
    """How factors of its inputs pass a node.

    Attributes:
        degrees: The degree by the index of an input; inputs that no factor passes have none.
        positive: Whether only nonnegative factors pass.
        joint: Whether all these inputs must have the same factor.
        gain: The factor of a shift: `f(x + t) = f(x) + gain t`; None if there is no such law.
        channels: By the index of an input, the output axis of each input axis whose elements are
        not mixed.
        part: The part of the input that it copies, if it copies only a part.
    """

    degrees: Mapping[int, int]
    positive: bool = False
    joint: bool = False
    gain: float | None = None
    channels: Mapping[int, Channels] = field(default_factory=dict)
    part: Part | None = None


Describe = Callable[[ir.Node, Facts], "Scaling | None"]
SCALING = Handlers[Describe]("which factors pass?")
"""By op type a function that returns how factors pass a node; None if they do not."""


def scaling_of(node: ir.Node, facts: Facts) -> Scaling | None:
    """Return how factors of floating-point values pass a node; None if they do not."""
    describe = SCALING.get(node.op_type) if node.domain == "" else None
    if describe is None or not node.inputs or not node.outputs:
        return None
    if has_references(node):
        return None  # it depends on the callers of its function
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return None
    if any(value is not None and facts.dtype(value) is None for value in node.inputs):
        return None
    if not is_of_maps(node.outputs[0], facts) or facts.is_constant(node.outputs[0]):
        return None
    scaling = describe(node, facts)
    if scaling is None:
        return None
    passing = [node.inputs[slot] for slot in scaling.degrees]
    if any(value is None or not is_of_maps(value, facts) for value in passing):
        return None
    return scaling


def elementwise(node: ir.Node, facts: Facts) -> Scaling | None:
    """Return the record of an elementwise function, which permutations pass, but no factor."""
    if node.op_type not in _SINGLE or node.domain or len(node.outputs) != 1:
        return None
    if has_references(node):
        return None  # it depends on the callers of its function
    x, y = node.inputs[0], node.outputs[0]
    if x is None or facts.is_constant(x) or facts.is_constant(y) or not is_of_maps(x, facts):
        return None
    bounds = [value for value in node.inputs[1:] if value is not None]
    if not all(facts.is_constant(value) and facts.dims(value) in {(), (1,)} for value in bounds):
        return None
    return Scaling({}, channels={0: kept(x, facts)})


_SINGLE = ops_with(Trait.ELEMENTWISE | Trait.KEEPS_RANK) - {"PRelu"}


def is_of_maps(value: ir.Value, facts: Facts) -> bool:
    """Return whether a value has a type that linear maps process (float of 16 bits or more)."""
    dtype = facts.dtype(value)
    return dtype is not None and dtype.is_floating_point() and dtype.bitwidth >= 16


# -- Operands ----------------------------------------------------------------------------------


def rank_of(value: ir.Value | None, facts: Facts) -> int:
    """Return the rank; 0 if it is unknown, so that no axis is followed."""
    return facts.rank(value) or 0


def kept(value: ir.Value | None, facts: Facts, axes: Sequence[int] = ()) -> Channels:
    """Map each axis of a value to itself, with exceptions."""
    return {axis: axis for axis in range(rank_of(value, facts)) if axis not in axes}


def same_extent(a: Extent, b: Extent) -> bool:
    """Return whether two extents are static and equal, and not broadcast."""
    return isinstance(a, int) and a == b and a > 0


def broadcast_axes(node: ir.Node, slot: int, facts: Facts, spared: int = 0) -> Channels:
    """Map the axes of an operand to those of a broadcast result, aligned from the back.

    The last `spared` axes are not broadcast.
    """
    own, out = facts.extents(node.inputs[slot]), facts.extents(node.outputs[0])
    if own is None or out is None or len(own) > len(out):
        return {}
    more = len(out) - len(own)
    axes = range(len(own) - spared)
    return {axis: axis + more for axis in axes if same_extent(own[axis], out[axis + more])}


def computed_slots(node: ir.Node, facts: Facts) -> list[int]:
    """Return the inputs that are not constant."""
    return [i for i, v in enumerate(node.inputs) if v is not None and not facts.is_constant(v)]
