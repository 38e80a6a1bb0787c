"""Lift Expand and Tile, which repeat channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.lift.base import LARGEST, Linear, input_of, lifts, refuse, refuse_unknown_rank
from onnx_expand.lift.spatial import integers_of


@lifts("Expand")
def _expand(node: ir.Node, facts: Facts) -> Linear | None:
    """Lift an Expand of one axis of extent 1: y = W x with a column of ones."""
    x, given = input_of(node, 0), input_of(node, 1)
    extents, wanted = facts.extents(x), facts.extents_in(given)
    if extents is None:
        refuse_unknown_rank(x)
    if wanted is None:
        message = f"'{given.name}', the shape that it expands to, is not known"
        raise RefusedError(Refusal(Reason.DYNAMIC, message))
    if len(wanted) > len(extents):
        refuse(f"Expand adds axes to '{x.name}'")
    wanted = (1,) * (len(extents) - len(wanted)) + tuple(wanted)
    pairs = enumerate(zip(extents, wanted, strict=True))
    grown = [(axis, size, want) for axis, (size, want) in pairs if want not in {1, size}]
    if len(grown) != 1:
        refuse(f"Expand repeats '{x.name}' along several axes")
    axis, size, want = grown[0]
    if size != 1 or not isinstance(want, int):
        message = f"the extent to which Expand repeats axis {axis} of '{x.name}' is not static"
        raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, message))
    return _repeated(node, axis, 1, want)


@lifts("Tile")
def _tile(node: ir.Node, facts: Facts) -> Linear | None:
    """Lift a Tile of one axis: channel t of the result is channel t mod m."""
    x = input_of(node, 0)
    shape = facts.shape(x)
    if facts.opset < 6:
        refuse("it is another op before opset 6")
    if shape is None:
        refuse_unknown_rank(x)
    repeats = integers_of(facts, input_of(node, 1))
    if len(repeats) != len(shape):
        refuse(f"it has {len(repeats)} repeats for {len(shape)} axes")
    grown = [axis for axis, count in enumerate(repeats) if count != 1]
    if len(grown) != 1:
        refuse(f"Tile repeats '{x.name}' along several axes")
    channels = shape[grown[0]]
    if channels is None:
        message = f"the extent of axis {grown[0]} of '{x.name}', which is tiled, is not static"
        raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, message))
    return _repeated(node, grown[0], channels, repeats[grown[0]])


def _repeated(node: ir.Node, axis: int, channels: int, count: int) -> Linear:
    """Return the map that repeats all channels of an axis `count` times."""
    if count < 1 or channels * channels * count > LARGEST:
        refuse(f"it repeats {channels} channels to {channels * count}")

    def load() -> AffineConv:
        return AffineConv(np.tile(np.eye(channels), (count, 1)))

    geometry = Geometry(channels, channels * count)
    return Linear(node, 0, geometry, (axis, axis), load, shift_only=channels == 1)
