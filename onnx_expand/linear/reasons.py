"""Find the reasons why adjacent linear terms were not merged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from onnx_expand.cost import Cost
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.spans import Merged
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.driver import Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Homogeneous, Map, Price, Read, Term
from onnx_expand.linear.terms.matrix_bias import MatrixBias

__all__ = ["NOT_MARKED", "Break", "breaks"]


@dataclass(frozen=True)
class Break:
    """The reason why terms stay apart.

    Attributes:
        terms: The terms concerned.
        refusal: The reason.
        value: The term between them, if any.
    """

    terms: tuple[Term, ...]
    refusal: Refusal
    value: Term | None = None


def breaks(terms: Terms) -> Iterator[Break]:
    """Yield each pair of adjacent linear terms that stay apart, and each factor that stays."""
    reported: set[Term] = set()
    for found in _between(terms):
        reported.update(found.terms)
        yield found
    for term, refusal in terms.stuck.items():
        is_limited = refusal.reason is Reason.OVERFLOW
        if terms.is_live(term) and (is_limited or term not in reported):
            yield Break((term,), refusal)


def _between(terms: Terms) -> Iterator[Break]:
    seen: set[Term] = set()
    for term in terms.live():
        if not terms.is_top(term):
            continue
        stretch = terms.stretch(term)
        root = stretch.root
        if stretch.steps and root not in seen:
            seen.add(root)
            yield from _above(terms, root)
        for i, run in enumerate(runs_of(stretch.steps)):
            if i and _maps(root) and any(s.view is None for s in run):
                message = f"the nodes map different axes of '{_name(root)}'"
                refusal = Refusal(Reason.GEOMETRY, message)
                yield Break((root, run[0].top), refusal, root)
            yield from _within(
                Partition(root, run, terms.policy, terms.facts, known=terms.forbidden)
            )
            root = run[-1].top


def _name(term: Term) -> str:
    return "" if term.value is None else term.value.name or ""


def _maps(term: Term) -> bool:
    return not isinstance(term, Read | Homogeneous)


def _above(terms: Terms, root: Term) -> Iterator[Break]:
    """Return why the producer of a term is not part of the stretches that read it."""
    if not _maps(root):
        return
    readers = [t for t in terms.users[root] if isinstance(t, Map)]
    if not readers:
        return
    values = terms.roots.get(root, [])
    count = terms.count(root)
    if any(value.is_graph_output() for value in values):
        refusal = Refusal(Reason.OUTPUT, f"'{_name(root)}' in between is an output of the graph")
    elif count == 1 and isinstance(root, MatrixBias):
        message = f"the constant added in '{_name(root)}' in between differs between rows"
        refusal = Refusal(Reason.GEOMETRY, message)
    elif count == 1 and root.is_join and root.value is not None:
        message = f"'{_name(root)}' in between joins values that are not maps of one value"
        refusal = Refusal(Reason.BRANCHES, message)
    elif root.value is not None:
        reads = max(count, len(list(terms.facts.readers(root.value))) if root.is_source else count)
        refusal = Refusal(
            Reason.SHARED, f"'{_name(root)}' in between is read {reads} times", {"reads": reads}
        )
    else:
        return
    yield Break((root, *readers), refusal, root)


def _within(part: Partition) -> Iterator[Break]:
    """Yield why the pieces of a partition were not merged."""
    mapping = [i for i, step in enumerate(part.steps) if step.view is None]
    for i in mapping:
        step = part.steps[i]
        if step.branches:
            ends = tuple(b[-1].top for b in step.branches if b)
            yield Break((*ends, step.top), _why_join(part, i))
    for i, j in itertools.pairwise(mapping):
        last, first = part.steps[i], part.steps[j]
        if isinstance(last.geometry, Refusal) or isinstance(first.geometry, Refusal):
            continue  # reported at the join itself
        between = tuple(step.top for step in part.steps[i + 1 : j])  # changes of layout
        yield Break((last.top, *between, first.terms[0]), _why_apart(part, i, j), last.top)


def _why_join(part: Partition, index: int) -> Refusal:
    if part.policy is Policy.MARKED:
        return NOT_MARKED
    merged = part.merged(Span(index, index))
    apart = part.as_is(Span(index, index)).cost
    return merged if isinstance(merged, Refusal) else _dearer(merged.price, apart)


def _why_apart(part: Partition, first: int, last: int) -> Refusal:
    """Return why two adjacent steps were not merged."""
    if part.policy is Policy.MARKED:
        return NOT_MARKED
    span = Span(first, last)
    merged = part.merged(span)
    if isinstance(merged, Merged) and merged.shifted:
        exact = part.exact(span)
        merged = exact if isinstance(exact, Refusal) else merged
    if isinstance(merged, Refusal):
        pair = part.steps[first], part.steps[last]
        return _measured(merged, *pair) if last == first + 1 else merged
    return _dearer(merged.price, part.as_is(span).cost)


def _measured(refusal: Refusal, first: Step, second: Step) -> Refusal:
    """Return a refusal to merge two steps with the error at the border."""
    if refusal.reason is not Reason.BORDER:
        return refusal
    try:
        return first.load().with_border_error(refusal, second.load())
    except RefusedError:
        return refusal


NOT_MARKED = Refusal(
    Reason.POLICY,
    "this policy folds only what expand made",
    hint="fold with --policy cheapest or always",
)


def _dearer(price: Price, apart: Cost) -> Refusal:
    merged = price.cost
    if merged == apart:
        return Refusal(Reason.COST, "merging would gain nothing")
    numbers = {
        "macs_apart": apart.macs,
        "macs_merged": merged.macs,
        "parameters_apart": apart.parameters,
        "parameters_merged": merged.parameters,
    }
    message = (
        f"merging would take {merged.macs:,} multiply-accumulates and {merged.parameters:,} "
        f"parameters instead of {apart.macs:,} and {apart.parameters:,}"
    )
    return Refusal(Reason.COST, message, numbers, "fold with --policy always")
