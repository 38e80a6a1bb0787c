"""Views: nodes that lay the axes of a tensor out anew, and change no number.

Transpose, Reshape, Flatten, Squeeze and Unsqueeze only say anew where each number lies. A map that
treats all positions alike may come before or after such a node, on the axis to which its channels
go. Where a Flatten makes features of channels and positions, maps that treat each channel for
itself may still pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.attributes import int_of, ints_of
from onnx_expand.values import Facts

__all__ = ["VIEWS", "Extent", "Passage", "ViewOp", "find_view", "without_detours"]

Extent = Hashable
"""A number, or whatever stands for one extent that is not static."""

VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Op types that may be views."""


@dataclass(frozen=True)
class Passage:
    """Where the channels of an axis come out of a view.

    Channel t of the output is channel `t // repeat % channels` of the input.

    Attributes:
        axis: Their axis in the output.
        repeat: How many neighbours each channel becomes.
        tile: How many times over.
    """

    axis: int
    repeat: int = 1
    tile: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether the channels come out as they went in."""
        return self.repeat == self.tile == 1

    def spread(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers per channel of the input, [m], as numbers per channel of the output."""
        return np.tile(np.repeat(array, self.repeat), self.tile)


@dataclass(frozen=True)
class ViewOp:
    """What a node that changes the layout does to its input.

    Attributes:
        node: The node, for its op and attributes.
        source: The extents of its input.
        target: The extents of its output.
        perm: The axes of the input in their order in the output, None where the order stays.
        axes: The channel axis in input and output, None while it is not known.
        channels: Channels of the input, and of the output.
    """

    node: ir.Node
    source: tuple[Extent, ...]
    target: tuple[Extent, ...]
    perm: tuple[int, ...] | None = None
    axes: tuple[int, int] | None = None
    channels: tuple[int, int] = (1, 1)

    @property
    def changes_nothing(self) -> bool:
        """Whether the output is laid out like the input."""
        if self.perm is not None:
            return self.perm == tuple(range(len(self.perm)))
        return self.source == self.target

    def on(self, axis: int, channels: int) -> ViewOp:
        """The view for so many channels on an axis of its input, if it lets them pass."""
        if self.axes is not None:
            return self
        passage = self.forward(axis)
        if passage is None:
            return self
        after = channels * passage.repeat * passage.tile
        return replace(self, axes=(axis, passage.axis), channels=(channels, after))

    def forward(self, axis: int) -> Passage | None:
        """Where the channels on an axis of the input come out; None if they are mixed up."""
        axis = axis if axis >= 0 else axis + len(self.source)
        if self.perm is not None:
            return Passage(self.perm.index(axis)) if axis < len(self.perm) else None
        return _passage(self.source, self.target, axis)

    def backward(self, axis: int) -> int | None:
        """The axis of the input whose channels come out on an axis as they are, if any."""
        axis = axis if axis >= 0 else axis + len(self.target)
        if self.perm is not None:
            return self.perm[axis] if axis < len(self.perm) else None
        passage = _passage(self.target, self.source, axis)
        return passage.axis if passage is not None and passage.is_plain else None

    def undoes(self, other: ViewOp) -> bool:
        """Whether this one after another leaves every number where it was."""
        if self.perm is not None and other.perm is not None:
            both = tuple(other.perm[axis] for axis in self.perm)
            return both == tuple(range(len(both)))
        if self.perm is not None or other.perm is not None:
            return False
        if len(other.target) != len(self.source):
            return False
        # What lies between leaves the extents alone, whatever stands for them on its two sides.
        pairs = zip(self.source, other.target, strict=True)
        same = {mine: its for mine, its in pairs if not isinstance(mine, int)}
        ends = list(other.source), [same.get(extent, extent) for extent in self.target]
        if other.axes is not None and self.axes is not None:
            # The number of channels may differ from what it was, on the way in and out alike.
            for extents, axis in zip(ends, (other.axes[0], self.axes[1]), strict=True):
                extents[axis] = "channels"
        return ends[0] == ends[1]


def find_view(node: ir.Node, facts: Facts) -> ViewOp | None:
    """The view that a node is, if it is one of numbers that the model computes."""
    if node.domain or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type not in VIEWS:
        return None
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None  # its axes are handed over by the callers of its function
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
    target = _target(node, source, facts)
    target = facts.extents(y) if target is None else target
    return None if target is None else ViewOp(node, source, target)


def _target(node: ir.Node, source: Sequence[Extent], facts: Facts) -> tuple[Extent, ...] | None:
    """The extents that a node gives to its output, spelled like those of its input."""
    if node.op_type == "Reshape":
        return _reshaped(node, source, facts)
    if node.op_type not in {"Squeeze", "Unsqueeze"}:
        return None
    chosen = facts.extents_in(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = ints_of(node, "axes") if chosen is None else chosen
    numbers = [axis for axis in axes if isinstance(axis, int)]
    if not numbers or len(numbers) != len(axes):
        return None
    if node.op_type == "Squeeze":
        gone = {axis % len(source) for axis in numbers}
        return tuple(extent for i, extent in enumerate(source) if i not in gone)
    rank = len(source) + len(numbers)
    added, kept = {axis % rank for axis in numbers}, iter(source)
    if len(added) < len(numbers):
        return None  # an axis is named twice
    return tuple(1 if i in added else next(kept) for i in range(rank))


def _reshaped(node: ir.Node, source: Sequence[Extent], facts: Facts) -> tuple[Extent, ...] | None:
    """The extents that a Reshape asks for; None where they are not known."""
    wanted = facts.extents_in(node.inputs[1])
    if wanted is None:
        return None
    target = list(wanted)
    if not int_of(node, "allowzero", facts.opset):
        copied = [i for i, extent in enumerate(target) if extent == 0]
        if copied and copied[-1] >= len(source):
            return None
        for i in copied:
            target[i] = source[i]
    if -1 in target:
        at = target.index(-1)
        rest = _quotient(source, [*target[:at], *target[at + 1 :]])
        target[at] = (node, at) if rest is None else rest
    return tuple(target)


def _passage(source: Sequence[Extent], target: Sequence[Extent], axis: int) -> Passage | None:
    """Where an axis goes when extents change and the order of the numbers does not.

    With as many numbers behind the axis as `repeat` times those behind axis j of the target, or
    as many before it as `tile` times those before axis j, each number of axis j belongs to one
    channel.
    """
    if axis >= len(source):
        return None
    channels = source[axis]
    if not isinstance(channels, int) or channels < 1 or 0 in source:
        return None
    for j, size in enumerate(target):
        if not isinstance(size, int) or size % channels:
            continue
        repeat = _quotient(source[axis + 1 :], target[j + 1 :])
        tile = _quotient(source[:axis], target[:j])
        if repeat is None and tile is not None and size % (channels * tile) == 0:
            repeat = size // (channels * tile)
        if tile is None and repeat is not None and size % (channels * repeat) == 0:
            tile = size // (channels * repeat)
        if repeat is not None and tile is not None and repeat * tile * channels == size:
            return Passage(j, repeat, tile)
    return None


def _quotient(a: Sequence[Extent], b: Sequence[Extent]) -> int | None:
    """The product of some extents by that of others, if it is a known whole number."""
    above, below = (
        Counter(e for e in a if not isinstance(e, int)),
        Counter(e for e in b if not isinstance(e, int)),
    )
    if above != below:
        return None
    numbers = [int(np.prod([e for e in extents if isinstance(e, int)])) for extents in (a, b)]
    if numbers[1] < 1 or numbers[0] < 1 or numbers[0] % numbers[1]:
        return None
    return numbers[0] // numbers[1]


def without_detours(ops: Sequence[ViewOp]) -> list[ViewOp]:
    """ViewOps one after the other without those that undo each other."""
    left: list[ViewOp] = []
    for view in ops:
        if left and view.undoes(left[-1]):
            left.pop()
        else:
            left.append(view)
    return left
