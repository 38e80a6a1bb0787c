"""The elements of an affine region: linear nodes, frames, and joins of parallel branches."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.contraction import compose_chain
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.frames import Frame
from onnx_expand.geometry import Geometry
from onnx_expand.lift import Axes, Linear
from onnx_expand.renames import Rename

__all__ = ["Element", "Join", "Leaf", "chain_affine", "chain_geometry", "next_geometry"]


@dataclass(frozen=True)
class Leaf:
    """One linear node, or a frame: nodes that pad with constants.

    A frame is no convolution by itself. After a map that continues with just these constants
    beyond its border, it only moves the border outwards.
    """

    linear: Linear
    frame: Frame | None = None

    @property
    def geometry(self) -> Geometry | Refusal:
        """The node's map."""
        if self.frame is None:
            return self.linear.geometry
        return Refusal(Reason.BORDER, "padding with constants is no convolution by itself")

    @property
    def axes(self) -> Axes | None:
        """The channel axes, None if any would do."""
        return self.linear.axes

    @property
    def out_channels(self) -> int:
        """Channels that the node writes."""
        return self.linear.geometry.out_channels

    @property
    def shift_only(self) -> bool:
        """Whether the node only adds a constant."""
        return self.linear.shift_only

    @property
    def input(self) -> ir.Value:
        """The value that the element reads, as the graph is now."""
        return self.linear.x

    @property
    def output(self) -> ir.Value:
        """The value that the element computes."""
        return self.linear.y

    def leaves_parts(self) -> bool:
        """Whether the node also copies channels that other elements read."""
        return self.linear.is_part

    def load(self) -> AffineConv:
        """The node's numbers; raises `RefusedError` when there are none or not finite ones."""
        if isinstance(self.geometry, Refusal):
            raise RefusedError(self.geometry)
        return self.linear.load()

    def leaves(self) -> Iterator[Linear]:
        """The linear nodes."""
        yield self.linear

    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, the one that computes the output last."""
        if self.frame is not None:
            yield from self.frame.nodes
            return
        if self.linear.entry is not None:
            yield self.linear.entry
        yield self.linear.node

    def on(self, axis: int, channels: int) -> Leaf:
        """The element for so many channels on an axis, if any axis would do."""
        return replace(self, linear=self.linear.on(axis, channels))


@dataclass(frozen=True)
class Join:
    """Branches of one input whose outputs one node adds, subtracts or concatenates.

    Attributes:
        node: Add, Sub, Sum, Mean or Concat.
        branches: In the order of the node's inputs; one without elements is the input itself.
        factors: What each branch of a sum counts for.
        axes: The channel axes of all branches, None if any would do.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    node: ir.Node
    branches: tuple[tuple[Element, ...], ...]
    factors: tuple[float, ...]
    axes: Axes | None
    in_channels: int = 1
    out_channels: int = 1
    shift_only: ClassVar[bool] = False

    @property
    def input(self) -> ir.Value:
        """The value that all branches read, as the graph is now."""
        branch = self.branches[0]
        value = branch[0].input if branch else self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The value that the element computes."""
        return self.node.outputs[0]

    def leaves_parts(self) -> bool:
        """A join holds all that its branches read."""
        return False

    @property
    def is_concat(self) -> bool:
        """Whether the branches' channels are put after each other."""
        return self.node.op_type == "Concat"

    @functools.cached_property
    def geometry(self) -> Geometry | Refusal:
        """The map that the branches compute together, or why it is none."""
        parts = self._parts()
        if isinstance(parts, Refusal):
            return parts
        total = parts[0]
        for part in parts[1:]:
            joined = total.plus(part)
            if isinstance(joined, Refusal):
                return joined
            total = joined
        blocks = self._blocks()
        return total if blocks is None else replace(total, group=blocks)

    def _blocks(self) -> int | None:
        """Blocks of channels that do not mix, where each branch reads a part of its own."""
        m, count = self.in_channels, len(self.branches)
        if not self.is_concat or m % count or self.out_channels % count:
            return None
        groups = []
        for i, branch in enumerate(self.branches):
            part = branch[0].linear.picks if branch and isinstance(branch[0], Leaf) else None
            if part != (i * m // count, (i + 1) * m // count):
                return None
            rest = chain_geometry(branch[1:])
            if isinstance(rest, Refusal):
                return None
            if (m if rest is None else rest.out_channels * count) != self.out_channels:
                return None
            groups.append(m // count if rest is None else rest.group)
        return count * math.gcd(*groups)

    def _parts(self) -> list[Geometry] | Refusal:
        """The geometries of the branches, each with all output channels."""
        found = []
        for branch in self.branches:
            geometry = chain_geometry(branch)
            if isinstance(geometry, Refusal):
                return geometry
            found.append(geometry)
        m = self.in_channels
        parts = [Geometry(m, m, group=m) if g is None else g for g in found]
        if self.is_concat:
            parts = [replace(g, out_channels=self.out_channels, group=1) for g in parts]
        return parts

    def load(self) -> AffineConv:
        """The numbers of the whole; raises `RefusedError` where there is no single map."""
        maps = [
            chain_affine(branch) if branch else AffineConv.identity(self.in_channels)
            for branch in self.branches
        ]
        if self.is_concat:
            maps = _stacked(maps)
        parts = zip(maps, self.factors, strict=True)
        return functools.reduce(AffineConv.__add__, (m.scaled(factor) for m, factor in parts))

    def leaves(self) -> Iterator[Linear]:
        """The linear nodes of all branches."""
        for branch in self.branches:
            for element in branch:
                yield from element.leaves()

    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, the joining one last."""
        for branch in self.branches:
            for element in branch:
                yield from element.nodes()
        yield self.node

    def on(self, axis: int, channels: int) -> Join:
        """The element for so many channels on an axis, if any axis would do."""
        if self.axes is not None:
            return self
        branches = tuple(tuple(e.on(axis, channels) for e in branch) for branch in self.branches)
        return replace(
            self,
            branches=branches,
            axes=(axis, axis),
            in_channels=channels,
            out_channels=channels,
        )


Element = Leaf | Join | Rename


def chain_geometry(elements: Sequence[Element]) -> Geometry | Refusal | None:
    """The map that elements compute one after the other; None for no element."""
    total: Geometry | None = None
    for i, element in enumerate(elements):
        joined = next_geometry(elements[:i], total, element)
        if isinstance(joined, Refusal):
            return joined
        total = joined
    return total


def next_geometry(
    before: Sequence[Element], geometry: Geometry | None, element: Element
) -> Geometry | Refusal:
    """The map of some elements, whose geometry is given, and one more."""
    if geometry is None:
        return element.geometry
    if not isinstance(element, Leaf) or element.frame is None:
        following = element.geometry
        return following if isinstance(following, Refusal) else geometry.then(following)
    refusal = _fill_differs(before, element.frame)
    if refusal is not None:
        return refusal
    joined = replace(geometry, bias=False).then(element.linear.geometry)
    return joined if isinstance(joined, Refusal) else replace(joined, bias=geometry.bias)


def chain_affine(elements: Sequence[Element]) -> AffineConv:
    """The numbers of elements one after the other.

    Raises:
        RefusedError: There is no such map, or its numbers are not finite.
    """
    parts: list[AffineConv] = []
    for element in elements:
        if not isinstance(element, Leaf) or element.frame is None or not parts:
            parts.append(element.load())
            continue
        whole = compose_chain(parts, owned=True)
        padded = element.linear.load() @ replace(whole, bias=None)
        parts = [replace(padded, bias=whole.bias)]
    return compose_chain(parts, owned=True)


def _fill_differs(before: Sequence[Element], frame: Frame) -> Refusal | None:
    """Why a frame's constants are not what some elements continue with beyond their border.

    A graph computes the constants in its own type; they count as equal when rounding explains
    the difference.
    """
    try:
        bias = chain_affine(before).bias
    except RefusedError as error:
        return error.refusal
    own = np.zeros_like(frame.fill) if bias is None else bias
    largest = max(1.0, float(np.max(np.abs(own), initial=0.0)))
    difference = float(np.max(np.abs(own - frame.fill), initial=0.0))
    if difference <= _FILL_ROUNDING * largest:
        return None
    return Refusal(
        Reason.BORDER,
        "the border is filled with other numbers than the nodes before compute there",
        {"border_error": difference},
    )


# Eight units in the last place of float32: a shift is a difference of a few rounded products.
_FILL_ROUNDING = 8 * float(np.finfo(np.float32).eps)


def _stacked(maps: Sequence[AffineConv]) -> list[AffineConv]:
    """Each map with the output channels of all, zeros where they are another's."""
    counts = [m.geometry.out_channels for m in maps]
    total, first, stacked = sum(counts), 0, []
    for m, count in zip(maps, counts, strict=True):
        place = np.zeros((total, count))
        place[first : first + count] = np.eye(count)
        stacked.append(AffineConv(place) @ m)
        first += count
    return stacked
