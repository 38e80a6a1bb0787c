"""Apply rules to the terms of a graph, from a worklist."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Mapping, Sequence

import onnx_ir as ir

from onnx_expand.errors import Refusal
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.patterns import Composites
from onnx_expand.linear.chains.stretches import Stretches
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import ConstantPad, Map, Read, Term, View
from onnx_expand.linear.terms.build import Builder
from onnx_expand.linear.terms.uses import Swap

__all__ = ["Rule", "Swap", "Terms", "rewrite"]

Rule = Callable[["Terms", Term], "Swap | None"]

_REWRITES = 16  # for each term at the start


class Terms(Stretches):
    """The linear part of one graph.

    Args:
        graph: The graph.
        facts: Facts about the model.
        policy: The policy, which determines the cost.
        locked: The labels of nodes that must not become terms.

    Attributes:
        nodes: The nodes that are terms, each with its term.
        frames: The nodes that only pad.
        refused: Nodes of linear ops that are not linear, each with the reason.
        composites: The composite patterns, whose nodes are not terms; None if the policy may split
        them.
        forbidden: Spans whose values cannot be merged, each with the reason.
        done: Runs of terms that were partitioned already.
        dropped: Terms that were removed as identities.
        stuck: Maps whose factors cannot move, each with the reason.
    """

    def __init__(
        self,
        graph: ir.Graph,
        facts: Facts,
        policy: Policy,
        *,
        locked: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.graph, self.facts, self.policy = graph, facts, policy
        self.forbidden: dict[tuple[Term, ...], Refusal] = {}
        self.done: set[tuple[Term, ...]] = set()
        self.dropped: list[Map | View] = []
        self.stuck: dict[Term, Refusal] = {}
        looks_inside = policy in {Policy.ALWAYS, Policy.MARKED}
        self.composites = None if looks_inside else Composites(graph, facts)
        built = Builder(graph, facts, self.composites, locked)
        self.refused = built.refused
        self.nodes = built.nodes
        self.frames = {
            n for t in built.of.values() if isinstance(t, ConstantPad) for n in t.frame.nodes
        }
        inside = self.nodes.keys() | self.frames
        for value, term in list(built.of.items()):
            if term.node is None:
                continue
            outside = [n for n in facts.readers(value) if n not in inside]
            if outside and not value.is_graph_output() and all(map(_reads_only_shape, outside)):
                other = self._of_same_extents(value, built.of)
                self.shape_readers.setdefault(other, []).extend((node, value) for node in outside)
                if not isinstance(other, Read):
                    self.roots.setdefault(other, [])
            elif value.is_graph_output() or outside:
                self.roots.setdefault(term, []).append(value)
        for term in self.roots:
            self._admit(term)

    def _of_same_extents(self, value: ir.Value, of: Mapping[ir.Value, Term]) -> Term:
        """Return a term of the same extents that remains whatever happens to a value."""
        term = of[value]
        while keeps_extents(term):
            term = term.args[0]
        if term.is_opaque:
            return term
        term = of[value]
        while term.value is not None:
            users = {t for n in self.facts.readers(term.value) for t in self.nodes.get(n, ())}
            user = next(iter(users)) if len(users) == 1 else None
            if user is None or user.value is None or not keeps_extents(user):
                break
            term = user
        return term

    def redirect_shape_readers(self) -> bool:
        """Redirect consumers of shapes to the arguments of maps that preserve extents.

        Returns:
            Whether any consumer was redirected.
        """
        moved = False
        for term in [t for t in self.shape_readers if t in self.users and keeps_extents(t)]:
            other = term.args[0]
            while keeps_extents(other):
                other = other.args[0]
            if not other.is_opaque:
                continue
            self.shape_readers.setdefault(other, []).extend(self.shape_readers.pop(term))
            if not isinstance(other, Read):
                self.roots.setdefault(other, [])
            if self.roots.get(term) == []:
                del self.roots[term]
                self._joins.clear()
                self._release([term])
            moved = True
        return moved


def _reads_only_shape(node: ir.Node) -> bool:
    """Return whether a node reads only the extents of a value."""
    return node.domain == "" and node.op_type in {"Shape", "Size"}


def keeps_extents(term: Term) -> bool:
    """Return whether a term always has the extents of its argument."""
    if not isinstance(term, Map) or term.is_part:
        return False
    geometry, axes = term.geometry, term.axes
    if axes is None:
        return True
    if geometry.in_channels != geometry.out_channels or axes[0] != axes[1]:
        return False
    plain = not geometry.transposed and set(geometry.strides) <= {1}
    return geometry.is_pointwise or (plain and not any(geometry.overhang))


def rewrite(terms: Terms, rules: Sequence[Rule], tidying: Container[Rule] = ()) -> int:
    """Apply rules until none applies; return the number of rewrites.

    Earlier rules take precedence, each from the inputs of the graph on. After a rewrite only the
    neighbours of changed terms are visited again, and the ends of the stretches through them.

    Args:
        terms: The terms.
        rules: The rules.
        tidying: Those of which many may apply to one stretch. Its ends are visited again once
            after all of them, since that takes as long as the stretch.
    """
    last = max((i for i, rule in enumerate(rules) if rule in tidying), default=-1)
    queue: list[tuple[int, int, int, Term]] = []
    waiting: set[tuple[int, Term]] = set()
    serial = made = 0

    def push(term: Term, index: int = 0) -> None:
        nonlocal serial
        if index < len(rules) and (index, term) not in waiting:
            waiting.add((index, term))
            serial += 1
            heapq.heappush(queue, (index, term.order, serial, term))

    live = list(terms.live())
    for term in live:
        push(term)
    # Equal costs that are computed differently on two sides of a view must not alternate forever.
    most = _REWRITES * (len(live) + 1)
    tidied: list[Term] = []
    while (queue or tidied) and made < most:
        if tidied and (not queue or queue[0][0] > last):
            for end in terms.ends(term for term in tidied if terms.is_live(term)):
                push(end)
            tidied.clear()
            continue
        index, _, _, term = heapq.heappop(queue)
        waiting.discard((index, term))
        if not terms.is_live(term):
            continue
        push(term, index + 1)
        swap = rules[index](terms, term)
        if swap:
            made += 1
            touched = terms.take(swap)
            watching = [other for term in touched for other in terms.watchers(term)]
            for near in (*touched, *watching):
                push(near)
            if rules[index] in tidying:
                tidied += touched
            else:
                for end in terms.ends(touched):
                    push(end)
    return made
