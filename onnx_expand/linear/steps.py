"""Steps: terms one after the other, as the interval programme and the joins see them.

A step is one term of a stretch, or a sum or concatenation whose branches all come from one term,
taken as one map. Its channel axes are those of the stretch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.frames import Frame
from onnx_expand.lift import Axes, Linear
from onnx_expand.linear.terms import Cat, Fill, Hub, Load, Map, Price, Sum, Tensor, Term, View
from onnx_expand.linear.views import ViewOp

__all__ = [
    "Step",
    "aligned",
    "chain_affine",
    "chain_geometry",
    "join_step",
    "next_geometry",
    "shift_before",
    "step_of",
]


@dataclass(frozen=True)
class Step:
    """One element of a stretch.

    Attributes:
        top: The term that it computes.
        terms: All terms of it, the top last.
        geometry: Its map, or why it is none.
        axes: The channel axes in input and output, None if any would do.
        load: Gives the numbers.
        shift_only: Whether it only adds.
        view: What it does to the layout, if it does nothing else.
        frame: The padding with constants that it is, if it is one.
        branches: The branches of a join, first step first.
    """

    top: Term
    terms: tuple[Term, ...]
    geometry: Geometry | Refusal
    axes: Axes | None
    load: Load
    shift_only: bool = False
    view: ViewOp | None = None
    frame: Frame | None = None
    branches: tuple[tuple[Step, ...], ...] = ()

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the input, and of the output."""
        if self.view is not None:
            return self.view.channels
        if isinstance(self.geometry, Geometry):
            return self.geometry.in_channels, self.geometry.out_channels
        if self.frame is not None:
            return self.frame.fill.size, self.frame.fill.size
        ends = [(b[0].channels[0], b[-1].channels[1]) for b in self.branches if b]
        m = next((m for m, _ in ends), 1)
        outs = [b[-1].channels[1] if b else m for b in self.branches]
        return m, sum(outs) if isinstance(self.top, Cat) else outs[0]

    @property
    def is_pointwise(self) -> bool:
        """Whether it maps every position for itself."""
        return isinstance(self.geometry, Geometry) and self.geometry.is_pointwise

    @functools.cached_property
    def links(self) -> tuple[Linear, ...]:
        """The records of the source's nodes that it stands for."""
        links = (t.links for t in self.terms if isinstance(t, Map))
        return tuple(itertools.chain.from_iterable(links))

    @functools.cached_property
    def origins(self) -> tuple[ir.Node, ...]:
        """The nodes of the source that it stands for, in order."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(map(origins_of, self.terms))))

    def price(self) -> Price:
        """What all its terms cost as they stand."""
        total = Price()
        for term in self.terms:
            if isinstance(term, Map) and term.axes is None and self.axes is not None:
                total += _resolved(term, self).price()
            else:
                total += term.price()
        return total

    def on(self, axis: int, channels: int) -> Step:
        """The step for so many channels on an axis, if any axis would do."""
        if self.view is not None:
            view = self.view.on(axis, channels)
            return replace(self, view=view, axes=view.axes)
        if self.axes is not None:
            return self
        if self.branches:
            branches = tuple(tuple(s.on(axis, channels) for s in b) for b in self.branches)
            return _joined(self.top, branches, (axis, axis), channels) or self
        assert isinstance(self.geometry, Geometry)
        geometry = replace(
            self.geometry, in_channels=channels, out_channels=channels, group=channels
        )

        def load(one: Load = self.load) -> AffineConv:
            affine = one()
            shift = None if affine.bias is None else np.repeat(affine.bias, channels)
            return AffineConv.per_channel(np.repeat(affine.weight, channels), shift)

        return replace(self, geometry=geometry, axes=(axis, axis), load=load)


def origins_of(term: Term) -> tuple[ir.Node, ...]:
    """The nodes of the source that a term stands for."""
    if isinstance(term, Map) and term.origins:
        return term.origins
    if isinstance(term, Fill):
        return term.frame.nodes
    return () if term.node is None else (term.node,)


def _resolved(term: Map, step: Step) -> Map:
    """A map that treats all channels alike, with the channels of its step, for its cost."""
    assert step.axes is not None
    own = term.own
    if own is not None and term.links:
        channels = step.channels[1]
        own = replace(own, parameters=max(own.parameters, channels * (own.parameters > 0)))
        own = replace(own, elementwise=channels * (own.elementwise > 0))
    geometry = step.geometry if isinstance(step.geometry, Geometry) else term.geometry
    found = replace(term, geometry=geometry, axes=step.axes, own=own)
    return found


def step_of(term: Term) -> Step | None:
    """A term with one argument as a step; None for any other."""
    if isinstance(term, Map):
        return Step(term, (term,), term.geometry, term.axes, term.load, term.shift_only)
    if isinstance(term, View):
        refusal = Refusal(Reason.GEOMETRY, f"{term.op.node.op_type} changes the layout in between")
        op = replace(term.op, axes=None, channels=(1, 1))
        return Step(term, (term,), refusal, None, _refusing(refusal), view=op)
    if isinstance(term, Fill):
        refusal = Refusal(Reason.BORDER, "padding with constants is no convolution by itself")
        return Step(term, (term,), refusal, (1, 1), _refusing(refusal), frame=term.frame)
    if isinstance(term, Hub):
        one = AffineConv.identity(1)
        return Step(term, (term,), one.geometry, None, lambda: one, shift_only=True)
    return None


def _refusing(refusal: Refusal) -> Load:
    def load() -> AffineConv:
        raise RefusedError(refusal)

    return load


# -- Joins ------------------------------------------------------------------------------------


def join_step(join: Term, branches: Sequence[Sequence[Step]]) -> Step | None:
    """A sum or concatenation of branches of one term as one step.

    Args:
        join: The sum or concatenation.
        branches: For each argument the steps from the common term to it, first step first.

    Returns:
        The step; None where the branches disagree on what the channels are.
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
    if axes is None and isinstance(join, Cat):
        place = _cat_place(join, branches)
        if place is None:
            return None
        axes, m = (place[0], place[0]), place[1]
    if axes is None:
        return _joined(join, lined, None, 1)
    free = any(not b or b[0].axes is None for b in lined)
    if free and axes[0] != axes[1]:
        return None
    if isinstance(join, Cat) and join.axis != axes[1]:
        return None
    lined = [tuple(s.on(axes[0], m) for s in branch) for branch in lined]
    if any(b[0].channels[0] != m for b in lined if b):
        return None
    return _joined(join, lined, axes, m)


def _cat_place(join: Cat, branches: Sequence[Sequence[Step]]) -> tuple[int, int] | None:
    """Where the branches of a concatenation that treat all channels alike have these, if known."""
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
    n = sum(outs) if isinstance(join, Cat) else outs[0]
    if isinstance(join, Sum) and len(set(outs)) > 1:
        return None
    geometry = _joint_geometry(join, branches, m, n)
    terms = (*dict.fromkeys(t for branch in branches for s in branch for t in s.terms), join)

    def load() -> AffineConv:
        maps = [chain_affine(b) if b else AffineConv.identity(m) for b in branches]
        more = _levels([a.geometry for a in maps], join)
        maps = [_longer(a, ends) for a, ends in zip(maps, more, strict=True)]
        if isinstance(join, Cat):
            return functools.reduce(AffineConv.__add__, _stacked(maps))
        assert isinstance(join, Sum)
        parts = zip(maps, join.factors, strict=True)
        return functools.reduce(AffineConv.__add__, (a.scaled(factor) for a, factor in parts))

    return Step(join, terms, geometry, axes, load, branches=tuple(branches))


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
        if isinstance(join, Cat):
            part = replace(part, out_channels=n, group=1)
        part = _longer(part, ends)
        joined = part if total is None else total.plus(part)
        if isinstance(joined, Refusal):
            return _for_some_sizes(parts, join) or joined
        total = joined
    assert total is not None
    blocks = _blocks(branches, m, n) if isinstance(join, Cat) else None
    return total if blocks is None else replace(total, group=blocks)


def _for_some_sizes(parts: Sequence[Geometry], join: Term) -> Refusal | None:
    """That branches would be one map if extents were known, where that is why they are not."""
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
    """By how much each branch is padded at its ends for all to have equal output extents.

    Of maps with one stride that give equally many positions the one that goes furthest may stand
    for all, and what the others are padded with is not read. Slices of even and of odd rows are
    such maps, where the number of rows is known to be even; or where they are concatenated, which
    asks for as many of either.
    """
    rank = max(part.rank for part in parts)
    nothing = [(0,) * rank] * len(parts)
    extents = [_static(arg.tensor) for arg in join.args]
    known = extents[0] is not None and len(set(extents)) == 1
    equal = known or isinstance(join, Cat)
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
    """The spatial extents of a tensor, if all are static."""
    extents = () if tensor.extents is None else tensor.extents[2:]
    known = tuple(e for e in extents if isinstance(e, int))
    return known if known and len(known) == len(extents) else None


_Padded = TypeVar("_Padded", Geometry, AffineConv)


def _longer(part: _Padded, ends: tuple[int, ...]) -> _Padded:
    """A map with more padding at its ends."""
    if not any(ends):
        return part
    pads = zip(part.pads, (0,) * len(ends) + ends, strict=True)
    return replace(part, pads=tuple(old + more for old, more in pads))


def _blocks(branches: Sequence[tuple[Step, ...]], m: int, n: int) -> int | None:
    """Blocks of channels that do not mix, where each branch reads a part of its own."""
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
    """Each map with the output channels of all, zeros where they are another's."""
    counts = [m.geometry.out_channels for m in maps]
    total, first, stacked = sum(counts), 0, []
    for m, count in zip(maps, counts, strict=True):
        place = np.zeros((total, count))
        place[first : first + count] = np.eye(count)
        stacked.append(AffineConv(place) @ m)
        first += count
    return stacked


# -- Chains -----------------------------------------------------------------------------------


def aligned(steps: Sequence[Step]) -> list[Step] | None:
    """Steps one after the other on common axes; None where their channels do not meet.

    Steps that treat all channels alike take the axes of their neighbours.
    """
    found = list(steps)
    known = next((i for i, s in enumerate(found) if s.axes is not None), None)
    if known is None:
        return found
    axes = found[known].axes
    assert axes is not None
    axis, channels = axes[0], found[known].channels[0]
    for i in reversed(range(known)):  # where do the channels lie at the beginning?
        view = found[i].view
        if view is None:
            continue
        view = view.onto(axis, channels)
        if view is None or view.axes is None:
            return None
        axis, channels = view.axes[0], view.channels[0]
        if view.channels[0] != view.channels[1]:
            found[i] = replace(found[i], view=view, axes=view.axes)
    for i, step in enumerate(found):
        step = step.on(axis, channels)
        if step.axes is None or (step.axes[0] != axis or step.channels[0] != channels):
            return None
        found[i], axis, channels = step, step.axes[1], step.channels[1]
    return found


def chain_geometry(steps: Sequence[Step]) -> Geometry | Refusal | None:
    """The map that steps compute one after the other; None for no step."""
    total: Geometry | None = None
    for i, step in enumerate(steps):
        joined = next_geometry(steps[:i], total, step)
        if isinstance(joined, Refusal):
            return joined
        total = joined
    return total


def next_geometry(
    before: Sequence[Step], geometry: Geometry | None, step: Step
) -> Geometry | Refusal:
    """The map of some steps, whose geometry is given, and one more."""
    if geometry is None:
        return step.geometry
    if step.frame is None:
        following = step.geometry
        return following if isinstance(following, Refusal) else geometry.then(following)
    refusal = _fill_differs(before, step.frame)
    if refusal is not None:
        return refusal
    joined = replace(geometry, bias=False).then(_padding(step.frame).geometry)
    return joined if isinstance(joined, Refusal) else replace(joined, bias=geometry.bias)


def chain_affine(steps: Sequence[Step]) -> AffineConv:
    """The numbers of steps one after the other.

    Raises:
        RefusedError: There is no such map, or its numbers are not finite.
    """
    parts: list[AffineConv] = []
    for step in steps:
        if step.frame is None or not parts:
            parts.append(step.load())
            continue
        whole = compose_chain(parts, owned=True)
        padded = _padding(step.frame) @ replace(whole, bias=None)
        parts = [replace(padded, bias=whole.bias)]
    return compose_chain(parts, owned=True)


def shift_before(affine: AffineConv) -> npt.NDArray[np.float64] | None:
    """What to add before a map of single positions, instead of its bias behind it.

    `A x + b = A (x + t)` for `t = b / a` where a is all that row b of A holds, and no other row
    reads that channel: A scales, selects and permutes channels.

    Args:
        affine: The map, as fine as its zeros allow.

    Returns:
        One number for each channel read; None where there is no such t.
    """
    bias, channels = affine.bias, affine.geometry.in_channels
    if bias is None:
        return None
    if affine.geometry.is_per_channel:
        scale = affine.weight.reshape(-1)
        if ((scale == 0) & (bias != 0)).any():
            return None
        return np.divide(bias, scale, out=np.zeros_like(bias), where=scale != 0)
    if bias.size * channels > _DENSE:
        return None
    dense = affine.embedded(replace(affine.geometry, group=1))
    matrix = dense.weight.reshape(bias.size, channels)
    used = matrix != 0
    if (used.sum(axis=0) > 1).any() or (used.sum(axis=1) > 1).any():
        return None
    if (bias[~used.any(axis=1)] != 0).any():
        return None
    shift = np.zeros(channels)
    rows, columns = np.nonzero(used)
    shift[columns] = bias[rows] / matrix[rows, columns]
    return shift


_DENSE = 1 << 20  # elements of a matrix that is looked at for whether it only moves channels


def _padding(frame: Frame) -> AffineConv:
    """What a frame does after a map that continues with its constants: it moves the border."""
    return replace(AffineConv.identity(frame.fill.size, len(frame.pads) // 2), pads=frame.pads)


def _fill_differs(before: Sequence[Step], frame: Frame) -> Refusal | None:
    """Why a frame's constants are not what some steps continue with beyond their border.

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


def all_steps(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps, and those of the branches within."""
    for step in steps:
        yield step
        for branch in step.branches:
            yield from all_steps(branch)
