"""The rules: what may take the place of a term, each with its law."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.merge import merged_term
from onnx_expand.linear.partition import Merged, Partition, Span
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.steps import Step, aligned, join_step
from onnx_expand.linear.terms import Cat, Map, Price, Sum, Term, View
from onnx_expand.linear.views import ViewOp

__all__ = ["add", "compose", "drop", "runs_of", "share", "straighten"]


def drop(terms: Terms, term: Term) -> Swap | None:
    """What does nothing is its argument: id(x) = x."""
    if terms.policy is Policy.MARKED or not _does_nothing(term):
        return None
    if any(value.is_graph_output() for value in terms.roots.get(term, ())):
        return None
    assert isinstance(term, Map | View)
    terms.dropped.append(term)
    return {term: term.args[0]}


def _does_nothing(term: Term) -> bool:
    if isinstance(term, View):
        return term.op.changes_nothing
    if not isinstance(term, Map) or term.unit:
        return False
    if term.nothing or (term.node is not None and term.node.op_type in {"Identity", "Dropout"}):
        return True
    geometry = term.geometry
    if not geometry.is_per_channel or geometry.bias or term.is_part:
        return False
    try:
        return bool(np.all(term.load().weight == 1))
    except RefusedError:
        return False


def straighten(terms: Terms, term: Term) -> Swap | None:
    """Two views are one, or none: transpose(transpose(x)), reshape(reshape(x))."""
    if terms.policy is Policy.MARKED or not isinstance(term, View):
        return None
    below = term.args[0]
    if not isinstance(below, View):
        return None
    is_output = any(value.is_graph_output() for value in terms.roots.get(term, ()))
    if _undoes(term.op, below.op) and not is_output:
        terms.dropped.append(term)
        return {term: below.args[0]}
    if not terms.is_inner(below):
        return None
    op = _joined(below.op, term.op, terms.facts)
    if op is None:
        return None
    return {
        term: View(
            below.args,
            term.tensor,
            term.value,
            None,
            term.anchor,
            op,
            below.origins + term.origins,
        )
    }


def _undoes(op: ViewOp, before: ViewOp) -> bool:
    plain = replace(op, axes=None, channels=(1, 1)), replace(before, axes=None, channels=(1, 1))
    return plain[0].undoes(plain[1])


def _joined(first: ViewOp, second: ViewOp, facts: Facts) -> ViewOp | None:
    """Two changes of layout as one node; None where that takes two."""
    if first.perm is not None and second.perm is not None:
        perm = tuple(first.perm[axis] for axis in second.perm)
        node = ir.Node("", "Transpose", [], [ir.AttrInt64s("perm", perm)], name=second.node.name)
        target = tuple(first.source[axis] for axis in perm)
        return ViewOp(node, first.source, target, perm)
    if not first.keeps_order or second.node.op_type != "Reshape":
        return None
    given = second.node.inputs[1]
    wanted = None if given is None or not facts.is_constant(given) else facts.extents_in(given)
    # A zero copies an extent of the input, which is another one then.
    if wanted is None or 0 in wanted:
        return None
    return replace(second, source=first.source, axes=None, channels=(1, 1))


def compose(terms: Terms, term: Term) -> Swap | None:
    """g(f(x)) = (g f)(x), over stretches of any length; sums of maps of x are maps of x."""
    if not terms.is_top(term):
        return None
    stretch = terms.stretch(term)
    swap: Swap = {}
    root = stretch.root
    for run in runs_of(stretch.steps):
        if len(run) > 1 or run[0].branches:
            part = Partition(
                root, run, terms.policy, terms.facts, clock=terms.clock, known=terms.forbidden
            )
            key = (root, *(t for s in run for t in s.terms))
            if key not in terms.done:
                terms.done.add(key)
                swap.update(_chosen(terms, part))
        root = run[-1].top
    return swap


def _chosen(terms: Terms, part: Partition) -> Swap:
    """What a partition merges, as far as the numbers allow."""
    while True:
        swap: Swap = {}
        _, spans = part.choose()
        refused = False
        for span in spans:
            new = merged_term(part, span)
            if not isinstance(new, Refusal) and not _costs_less(part, span, new):
                new = Refusal(Reason.COST, "written on the other side of a view it costs as much")
            if isinstance(new, Refusal):
                part.forbid(span, new)
                terms.forbidden[part.key(span)] = new
                refused = True
                break
            swap[part.steps[span.last].top] = new
        if not refused:
            return swap


def _costs_less(part: Partition, span: Span, new: Term) -> bool:
    """Whether a map that changes its side of views costs less by the measure of terms themselves.

    A view may have fewer numbers behind it than before it as far as sizes are known, such as
    behind a Squeeze of an axis that is not known to be one. Partitions take either for the other;
    terms do not, so that no rewrite can be undone by the next.
    """
    merged = part.merged(span)
    if not isinstance(merged, Merged) or merged.layout is None:
        return True
    if part.policy in {Policy.LATENCY, Policy.MARKED}:
        return True  # the clock decides, or the record
    below, price = part.term_at(span.first), Price()
    current = new
    while current is not below and current.args:
        price += current.price()
        current = current.args[0]
    return part.policy.key(price.cost) < part.policy.key(part.as_is(span).cost)


def runs_of(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps cut where the channels of neighbours do not meet, each run on common axes."""
    found: list[list[Step]] = []
    run: list[Step] = []
    lined: list[Step] | None = None
    for i, step in enumerate(steps):
        if run and (lined := _gathered(run[-1], steps, i)) is not None:
            run.append(lined[0])
            continue
        if run and run[-1].axes is not None:
            axes = run[-1].axes
            here = step.on(axes[1], run[-1].channels[1])
            here = _counted_like(here, axes[1], run[-1].top.tensor.rank)
            if here.axes is not None and (
                here.axes[0] == axes[1] and here.channels[0] == run[-1].channels[1]
            ):
                run.append(here)
                continue
        elif run and (step.axes is None):
            run.append(step)
            continue
        elif run:
            # Of the views before it those belong to a map that its channels pass.
            for first in range(len(run)):
                lined = aligned([*run[first:], step])
                if lined is not None:
                    found += [run[:first]] if first else []
                    run = lined
                    break
            if lined is not None:
                continue
        if run:
            found.append(run)
        run = [step]
    return [*found, run] if run else found


def _counted_like(step: Step, axis: int, rank: int | None) -> Step:
    """A step with its axes counted from the end that another axis is counted from.

    Where the rank of what a stretch begins with is not known, axes are counted from the back.
    """
    is_map = isinstance(step.geometry, Geometry) and not step.branches
    if not is_map or step.axes is None or rank is None or step.axes[0] == axis:
        return step
    if step.axes[0] % rank != axis % rank:
        return step
    shift = axis - step.axes[0]
    return replace(step, axes=(axis, step.axes[1] + shift))


def _gathered(before: Step, steps: Sequence[Step], first: int) -> list[Step] | None:
    """Steps that begin with a view of which only the map behind it says where the channels go.

    A Reshape may cut channels into several axes; those of the map are on one of them.
    """
    if before.axes is None or steps[first].view is None or steps[first].axes is not None:
        return None
    axis, channels = before.axes[1], before.channels[1]
    if steps[first].on(axis, channels).axes is not None:
        return None
    last = first
    while steps[last].axes is None:
        last += 1
        if last == len(steps):
            return None
    lined = aligned(steps[first : last + 1])
    if lined is None or lined[0].axes is None or lined[0].axes[0] != axis:
        return None
    return lined if lined[0].channels[0] == channels else None


# -- Joins ------------------------------------------------------------------------------------


def add(terms: Terms, term: Term) -> Swap | None:
    """Terms of one root are added first: f(x) + z + h(x) = (f + h)(x) + z."""
    if terms.policy is Policy.MARKED or not isinstance(term, Sum) or not term.same:
        return None
    above = terms.user(term) if terms.is_inner(term) else None
    if isinstance(above, Sum) and above.same:
        return None  # what it is a term of is looked at as a whole
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
    """Those terms of one root that cost less as one map, and that map.

    Maps of one geometry are one such map, however many they are; each kind is looked at once.
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


def _flat(terms: Terms, term: Sum, factor: float = 1.0) -> list[tuple[Term, float]]:
    """The terms of a sum of sums from left to right."""
    found: list[tuple[Term, float]] = []
    pending: list[tuple[Term, float]] = [(term, factor)]
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
    """Whether a sum only adds and subtracts."""
    return set(map(abs, term.factors)) == {1.0}


def _added(
    terms: Terms, like: Sum, root: Term, parts: Sequence[tuple[Term, float]]
) -> Term | None:
    """Terms of one root as one map, if that costs less."""
    branches = [terms.stretch(t).steps if t is not root else [] for t, _ in parts]
    args, factors = tuple(t for t, _ in parts), tuple(f for _, f in parts)
    join = replace(like, args=args, factors=factors, node=None, like=None)
    join.value = None
    step = join_step(join, branches)
    if step is None:
        return None
    policy = terms.policy.counting
    part = Partition(root, [step], policy, terms.facts)
    _, spans = part.choose()
    if not spans:
        return None
    new = merged_term(part, spans[0])
    if isinstance(new, Refusal):
        return None
    new.value = None
    return new


# -- Shared maps ------------------------------------------------------------------------------


def share(terms: Terms, term: Term) -> Swap | None:
    """A map that several others read goes into each: g(f(x)), h(f(x)) = (g f)(x), (h f)(x).

    Taken where every reader takes it in and all of them together then cost less.
    """
    if terms.policy is Policy.MARKED or term in terms.roots or terms.count(term) < 2:
        return None
    if not isinstance(term, Map | Sum | Cat):
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
    policy = terms.policy.counting
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


_SHARED = 8  # steps of a shared stretch that are looked at


def _readers(terms: Terms, term: Term) -> list[list[Step]] | None:
    """The stretches that begin at a term; None if anything else reads it."""
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
    """What becomes of the readers when all take in the steps from an index on."""
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
    if policy.key(after.cost) >= policy.key(before.cost):
        return None
    if policy is not Policy.ALWAYS and not after.never_more(before):
        return None
    return after, parts
