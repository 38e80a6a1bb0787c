"""The rules for one stretch: compose maps, drop identities, and join views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.chains.merge import merged_term
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.spans import Merged
from onnx_expand.linear.chains.steps import Span
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Map, Price, Term, View
from onnx_expand.linear.terms.views import ViewOp

__all__ = ["compose", "drop", "straighten"]


def drop(terms: Terms, term: Term) -> Swap | None:
    """Replace identities by their arguments: id(x) = x."""
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
    """Replace two views by one or none: transpose(transpose(x)), reshape(reshape(x))."""
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
    origins = below.origins + term.origins
    return {term: replace(term, args=below.args, node=None, op=op, origins=origins)}


def _undoes(op: ViewOp, before: ViewOp) -> bool:
    plain = replace(op, axes=None, channels=(1, 1)), replace(before, axes=None, channels=(1, 1))
    return plain[0].undoes(plain[1])


def _joined(first: ViewOp, second: ViewOp, facts: Facts) -> ViewOp | None:
    """Return two views as one node; None if that is impossible."""
    if first.perm is not None and second.perm is not None:
        perm = tuple(first.perm[axis] for axis in second.perm)
        node = ir.Node("", "Transpose", [], [ir.AttrInt64s("perm", perm)], name=second.node.name)
        target = tuple(first.source[axis] for axis in perm)
        return ViewOp(node, first.source, target, perm)
    if not first.keeps_order or second.node.op_type != "Reshape":
        return None
    given = second.node.inputs[1]
    wanted = None if given is None or not facts.is_constant(given) else facts.extents_in(given)
    # A zero copies an extent of the input, which would be a different one then.
    if wanted is None or 0 in wanted:
        return None
    return replace(second, source=first.source, axes=None, channels=(1, 1))


def compose(terms: Terms, term: Term) -> Swap | None:
    """Compose stretches of any length: g(f(x)) = (g f)(x); sums of maps of x are maps of x."""
    if not terms.is_top(term):
        return None
    stretch = terms.stretch(term)
    swap: Swap = {}
    root = stretch.root
    for run in runs_of(stretch.steps):
        if len(run) > 1 or run[0].branches:
            part = Partition(root, run, terms.policy, terms.facts, known=terms.forbidden)
            key = (root, *(t for s in run for t in s.terms))
            if key not in terms.done:
                terms.done.add(key)
                swap.update(_chosen(terms, part))
        root = run[-1].top
    return swap


def _chosen(terms: Terms, part: Partition) -> Swap:
    """Return the merges of a partition that the values allow."""
    while True:
        swap: Swap = {}
        _, spans = part.choose()
        refused = False
        for span in spans:
            new = merged_term(part, span)
            if not isinstance(new, Refusal) and not _costs_less(part, span, new):
                new = Refusal(Reason.COST, "it costs as much on the other side of a view")
            if isinstance(new, Refusal):
                part.forbid(span, new)
                terms.forbidden[part.key(span)] = new
                refused = True
                break
            swap[part.steps[span.last].top] = new
        if not refused:
            return swap


def _costs_less(part: Partition, span: Span, new: Term) -> bool:
    """Return whether a map that moves across views costs less by the costs of the terms.

    Known sizes may be smaller after a view than before it, such as after a Squeeze of an axis
    whose extent is unknown. Partitions do not distinguish the two; terms do, so that no rewrite
    can be undone by the next.
    """
    merged = part.merged(span)
    if not isinstance(merged, Merged) or merged.layout is None:
        return True
    if part.policy is Policy.MARKED:
        return True  # the record decides
    below, price = part.term_at(span.first), Price()
    current = new
    while current is not below and current.args:
        price += current.price()
        current = current.args[0]
    return part.policy.key(price.cost) < part.policy.key(part.as_is(span).cost)
