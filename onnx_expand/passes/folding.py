"""Folding one model: regions found, partitioned and rewritten until nothing is left to gain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.elements import Join
from onnx_expand.errors import Refusal
from onnx_expand.lift import CONTRADICTIONS, Linear, contradiction, lift
from onnx_expand.passes.borders import Border
from onnx_expand.passes.branches import Spread, find_regroupings, find_spreads, regroup
from onnx_expand.passes.extents import state_extents
from onnx_expand.passes.maps import MapWriter, discard
from onnx_expand.passes.partition import Merged, Partitioner, Policy, Span
from onnx_expand.passes.reasons import refined, unexplained
from onnx_expand.passes.report import Kept, Site, kept_of
from onnx_expand.passes.reroot import Reroot, find_reroots
from onnx_expand.passes.rewrite import Rewriter, label
from onnx_expand.passes.stopwatch import Stopwatch
from onnx_expand.passes.weights import freeze_weights
from onnx_expand.regions import Chain, find_chains
from onnx_expand.values import Facts

__all__ = ["FoldRun"]

Plan = TypeVar("Plan")

_ROUNDS = 3


class FoldRun:
    """One run over one model."""

    def __init__(self, model: ir.Model, policy: Policy, border: Border, image: str | None) -> None:
        self.facts = Facts(model)
        self.policy = policy
        self.border = border
        self.image = image
        self.rewriter = Rewriter(model)
        self.sites: list[Site] = []
        self.kept: list[Kept] = []
        self.stopwatch: Stopwatch | None = None
        self.writer = MapWriter(self.facts, self.rewriter, policy)

    def fold_graph(self, graph: ir.Graph) -> None:
        """Fold one graph; the graphs within its nodes are folded by calls of their own."""
        if self.policy is not Policy.MARKED:
            for gone, name in state_extents(graph, self.facts, self.rewriter):
                self.sites.append(Site(gone, (name,), Cost(0, 0, len(gone)), Cost()))
        kept: list[Kept] = []
        self.writer.simpler = True
        rounds = 0
        # Every round leaves less to do; but what is measured is never quite the same twice.
        most = _ROUNDS if self.stopwatch is not None else len(graph) + _ROUNDS
        while self.writer.simpler and rounds < most:
            self.writer.simpler, rounds = False, rounds + 1
            chains, breaks = find_chains(graph, self.facts)
            kept = [kept_of(refined(b, self.facts)) for b in breaks]
            for chain in chains:
                kept += self._fold_chain(chain)
            if not self.writer.simpler and self.policy is not Policy.MARKED:
                self.writer.simpler = (
                    self._drop_copies(graph) or self._reroot(graph) or self._join_branches(graph)
                )
        self.kept += kept
        if self.policy is not Policy.MARKED:
            for frozen in freeze_weights(graph, self.facts, self.rewriter):
                now, before = frozen.parameters
                costs = Cost(0, before, len(frozen.nodes)), Cost(0, now, 0)
                self.sites.append(Site(frozen.nodes, (frozen.name,), *costs))
        bridges = self.border is not Border.EXACT or self.image is not None
        if bridges and self.policy is not Policy.MARKED:
            while any(self._bridge_chain(chain) for chain in find_chains(graph, self.facts)[0]):
                pass

    def explain(self, graph: ir.Graph) -> None:
        """Give a reason to the linear nodes of a folded graph that have none yet."""
        named = {name for kept in self.kept for name in kept.nodes}
        found = unexplained(graph, self.facts, named, self.policy)
        self.kept += [kept_of(found_break) for found_break in found]

    def _drop_copies(self, graph: ir.Graph) -> bool:
        """Remove nodes that hand on what they read, unless they name an output of the graph."""
        before = len(self.sites)
        for node in list(graph):
            if node.op_type not in {"Identity", "Dropout"}:
                continue
            linear = lift(node, self.facts)
            if not isinstance(linear, Linear):
                continue
            x, y = linear.x, linear.y
            if y.is_graph_output() or x.graph is not graph or not y.uses():
                continue
            y.replace_all_uses_with(x)
            graph.remove(node, safe=True)
            self.sites.append(Site((label(node),), (), Cost(0, 0, 1), Cost()))
        return len(self.sites) > before

    def _reroot(self, graph: ir.Graph) -> bool:
        """Merge a map that several others read into each of them, if that costs less."""
        chains, _ = find_chains(graph, self.facts)
        for plan in _possible(find_reroots(chains, self.facts, self.policy)):
            if self._take_in(plan):
                return True
        return False

    def _join_branches(self, graph: ir.Graph) -> bool:
        """Bring linear nodes next to each other where values of several roots meet."""
        for spread in _possible(find_spreads(graph, self.facts, self.policy)):
            if self._spread(spread):
                return True
        chains, _ = find_chains(graph, self.facts)
        for regrouping in _possible(find_regroupings(graph, chains, self.facts, self.policy)):
            regroup(regrouping, self.rewriter, self.facts)
            return True
        return False

    def _spread(self, plan: Spread) -> bool:
        span = Span(0, 1)
        written = [(part, self.writer.write(part, span, [plan.last])) for part in plan.parts]
        if any(isinstance(nodes, Refusal) for _, nodes in written):
            for _, nodes in written:
                discard(nodes if isinstance(nodes, list) else [])
            return False
        for i, (part, nodes) in enumerate(written):
            merged = part.merged(span)
            assert isinstance(nodes, list)
            assert isinstance(merged, Merged)
            labels = tuple(map(label, part.nodes(span)))
            old = part.nodes(Span(0, 0))
            self._replace(old, nodes, part.as_is(Span(0, 0)), merged.cost, labels=labels)
            # The value is another one now.
            nodes[-1].outputs[0].name = self.rewriter.unique(f"{label(plan.join)}.{i}")
        copy = self.rewriter.copy(plan.join)
        self.rewriter.replace([plan.join, plan.last], [copy])
        self.facts.transfer(plan.last.outputs[0], copy.outputs[0])
        return True

    def _take_in(self, plan: Reroot) -> bool:
        first = plan.parts[0]
        shared = first.nodes(Span(0, plan.shared - 1))
        written = [
            (part, span, self.writer.write(part, span, shared))
            for combined in plan.parts
            for part, span in combined.merges(self.policy)
        ]
        if any(isinstance(nodes, Refusal) for _, _, nodes in written):
            for _, _, nodes in written:
                discard(nodes if isinstance(nodes, list) else [])
            return False
        for part, span, nodes in written:
            assert isinstance(nodes, list)
            merged = part.merged(span)
            assert isinstance(merged, Merged)
            old = [node for node in part.nodes(span) if node not in shared]
            labels = tuple(map(label, part.nodes(span)))
            self._replace(old, nodes, part.as_is(span), merged.cost, labels=labels)
        self.rewriter.drop(plan.value)
        return True

    def _bridge_chain(self, chain: Chain) -> bool:
        """Merge the first two maps of a chain that only a bias at a border keeps apart."""
        ways = [self.border] if self.border is not Border.EXACT else []
        if not ways and chain.root.name == self.image:
            ways = [Border.PAD, Border.ONES, Border.MAP]
        if not ways:
            return False
        part = _partitioner(chain, self.facts)
        for span in part.bridgeable():
            old = part.nodes(span)
            for way in ways:
                nodes = self.writer.bridge(way, part, span, self.facts.shape(chain.root))
                if not isinstance(nodes, Refusal):
                    break
            labels = tuple(map(label, old))
            if isinstance(nodes, Refusal):
                refused = Kept(labels, nodes)
                self.kept += [] if refused in self.kept else [refused]
                continue
            # What kept these nodes apart does so no more.
            between = {element.output.name for element in part.inside(span)[:-1]}
            self.kept = [k for k in self.kept if k.value not in between]
            constants = [v for n in nodes for v in n.inputs if v is not None and v.const_value]
            weight = max((v.const_value.size for v in constants if v.const_value), default=0)
            size = sum(v.const_value.size for v in constants if v.const_value)
            after = Cost(weight * part.positions_after(span), size, len(nodes))
            self._replace(old, nodes, part.as_is(span), after, way)
            return True
        return False

    def _fold_chain(self, chain: Chain) -> list[Kept]:
        """Merge what the policy chooses in one chain; why the rest stays."""
        try:
            kept, written = self._plan_chain(_partitioner(chain, self.facts))
        except (*CONTRADICTIONS, MemoryError) as error:  # shapes that no model could run with
            nodes = [node for element in chain.elements for node in element.nodes()]
            return [Kept(tuple(map(label, nodes)), contradiction(error))]
        for part, span, nodes in written:
            self._put(part, span, nodes)
        return kept

    def _plan_chain(
        self, partitioner: Partitioner
    ) -> tuple[list[Kept], list[tuple[Partitioner, Span, list[ir.Node]]]]:
        """What the policy chooses in one chain, in no graph yet, and why the rest stays."""
        partitioner.clock = None if self.stopwatch is None else self._time
        while True:
            written: list[tuple[Partitioner, Span, list[ir.Node]]] = []
            refused: list[tuple[Partitioner, Span, Refusal]] = []
            try:
                for part, span in list(partitioner.merges(self.policy)):
                    nodes = self.writer.write(part, span)
                    if isinstance(nodes, Refusal):
                        refused.append((part, span, nodes))
                    else:
                        written.append((part, span, nodes))
                if not refused:
                    return [kept_of(b) for b in partitioner.refusals(self.policy)], written
            except (*CONTRADICTIONS, MemoryError):
                for _, _, nodes in written:
                    discard(nodes)
                raise
            for _, _, nodes in written:
                discard(nodes)
            for part, span, refusal in refused:
                part.forbid(span, refusal)

    def _time(self, part: Partitioner, span: Span, merge: bool) -> int | None:
        """How long a span takes as one map, or its only element as it is."""
        assert self.stopwatch is not None
        element = part.elements[span.first]
        if not merge:
            alone = [element.node] if isinstance(element, Join) else list(element.nodes())
            return self.stopwatch.nanoseconds(alone)
        simpler = self.writer.simpler
        nodes = self.writer.write(part, span)
        self.writer.simpler = simpler
        if isinstance(nodes, Refusal):
            return None
        taken = self.stopwatch.nanoseconds(nodes)
        discard(nodes)
        return taken

    def _put(self, part: Partitioner, span: Span, new: list[ir.Node]) -> None:
        merged = part.merged(span)
        assert isinstance(merged, Merged)
        self._replace(part.nodes(span), new, part.as_is(span), merged.cost)

    def _replace(
        self,
        old: Sequence[ir.Node],
        new: Sequence[ir.Node],
        before: Cost,
        after: Cost,
        border: Border = Border.EXACT,
        labels: tuple[str, ...] = (),
    ) -> None:
        labels = labels or tuple(map(label, old))
        self._settle_constants(old)
        # Nodes before the result have its shape unless they state their own.
        alike = [n for n in new[:-1] if n.op_type != "Pad" and n.outputs[0].shape is None]
        self.rewriter.replace(old, new)
        for node in (*alike, new[-1]):
            self.facts.transfer(old[-1].outputs[0], node.outputs[0])
        self.sites.append(Site(labels, tuple(map(label, new)), before, after, border))

    def _settle_constants(self, old: Sequence[ir.Node]) -> None:
        """Write down what outside nodes compute from the shape or type of what goes."""
        going = set(old)
        for value in (out for node in old for out in node.outputs):
            for reader in list(value.consumers()):
                if reader not in going and value is not old[-1].outputs[0]:
                    for constant in self.facts.fixed_values(reader) or ():
                        self.rewriter.freeze(constant, self.facts.tensor(constant))


def _partitioner(chain: Chain, facts: Facts) -> Partitioner:
    return Partitioner(chain.elements, chain.extents, chain.rank, facts)


def _possible(plans: Iterable[Plan]) -> Iterator[Plan]:
    """Plans as far as they can be made: shapes that contradict each other end them."""
    with contextlib.suppress(*CONTRADICTIONS, MemoryError):
        yield from plans
