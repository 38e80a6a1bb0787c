"""Channel shuffles: consecutive views that only permute channels.

A Reshape that splits the channels into groups, a Transpose of these and a Reshape back are one
permutation of the channels, which can be merged into the weights of an adjacent layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.lift.base import LARGEST
from onnx_expand.linear.chains.steps import Step
from onnx_expand.linear.terms.views import ViewOp

__all__ = ["with_shuffles"]

_VIEWS = 3  # views of a shuffle


def with_shuffles(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with each channel shuffle as one step."""
    found: list[Step] = []
    for step in steps:
        found.append(step)
        views = [s.view for s in found[-_VIEWS:]]
        known = [view for view in views if view is not None]
        if len(known) < _VIEWS:
            continue
        shuffle = _shuffle(known[0], known[1], known[2])
        if shuffle is not None:
            found[-_VIEWS:] = [_as_step(found[-_VIEWS:], *shuffle)]
    return found


def _shuffle(cut: ViewOp, turn: ViewOp, join: ViewOp) -> tuple[int, npt.NDArray[np.int64]] | None:
    """Return the axis that three views permute, and the source of each index."""
    if turn.perm is None or not (cut.keeps_order and join.keeps_order):
        return None
    source, parts = cut.source, len(cut.target) - len(cut.source) + 1
    if parts < 2 or len(join.target) != len(source) or len(join.source) != len(turn.perm):
        return None
    # Symbols for extents may differ on the two sides of a view.
    same = dict(zip(join.source, (cut.target[axis] for axis in turn.perm), strict=True))
    if tuple(same.get(e, e) if not isinstance(e, int) else e for e in join.target) != source:
        return None
    for axis, size in enumerate(source):
        inner = cut.target[axis : axis + parts]
        sizes = [e for e in inner if isinstance(e, int)]
        local = turn.perm[axis : axis + parts]
        fits = (
            len(sizes) == parts
            and math.prod(sizes) == size
            and cut.target[:axis] == source[:axis]
            and cut.target[axis + parts :] == source[axis + 1 :]
            and sorted(local) == list(range(axis, axis + parts))
            and all(a == i for i, a in enumerate(turn.perm) if not 0 <= i - axis < parts)
        )
        if fits and isinstance(size, int) and 0 < size * size <= LARGEST:
            places = np.arange(size).reshape(sizes)
            return axis, places.transpose([a - axis for a in local]).reshape(-1)
    return None


def _as_step(steps: Sequence[Step], axis: int, places: npt.NDArray[np.int64]) -> Step:
    count = len(places)

    def load() -> AffineConv:
        return AffineConv(np.eye(count)[places])

    terms = tuple(t for step in steps for t in step.terms)
    return Step(steps[-1].top, terms, Geometry(count, count), (axis, axis), load)
