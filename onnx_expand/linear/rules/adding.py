"""Add maps of one root as one map."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.linear.chains.joins import join_step
from onnx_expand.linear.chains.merge import merged_term
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Sum, Term

__all__ = ["add"]


def add(terms: Terms, term: Term) -> Swap | None:
    """Add terms of one root first: f(x) + z + h(x) = (f + h)(x) + z."""
    if terms.policy is Policy.MARKED or not isinstance(term, Sum) or not term.same:
        return None
    above = terms.user(term) if terms.is_inner(term) else None
    if isinstance(above, Sum) and above.same:
        return None  # the enclosing sum is rewritten as a whole
    parts = _flat(terms, term)
    if len(parts) < 3 or len({t for t, _ in parts}) < len(parts):
        return None
    key = (term, *(t for t, _ in parts))
    if key in terms.done:
        return None
    terms.done.add(key)
    groups: dict[Term, list[tuple[Term, float]]] = {}
    for part, factor in parts:
        root = terms.stretch(part).root if terms.is_inner(part) else part
        groups.setdefault(root, []).append((part, factor))
    for root, group in groups.items():
        chosen, merged = _together(terms, term, root, group)
        if merged is None:
            continue
        if len(chosen) == len(parts):
            merged.value, merged.anchor = term.value, term.anchor
            return {term: merged}
        taken = {t for t, _ in chosen}
        rest = [p for p in parts if p[0] not in taken]
        args = (merged, *(t for t, _ in rest))
        factors = (1.0, *(f for _, f in rest))
        return {term: replace(term, args=args, factors=factors, node=None, like=None)}
    return None


def _together(
    terms: Terms, like: Sum, root: Term, group: Sequence[tuple[Term, float]]
) -> tuple[list[tuple[Term, float]], Term | None]:
    """Return the terms of one root that cost less as one map, and that map.

    Maps of one geometry add up to one map of it, so that each geometry is tried once.
    """
    kinds: dict[Hashable, list[tuple[Term, float]]] = {}
    for part, factor in group:
        steps = terms.stretch(part).steps if part is not root else []
        kind = tuple(
            (s.geometry if isinstance(s.geometry, Geometry) else s.top, s.axes) for s in steps
        )
        kinds.setdefault(kind, []).append((part, factor))
    chosen: list[tuple[Term, float]] = []
    merged: Term | None = None
    for alike in list(kinds.values())[:_KINDS]:
        wanted = [*chosen, *alike]
        found = _added(terms, like, root, wanted) if len(wanted) > 1 else None
        if len(wanted) == 1 or found is not None:
            chosen, merged = wanted, found
    return chosen, merged


_KINDS = 16  # geometries of maps that are added


def _flat(terms: Terms, term: Sum) -> list[tuple[Term, float]]:
    """Return the terms of a sum of sums from left to right."""
    found: list[tuple[Term, float]] = []
    pending: list[tuple[Term, float]] = [(term, 1.0)]
    while pending:
        current, times = pending.pop()
        inside = current is term or terms.is_inner(current)
        if isinstance(current, Sum) and current.same and inside and _is_signed(current):
            pairs = zip(current.args, current.factors, strict=True)
            pending += [(arg, times * f) for arg, f in reversed(list(pairs))]
        else:
            found.append((current, times))
    return found


def _is_signed(term: Sum) -> bool:
    """Return whether a sum only adds and subtracts."""
    return set(map(abs, term.factors)) == {1.0}


def _added(
    terms: Terms, like: Sum, root: Term, parts: Sequence[tuple[Term, float]]
) -> Term | None:
    """Return terms of one root as one map, or None if that does not cost less."""
    branches = [terms.stretch(t).steps if t is not root else [] for t, _ in parts]
    args, factors = tuple(t for t, _ in parts), tuple(f for _, f in parts)
    join = replace(like, args=args, factors=factors, node=None, like=None)
    join.value = None
    step = join_step(join, branches)
    if step is None:
        return None
    policy = terms.policy
    part = Partition(root, [step], policy, terms.facts)
    _, spans = part.choose()
    if not spans:
        return None
    new = merged_term(part, spans[0])
    if isinstance(new, Refusal):
        return None
    new.value = None
    return new
