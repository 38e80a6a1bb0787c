"""Remove repeated arguments of joins before layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.linear.chains.composed import aligned, chain_affine, chain_geometry
from onnx_expand.linear.chains.merge import merged_term
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.spans import Merged
from onnx_expand.linear.chains.steps import Span, Step, step_of
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Concat, Map, Term

__all__ = ["join_once"]


_Part = tuple[Term, tuple[Step, ...]]
"""One of the joined values: a term, and pointwise maps of it."""


def join_once(terms: Terms, term: Term) -> Swap | None:
    """Let a layer read repeated arguments once: W [x, s x, z] = (W M) [x, z]."""
    if terms.policy is Policy.MARKED or not isinstance(term, Map) or term.unit:
        return None
    join = term.args[0]
    if not isinstance(join, Concat) or not terms.is_inner(join) or term.axes is None:
        return None
    rank, layer = join.tensor.rank, step_of(term)
    if rank is None or layer is None or term.axes[0] % rank != join.axis:
        return None
    parts = _parts(terms, join)
    roots = list(dict.fromkeys(root for root, _ in parts))
    if not 1 < len(roots) < len(parts):
        return None  # a join of one root is a map already
    key = (term, *join.args)
    if key in terms.done:
        return None
    terms.done.add(key)
    spread = _spread(join, parts, roots)
    once = _joined(join, roots)
    if spread is None or once is None:
        return None
    policy = terms.policy
    lined = aligned([spread, layer])
    if lined is None:
        return None
    part = Partition(once, lined, policy, terms.facts, may_shift=False)
    merged = part.merged(Span(0, 1))
    if not isinstance(merged, Merged):
        return None
    if not policy.prefers(merged.price + once.price(), part.as_is(Span(0, 1))):
        return None
    new = merged_term(part, Span(0, 1))
    return None if isinstance(new, Refusal) else {term: new}


def _parts(terms: Terms, join: Concat) -> list[_Part]:
    """Return the joined values as maps of terms, if some of the terms are equal."""
    found = [_down(terms, arg) for arg in join.args]
    roots = [root for root, _ in found]
    pairs = zip(join.args, found, strict=True)
    return [part if roots.count(part[0]) > 1 else (arg, ()) for arg, part in pairs]


def _down(terms: Terms, term: Term) -> tuple[Term, tuple[Step, ...]]:
    """Return the term below the pointwise maps that have no other consumers."""
    steps: list[Step] = []
    while isinstance(term, Map) and terms.is_inner(term):
        step = step_of(term)
        if step is None or not step.is_pointwise or term.price().cost.macs:
            break
        steps.append(step)
        term = term.args[0]
    return term, tuple(reversed(steps))


def _channels(term: Term, axis: int) -> int | None:
    extents = term.tensor.extents
    count = extents[axis] if extents is not None and axis < len(extents) else None
    return count if isinstance(count, int) and count > 0 else None


def _joined(join: Concat, roots: Sequence[Term]) -> Concat | None:
    """Join each of some terms once."""
    counts = [_channels(root, join.axis) for root in roots]
    known = [count for count in counts if count is not None]
    extents, sizes = join.tensor.extents, join.tensor.sizes
    if len(known) < len(counts) or extents is None or sizes is None:
        return None
    total, at = sum(known), join.axis
    tensor = replace(
        join.tensor,
        extents=(*extents[:at], total, *extents[at + 1 :]),
        sizes=tuple((*size[:at], total, *size[at + 1 :]) for size in sizes),
    )
    like = join.like or join.node
    return Concat(tuple(roots), tensor, None, None, join.anchor, at, like=like)


def _spread(join: Concat, parts: Sequence[_Part], roots: Sequence[Term]) -> Step | None:
    """Return the map from the terms, each joined once, to the original join."""
    counts = {root: _channels(root, join.axis) for root in roots}
    chains: list[list[Step]] = []
    bias, n = False, 0
    for root, steps in parts:
        m = counts[root]
        lined = aligned(steps)
        if m is None or lined is None:
            return None
        lined = [step.on(join.axis, m) for step in lined]
        geometry = chain_geometry(lined) if lined else Geometry(m, m, group=m)
        ends = {axis for step in lined for axis in step.axes or ()}
        if not isinstance(geometry, Geometry) or not ends <= {join.axis}:
            return None
        if geometry.in_channels != m:
            return None
        chains.append(lined)
        bias, n = bias or geometry.bias, n + geometry.out_channels
    starts: dict[Term, int] = {}
    total = 0
    for root in roots:
        starts[root] = total
        total += counts[root] or 0

    def load() -> AffineConv:
        rows = []
        for (root, _), chain in zip(parts, chains, strict=True):
            m = counts[root] or 0
            own = chain_affine(chain) if chain else AffineConv.identity(m)
            own = own.embedded(replace(own.geometry, group=1))
            matrix = own.weight.reshape(-1, m)
            wide = np.zeros((len(matrix), total))
            wide[:, starts[root] : starts[root] + m] = matrix
            shift = np.zeros(len(matrix)) if own.bias is None else own.bias
            rows.append((wide, shift))
        weight = np.concatenate([wide for wide, _ in rows])
        shift = np.concatenate([shift for _, shift in rows])
        return AffineConv(weight, shift if np.any(shift) else None)

    inner = dict.fromkeys(t for chain in chains for step in chain for t in step.terms)
    axes = (join.axis, join.axis)
    return Step(join, (*inner, join), Geometry(total, n, bias=bias), axes, load)
