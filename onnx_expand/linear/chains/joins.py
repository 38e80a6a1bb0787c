"""Joins: sums and concatenations whose branches all start at one term, as one step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.lift import Axes
from onnx_expand.linear.chains.composed import aligned, chain_affine, chain_geometry
from onnx_expand.linear.chains.steps import Step
from onnx_expand.linear.terms.base import Concat, Sum, Term
from onnx_expand.linear.terms.tensors import Tensor

__all__ = ["JoinStep", "join_step"]


@dataclass(frozen=True)
class JoinStep(Step):
    """A join as one step; its branches start at the term that it reads."""

    @property
    def channels(self) -> tuple[int, int]:
        """The numbers of input and output channels."""
        if isinstance(self.geometry, Geometry):
            return self.geometry.in_channels, self.geometry.out_channels
        ends = [(b[0].channels[0], b[-1].channels[1]) for b in self.branches if b]
        m = next((m for m, _ in ends), 1)
        outs = [b[-1].channels[1] if b else m for b in self.branches]
        return m, sum(outs) if isinstance(self.top, Concat) else outs[0]

    def on(self, axis: int, channels: int) -> Step:
        """Return the step for a channel axis and count, if it fits any axis."""
        if self.axes is not None:
            return self
        branches = tuple(tuple(s.on(axis, channels) for s in b) for b in self.branches)
        return _joined(self.top, branches, (axis, axis), channels) or self


def join_step(join: Term, branches: Sequence[Sequence[Step]]) -> Step | None:
    """Return a sum or concatenation of branches of one term as one step.

    Args:
        join: The sum or concatenation.
        branches: For each argument the steps from the common term to it, in order.

    Returns:
        The step; None if the branches have different channel axes.
    """
    steps = [step for branch in branches for step in branch]
    if any(step.view is not None for step in steps):
        return None
    lined: list[tuple[Step, ...]] = []
    ends: set[Axes] = set()
    m = 1
    for branch in branches:
        found = aligned(branch)
        if found is None:
            return None
        if found and found[0].axes is not None:
            first, last = found[0].axes, found[-1].axes
            assert last is not None
            ends.add((first[0], last[1]))
            m = found[0].channels[0]
        lined.append(tuple(found))
    if len(ends) > 1:
        return None
    axes = next(iter(ends), None)
    if axes is None and isinstance(join, Concat):
        place = _cat_place(join, branches)
        if place is None:
            return None
        axes, m = (place[0], place[0]), place[1]
    if axes is None:
        return _joined(join, lined, None, 1)
    free = any(not b or b[0].axes is None for b in lined)
    if free and axes[0] != axes[1]:
        return None
    if isinstance(join, Concat) and join.axis != axes[1]:
        return None
    lined = [tuple(s.on(axes[0], m) for s in branch) for branch in lined]
    if any(b[0].channels[0] != m for b in lined if b):
        return None
    return _joined(join, lined, axes, m)


def _cat_place(join: Concat, branches: Sequence[Sequence[Step]]) -> tuple[int, int] | None:
    """Return the channel axis for branches of a concatenation that fit any axis, if known."""
    branch = branches[0]
    root = branch[0].terms[0].args[0] if branch else join.args[0]
    extents = root.tensor.extents
    if extents is None or not -len(extents) <= join.axis < len(extents):
        return None
    channels = extents[join.axis]
    return (join.axis, channels) if isinstance(channels, int) and channels > 0 else None


def _joined(
    join: Term, branches: Sequence[tuple[Step, ...]], axes: Axes | None, m: int
) -> Step | None:
    outs = [b[-1].channels[1] if b else m for b in branches]
    n = sum(outs) if isinstance(join, Concat) else outs[0]
    if isinstance(join, Sum) and len(set(outs)) > 1:
        return None
    geometry = _joint_geometry(join, branches, m, n)
    terms = (*dict.fromkeys(t for branch in branches for s in branch for t in s.terms), join)

    def load() -> AffineConv:
        maps = [chain_affine(b) if b else AffineConv.identity(m) for b in branches]
        more = _levels([a.geometry for a in maps], join)
        maps = [_longer(a, ends) for a, ends in zip(maps, more, strict=True)]
        if isinstance(join, Concat):
            return functools.reduce(AffineConv.__add__, _stacked(maps))
        assert isinstance(join, Sum)
        parts = zip(maps, join.factors, strict=True)
        return functools.reduce(AffineConv.__add__, (a.scaled(factor) for a, factor in parts))

    return JoinStep(join, terms, geometry, axes, load, branches=tuple(branches))


def _joint_geometry(
    join: Term, branches: Sequence[tuple[Step, ...]], m: int, n: int
) -> Geometry | Refusal:
    parts: list[Geometry] = []
    for branch in branches:
        part = chain_geometry(branch) if branch else Geometry(m, m, group=m)
        assert part is not None
        if isinstance(part, Refusal):
            return part
        parts.append(part)
    total: Geometry | None = None
    for part, ends in zip(parts, _levels(parts, join), strict=True):
        if isinstance(join, Concat):
            part = replace(part, out_channels=n, group=1)
        part = _longer(part, ends)
        joined = part if total is None else total.plus(part)
        if isinstance(joined, Refusal):
            return _for_some_sizes(parts, join) or joined
        total = joined
    assert total is not None
    blocks = _blocks(branches, m, n) if isinstance(join, Concat) else None
    return total if blocks is None else replace(total, group=blocks)


def _for_some_sizes(parts: Sequence[Geometry], join: Term) -> Refusal | None:
    """Return the refusal if the branches would merge for known extents only; else None."""
    strides = {part.strides for part in parts}
    steps = next(iter(strides))
    if len(strides) > 1 or set(steps) <= {1} or all(_static(a.tensor) for a in join.args):
        return None
    overhangs = [set(these) for these in zip(*(part.overhang for part in parts), strict=True)]
    if any(max(o) - min(o) >= step for o, step in zip(overhangs, steps, strict=True)):
        return None
    axes = [str(axis) for axis, these in enumerate(overhangs, 2) if len(these) > 1]
    which = f"ax{'e' if len(axes) > 1 else 'i'}s {' and '.join(axes)}"
    return Refusal(
        Reason.UNKNOWN_SHAPE,
        f"along {which} the branches have equal extents for some sizes only, "
        "and one that is 1 would be broadcast",
        hint="give the sizes with --shape",
    )


def _levels(parts: Sequence[Geometry], join: Term) -> list[tuple[int, ...]]:
    """Return by how much to pad each branch at its end so that all output extents are equal.

    Maps with one stride and equally many output positions may get the extents of the map that
    reaches furthest, since the padding of the others is not read. Slices of even and odd rows are
    such maps, if the number of rows is known to be even, or if they are concatenated, which
    requires equal numbers.
    """
    rank = max(part.rank for part in parts)
    nothing = [(0,) * rank] * len(parts)
    extents = [_static(arg.tensor) for arg in join.args]
    known = extents[0] is not None and len(set(extents)) == 1
    equal = known or isinstance(join, Concat)
    if not equal or any(p.rank != rank or p.is_anchored for p in parts):
        return nothing
    strides = parts[0].strides
    if any(p.strides != strides for p in parts):
        return nothing
    furthest = [max(these) for these in zip(*(p.overhang for p in parts), strict=True)]
    more = [tuple(far - own for far, own in zip(furthest, p.overhang, strict=True)) for p in parts]
    fits = all(e < s for ends in more for e, s in zip(ends, strides, strict=True))
    return more if fits else nothing


def _static(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the spatial extents of a tensor if all are static."""
    extents = () if tensor.extents is None else tensor.extents[2:]
    known = tuple(e for e in extents if isinstance(e, int))
    return known if known and len(known) == len(extents) else None


_Padded = TypeVar("_Padded", Geometry, AffineConv)


def _longer(part: _Padded, ends: tuple[int, ...]) -> _Padded:
    """Return a map with more padding at its ends."""
    if not any(ends):
        return part
    pads = zip(part.pads, (0,) * len(ends) + ends, strict=True)
    return replace(part, pads=tuple(old + more for old, more in pads))


def _blocks(branches: Sequence[tuple[Step, ...]], m: int, n: int) -> int | None:
    """Return a grouped map if each branch reads its own part of the channels."""
    count = len(branches)
    if m % count or n % count:
        return None
    groups = []
    for i, branch in enumerate(branches):
        picks = next((s.links[0].picks for s in branch if s.links), None)
        at = next((k for k, s in enumerate(branch) if s.links), 0)
        if picks != (i * m // count, (i + 1) * m // count):
            return None
        rest = chain_geometry(branch[at + 1 :])
        if isinstance(rest, Refusal):
            return None
        if (m if rest is None else rest.out_channels * count) != n:
            return None
        groups.append(m // count if rest is None else rest.group)
    return count * math.gcd(*groups)


def _stacked(maps: Sequence[AffineConv]) -> list[AffineConv]:
    """Return each map with the output channels of all maps, zero for those of others."""
    counts = [m.geometry.out_channels for m in maps]
    total, first, stacked = sum(counts), 0, []
    for m, count in zip(maps, counts, strict=True):
        place = np.zeros((total, count))
        place[first : first + count] = np.eye(count)
        stacked.append(AffineConv(place) @ m)
        first += count
    return stacked
