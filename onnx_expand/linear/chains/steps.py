"""Steps: consecutive terms, as partitions and joins process them.

A step is one term of a stretch, or a sum or concatenation whose branches all start at one term, as
one map. Its channel axes are those of the stretch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.frames import Frame
from onnx_expand.lift import Axes, Linear
from onnx_expand.linear.terms.base import ConstantPad, Load, Map, Price, SplitInput, Term, View
from onnx_expand.linear.terms.views import ViewOp

__all__ = ["Span", "Step", "all_steps", "step_of"]


@dataclass(frozen=True)
class Span:
    """Steps `first` to `last` of a stretch, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Step:
    """One element of a stretch.

    Attributes:
        top: The term that it computes.
        terms: All its terms, the top last.
        geometry: Its map, or why it is not one.
        axes: The channel axes in input and output, None if it fits any axis.
        load: Returns the values.
        shift_only: Whether it only adds.
        view: The view, if it is one.
        frame: The padding with constants, if it is one.
        branches: The branches of a join, each in order.
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
        """The numbers of input and output channels."""
        if self.view is not None:
            return self.view.channels
        if isinstance(self.geometry, Geometry):
            return self.geometry.in_channels, self.geometry.out_channels
        assert self.frame is not None
        return self.frame.fill.size, self.frame.fill.size

    @property
    def is_pointwise(self) -> bool:
        """Whether it maps each position separately."""
        return isinstance(self.geometry, Geometry) and self.geometry.is_pointwise

    @functools.cached_property
    def links(self) -> tuple[Linear, ...]:
        """The records of the source nodes that it replaces."""
        return tuple(link for term in self.terms for link in term.links)

    @functools.cached_property
    def origins(self) -> tuple[ir.Node, ...]:
        """The source nodes that it replaces, in order."""
        return tuple(dict.fromkeys(node for term in self.terms for node in term.sources))

    def price(self) -> Price:
        """The cost of all its terms without merging."""
        return self._price

    @functools.cached_property
    def _price(self) -> Price:
        prices = [
            _resolved(term, self).price()
            if isinstance(term, Map) and term.axes is None and self.axes is not None
            else term.price()
            for term in self.terms
        ]
        return functools.reduce(Price.__add__, prices)

    def on(self, axis: int, channels: int) -> Step:
        """Return the step for a channel axis and count, if it fits any axis."""
        if self.view is not None:
            view = self.view.on(axis, channels)
            return replace(self, view=view, axes=view.axes)
        if self.axes is not None:
            return self
        assert isinstance(self.geometry, Geometry)
        geometry = replace(
            self.geometry, in_channels=channels, out_channels=channels, group=channels
        )

        def load(one: Load = self.load) -> AffineConv:
            affine = one()
            shift = None if affine.bias is None else np.repeat(affine.bias, channels)
            return AffineConv.per_channel(np.repeat(affine.weight, channels), shift)

        return replace(self, geometry=geometry, axes=(axis, axis), load=load)


def _resolved(term: Map, step: Step) -> Map:
    """Return a map that treats channels alike with the channels of its step, for its cost."""
    assert step.axes is not None
    own = term.own
    if own is not None and term.links:
        channels = step.channels[1]
        own = own._replace(parameters=max(own.parameters, channels * (own.parameters > 0)))
        own = own._replace(elementwise=channels * (own.elementwise > 0))
    geometry = step.geometry if isinstance(step.geometry, Geometry) else term.geometry
    found = replace(term, geometry=geometry, axes=step.axes, own=own)
    return found


def step_of(term: Term) -> Step | None:
    """Return a term with one argument as a step; None for other terms."""
    if isinstance(term, Map):
        return Step(term, (term,), term.geometry, term.axes, term.load, term.shift_only)
    if isinstance(term, View):
        refusal = Refusal(Reason.GEOMETRY, f"{term.op.node.op_type} changes the layout in between")
        op = replace(term.op, axes=None, channels=(1, 1))
        return Step(term, (term,), refusal, None, _refusing(refusal), view=op)
    if isinstance(term, ConstantPad):
        refusal = Refusal(Reason.BORDER, "padding with constants alone is not a convolution")
        return Step(term, (term,), refusal, (1, 1), _refusing(refusal), frame=term.frame)
    if isinstance(term, SplitInput):
        one = AffineConv.identity(1)
        return Step(term, (term,), one.geometry, None, lambda: one, shift_only=True)
    return None


def _refusing(refusal: Refusal) -> Load:
    def load() -> AffineConv:
        raise RefusedError(refusal)

    return load


def all_steps(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield steps, and those of their branches."""
    for step in steps:
        yield step
        for branch in step.branches:
            yield from all_steps(branch)
