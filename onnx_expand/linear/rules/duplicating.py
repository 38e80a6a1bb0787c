"""Merge a map that several others read into each of them."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_expand.errors import Refusal
from onnx_expand.linear.chains.merge import merged_term
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Concat, Map, Price, Sum, Term

__all__ = ["duplicate"]


def duplicate(terms: Terms, term: Term) -> Swap | None:
    """Merge a map into each of its consumers: g(f(x)), h(f(x)) = (g f)(x), (h f)(x).

    Applied if all consumers can absorb it and the total cost falls.
    """
    if terms.policy is Policy.MARKED or term in terms.roots or terms.count(term) < 2:
        return None
    if not isinstance(term, Map | Sum | Concat):
        return None
    readers = _readers(terms, term)
    if readers is None:
        return None
    shared = terms.stretch(term)
    if not shared.steps:
        return None
    key = (term, *(s.top for s in shared.steps), *(s.top for steps in readers for s in steps))
    if key in terms.done:
        return None
    terms.done.add(key)
    best: tuple[Price, list[Partition], int] | None = None
    policy = terms.policy
    for start in range(max(0, len(shared.steps) - _SHARED), len(shared.steps)):
        found = _shared(terms, shared.root, shared.steps, start, readers, policy)
        if found is not None and (
            best is None or policy.key(found[0].cost) < policy.key(best[0].cost)
        ):
            best = (*found, start)
    if best is None:
        return None
    swap: Swap = {}
    common = [t for s in shared.steps[best[2] :] for t in s.terms]
    for part in best[1]:
        for span in part.choose()[1]:
            new = merged_term(part, span, common)
            if isinstance(new, Refusal):
                return None
            swap[part.steps[span.last].top] = new
    return swap


_SHARED = 8  # maximum number of steps of a shared stretch to try


def _readers(terms: Terms, term: Term) -> list[list[Step]] | None:
    """Return the stretches that start at a term; None if it has other consumers."""
    found: list[list[Step]] = []
    count = 0
    for top in dict.fromkeys(terms.outer(term, user) for user in terms.users[term]):
        stretch = terms.stretch(top)
        if stretch.root is not term:
            return None
        found.append(stretch.steps)
        count += terms.entries(stretch)
    return found if count == terms.count(term) else None


def _shared(
    terms: Terms,
    root: Term,
    steps: Sequence[Step],
    start: int,
    readers: Sequence[Sequence[Step]],
    policy: Policy,
) -> tuple[Price, list[Partition]] | None:
    """Return the replacements if all consumers absorb the steps from an index on."""
    own = list(steps[start:])
    bottom = steps[start - 1].top if start else root
    parts, after, before = [], Price(), Price()
    for i, reader in enumerate(readers):
        runs = runs_of([*own, *reader])
        if len(runs[0]) <= len(own):
            return None
        part = Partition(bottom, runs[0], policy, terms.facts, may_shift=False)
        price, spans = part.choose()
        if not spans or spans[0].first or spans[0].last < len(own):
            return None
        parts.append(part)
        after += price
        if not i:
            before += part.as_is(Span(0, len(own) - 1))
        alone = Partition(part.term_at(len(own)), part.steps[len(own) :], policy, terms.facts)
        before += alone.choose()[0]
    return (after, parts) if policy.prefers(after, before) else None
