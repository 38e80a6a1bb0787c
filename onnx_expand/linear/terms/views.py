"""Views: nodes that change the axes of a tensor, but no element.

Transpose, Reshape, Flatten, Squeeze, Unsqueeze and DepthToSpace only change the position of each
element. A map that treats all positions alike may be moved past such a node, to the axis to which
its channels pass. If a Flatten combines channels and positions to features, maps per channel still
pass; if a DepthToSpace or a Reshape turns channels into positions or another axis, a map of the
remaining channels may be moved before it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_expand.graph.attributes import has_references, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.graph.products import are_zero_together, spelled
from onnx_expand.linear.terms.axis_maps import AxisMap, Extent, axis_map_of, left_over, quotient

__all__ = ["ViewOp", "find_view", "without_detours"]


@dataclass(frozen=True)
class ViewOp:
    """The effect of a node that changes the layout.

    Attributes:
        node: The node, for its op and attributes.
        source: The extents of its input.
        target: The extents of its output.
        perm: The axes of the input in their order in the output, None if the order is unchanged.
        axes: The channel axis in input and output, None while unknown.
        channels: The numbers of input and output channels.
        wanted: The operand of a Reshape as it is spelled, if known.
        gone: The axes that a Squeeze removes or an Unsqueeze inserts, if known.
        blocks: How the channels of a DepthToSpace pass; None for other nodes.
    """

    node: ir.Node
    source: tuple[Extent, ...]
    target: tuple[Extent, ...]
    perm: tuple[int, ...] | None = None
    axes: tuple[int, int] | None = None
    channels: tuple[int, int] = (1, 1)
    wanted: tuple[Extent, ...] | None = None
    gone: tuple[int, ...] | None = None
    blocks: AxisMap | None = None

    @property
    def keeps_order(self) -> bool:
        """Whether the elements keep their order and only extents change."""
        return self.perm is None and self.blocks is None

    @property
    def changes_nothing(self) -> bool:
        """Whether the output has the layout of the input."""
        if self.blocks is not None:
            return self.blocks.is_plain
        if self.perm is not None:
            return self.perm == tuple(range(len(self.perm)))
        return self.source == self.target

    @property
    def moves(self) -> bool:
        """Whether elements move in memory."""
        if self.perm is None:
            return False
        longer = [axis for axis in self.perm if self.source[axis] != 1]
        return longer != sorted(longer)

    def on(self, axis: int, channels: int) -> ViewOp:
        """Return the view for channels on an axis of its input, if they pass."""
        if self.axes is not None:
            return self
        axis_map = self.forward(axis)
        if axis_map is None or (axis_map.gathers and channels % (axis_map.repeat * axis_map.tile)):
            return self
        return replace(
            self, axes=(axis, axis_map.axis), channels=(channels, axis_map.after(channels))
        )

    def onto(self, axis: int, channels: int) -> ViewOp | None:
        """Return the view for channels on an axis of its output, if they come from one axis."""
        source = self.backward(axis)
        if source is None:
            return None
        before = channels * source.repeat * source.tile
        return replace(self, axes=(source.axis, axis), channels=(before, channels))

    @functools.cached_property
    def axis_map(self) -> AxisMap | None:
        """How the channels pass, if their axes are known."""
        if self.axes is None:
            return None
        first, last = self.axes
        for found in (self.forward(first), self._gathering(last)):
            fits = found is not None and found.axis == last
            if found is not None and fits and found.after(self.channels[0]) == self.channels[1]:
                return found
        return None

    def _gathering(self, axis: int) -> AxisMap | None:
        source = self.backward(axis)
        assert self.axes is not None
        if source is None or source.axis != self.axes[0]:
            return None
        return replace(source, axis=axis)

    def forward(self, axis: int) -> AxisMap | None:
        """Return how the channels pass on an axis of the input; None if they mix."""
        axis = axis if axis >= 0 else axis + len(self.source)
        if self.perm is not None:
            return AxisMap(self.perm.index(axis)) if axis < len(self.perm) else None
        if self.blocks is not None:
            return self.blocks if axis == 1 else None
        return axis_map_of(self.source, self.target, axis, self._moved(axis, "Unsqueeze"))

    def backward(self, axis: int) -> AxisMap | None:
        """Return the input axis from which all channels on an axis of the output come, if any."""
        axis = axis if axis >= 0 else axis + len(self.target)
        if self.perm is not None:
            return AxisMap(self.perm[axis]) if axis < len(self.perm) else None
        if self.blocks is not None:
            return self.blocks if axis == 1 else None
        axis_map = axis_map_of(self.target, self.source, axis, self._moved(axis, "Squeeze"))
        return None if axis_map is None else replace(axis_map, gathers=not axis_map.is_plain)

    def _moved(self, axis: int, growing: str) -> int:
        """Return where the node's attributes move an axis, whatever its extent.

        `growing` is the op that has more axes on the other side.
        """
        if self.gone is None:
            return axis
        if self.node.op_type != growing:
            return axis - sum(other < axis for other in self.gone)
        kept = set(range(axis + len(self.gone) + 1)) - set(self.gone)
        return sorted(kept)[axis]

    def holds(self, channels: int) -> bool:
        """Return whether another number of channels passes the node."""
        if self.axes is None or channels == self.source[self.axes[0]] or self.perm is not None:
            return True
        axis_map = self.axis_map
        if axis_map is None or self.blocks is not None:
            return axis_map is not None
        source, target = list(self.source), list(self.target)
        source[self.axes[0]] = channels
        target[self.axes[1]] = axis_map.after(channels)
        op = replace(self, source=tuple(source), target=tuple(target))
        return op.fits_node or (self.node.op_type == "Reshape" and op.spelled() is not None)

    @property
    def fits_node(self) -> bool:
        """Whether the unchanged node maps the source extents to the target."""
        op_type, source = self.node.op_type, self.source
        if op_type == "Reshape":
            return _reshaped(self.node, source, self.wanted) == self.target
        if op_type == "Flatten":
            at = int_of(self.node, "axis") % (len(source) + 1)
            sides = source[:at], source[at:]
            pairs = zip(map(_product, sides), self.target, strict=True)
            return all(e == t if isinstance(t, int) else e is None for e, t in pairs)
        if self.gone is None:
            return False
        if op_type == "Squeeze":
            fits = all(source[i] == 1 for i in self.gone)
            return fits and _without(source, self.gone) == self.target
        return _without(self.target, self.gone) == source

    def spelled(self) -> tuple[int, ...] | None:
        """Return the Reshape operand that maps the source to the target; None if there is none."""
        copied = () if int_of(self.node, "allowzero") else self.source
        return spelled(self.target, copied, self.wanted)

    def undoes(self, other: ViewOp) -> bool:
        """Return whether this view undoes an earlier one."""
        if self.perm is not None and other.perm is not None:
            both = tuple(other.perm[axis] for axis in self.perm)
            return both == tuple(range(len(both)))
        if not self.keeps_order or not other.keeps_order:
            return False
        if len(other.target) != len(self.source):
            return False
        # The steps between keep the extents, even if their symbols differ on the two sides.
        pairs = zip(self.source, other.target, strict=True)
        same = {mine: its for mine, its in pairs if not isinstance(mine, int)}
        ends = list(other.source), [same.get(extent, extent) for extent in self.target]
        if other.axes is not None and self.axes is not None:
            # The number of channels may have changed, equally on both sides.
            for extents, axis in zip(ends, (other.axes[0], self.axes[1]), strict=True):
                extents[axis] = "channels"
        return ends[0] == ends[1]


def find_view(node: ir.Node, facts: Facts) -> ViewOp | None:
    """Return the view that a node is, if its input is not constant."""
    if not node.inputs or node.inputs[0] is None or Trait.VIEW not in op_of(node).traits:
        return None
    if has_references(node):
        return None  # its axes are passed by the callers of its function
    x, y = node.inputs[0], node.outputs[0]
    dtype = facts.dtype(y) or facts.dtype(x)
    source = facts.extents(x)
    if dtype is None or not dtype.is_floating_point() or source is None or facts.is_constant(y):
        return None
    if node.op_type == "Transpose":
        perm = ints_of(node, "perm") or tuple(range(len(source)))[::-1]
        if sorted(perm) != list(range(len(source))):
            return None
        return ViewOp(node, source, tuple(source[axis] for axis in perm), perm)
    if node.op_type == "DepthToSpace":
        return _depth_to_space(node, source, facts)
    reads = node.op_type == "Reshape" and len(node.inputs) > 1  # an attribute before opset 5
    wanted = facts.extents_in(node.inputs[1]) if reads else None
    gone = _gone(node, len(source), facts) if node.op_type in _RANK_CHANGING else None
    target = _target(node, source, wanted, gone)
    target = facts.extents(y) if target is None else target
    return None if target is None else ViewOp(node, source, target, wanted=wanted, gone=gone)


def _depth_to_space(node: ir.Node, source: tuple[Extent, ...], facts: Facts) -> ViewOp | None:
    """Return the view of a DepthToSpace, which turns b^2 channels into b x b positions.

    Position (i, j) of channel c, of n, is channel `(i b + j) n + c` of the input, or in the mode
    CRD channel `c b^2 + i b + j`.
    """
    block, after = int_of(node, "blocksize", facts.opset), facts.extents(node.outputs[0])
    channels = source[1] if len(source) == 4 else None
    if not isinstance(channels, int) or after is None or len(after) != 4 or block < 1:
        return None
    if channels < 1 or channels % block**2:
        return None  # no runtime would run it
    columns = facts.opset >= 11 and text_of(node, "mode", facts.opset) == "CRD"
    repeat, tile = (block**2, 1) if columns else (1, block**2)
    target = (source[0], channels // block**2, *after[2:])
    return ViewOp(node, source, target, blocks=AxisMap(1, repeat, tile, gathers=block > 1))


_RANK_CHANGING = {"Squeeze", "Unsqueeze"}


def _target(
    node: ir.Node,
    source: Sequence[Extent],
    wanted: Sequence[Extent] | None,
    gone: Sequence[int] | None,
) -> tuple[Extent, ...] | None:
    """Return the output extents of a node, with the symbols of its input."""
    if node.op_type == "Reshape":
        return _reshaped(node, source, wanted)
    if gone is None:
        return None
    if node.op_type == "Squeeze":
        return _without(source, gone)
    kept = iter(source)
    return tuple(1 if i in gone else next(kept) for i in range(len(source) + len(gone)))


def _gone(node: ir.Node, rank: int, facts: Facts) -> tuple[int, ...] | None:
    """Return the axes that a node removes or inserts, in order; None if unknown."""
    chosen = facts.extents_in(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = ints_of(node, "axes") if chosen is None else chosen
    numbers = [axis for axis in axes if isinstance(axis, int)]
    if not numbers or len(numbers) != len(axes):
        return None
    rank += len(numbers) if node.op_type == "Unsqueeze" else 0
    found = {axis % rank for axis in numbers}
    return tuple(sorted(found)) if len(found) == len(numbers) else None  # an axis is repeated


def _product(extents: Sequence[Extent]) -> int | None:
    """Return the product of some extents; None if one is not static."""
    known = [extent for extent in extents if isinstance(extent, int)]
    return math.prod(known) if len(known) == len(extents) else None


def _without(extents: Sequence[Extent], axes: Sequence[int]) -> tuple[Extent, ...]:
    return tuple(extent for i, extent in enumerate(extents) if i not in axes)


def _reshaped(
    node: ir.Node, source: Sequence[Extent], wanted: Sequence[Extent] | None
) -> tuple[Extent, ...] | None:
    """Return the output extents of a Reshape; None if its operand is unknown."""
    if wanted is None:
        return None
    target = list(wanted)
    if not int_of(node, "allowzero"):
        copied = [i for i, extent in enumerate(target) if extent == 0]
        if copied and copied[-1] >= len(source):
            return None
        for i in copied:
            target[i] = source[i]
    if any(isinstance(extent, int) and extent < -1 for extent in target):
        return None  # no runtime would run it
    if -1 in target:
        at = target.index(-1)
        others = [*target[:at], *target[at + 1 :]]
        rest = None
        if are_zero_together(source, wanted):
            rest = quotient(source, others) or left_over(source, others)
        target[at] = (node, at) if rest is None else rest
    return tuple(target)


def without_detours(ops: Sequence[ViewOp]) -> list[ViewOp]:
    """Return consecutive views without those that undo each other."""
    left: list[ViewOp] = []
    for view in ops:
        if left and view.undoes(left[-1]):
            left.pop()
        else:
            left.append(view)
    return left
