"""Fold: merge the linear stretches of a graph into the cheapest nodes that compute the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.cost import Cost, Inspection, inspect_model
from onnx_expand.elements import Element, Join
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.lift import CONTRADICTIONS, Linear, contradiction, lift
from onnx_expand.lower import Form, Names, Target, Template, constant, lower
from onnx_expand.passes.branches import (
    Spread,
    find_regroupings,
    find_spreads,
    regroup,
)
from onnx_expand.passes.borders import Border, bridge
from onnx_expand.passes.extents import state_extents
from onnx_expand.passes.functions import (
    as_constants,
    body_of,
    calls_with_weights,
    inline_functions,
)
from onnx_expand.passes.partition import Merged, Partitioner, Policy, Span, units_of
from onnx_expand.passes.renaming import state_shape, write_renames
from onnx_expand.passes.reroot import Reroot, find_reroots
from onnx_expand.passes.rewrite import Rewriter, label
from onnx_expand.passes.stopwatch import Stopwatch
from onnx_expand.passes.units import EXPANDED, drop_incomplete, nonlinear_units, unmark
from onnx_expand.passes.weights import freeze_weights
from onnx_expand.regions import Break, Chain, find_chains
from onnx_expand.values import Facts, Shape

__all__ = ["Fold", "FoldReport", "FoldResult", "Kept", "Site"]


Plan = TypeVar("Plan")


@dataclass(frozen=True)
class Site:
    """Nodes that were merged.

    Attributes:
        nodes: What was there.
        result: What is there now.
        before: The cost of what was there.
        after: The cost of what is there now.
        border: How a padded border was bridged, `exact` where nothing had to be.
    """

    nodes: tuple[str, ...]
    result: tuple[str, ...]
    before: Cost
    after: Cost
    border: Border = Border.EXACT


@dataclass(frozen=True)
class Kept:
    """Nodes that were not merged, the tensor between them if there is one, and why."""

    nodes: tuple[str, ...]
    refusal: Refusal
    value: str = ""


@dataclass(frozen=True)
class FoldReport:
    """What fold did, what it left alone, and what the model cost before and after.

    Attributes:
        policy: The policy that decided; never `auto`.
        sites: What was merged.
        kept: What was not, each with its reason.
        before: The model as it came, where it was measured.
        after: The model as it is.
    """

    policy: Policy
    sites: tuple[Site, ...]
    kept: tuple[Kept, ...]
    before: Inspection | None
    after: Inspection | None

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return {
            "schema": 1,
            "policy": str(self.policy),
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
            "folded": [
                {
                    "nodes": list(site.nodes),
                    "result": list(site.result),
                    "before": vars(site.before),
                    "after": vars(site.after),
                    "border": str(site.border),
                }
                for site in self.sites
            ],
            "kept": [
                {"nodes": list(k.nodes), "value": k.value, **k.refusal.as_dict()}
                for k in self.kept
            ],
        }


@dataclass
class FoldResult(ir.passes.PassResult):
    """The result of `Fold`, with its report."""

    report: FoldReport


@dataclass(frozen=True)
class Fold(ir.passes.InPlacePass):
    """Merge chains of linear nodes, by the policy.

    The model keeps its inputs, outputs and names; a result takes the names of the heaviest node
    that it replaces, or those recorded by expand. Weights that something else reads stay as they
    are. All arithmetic is float64 with one rounding to the model's type at the end.

    Attributes:
        policy: What to merge.
        border: What to do where a bias meets a padded border.
        image: The name of an input behind which any rewrite of a border may be used, the cheapest
            that applies; for preprocessing.
        measure: Whether to inspect the model before and after, for the report.
        provider: Where the policy `latency` measures, `cpu` or `cuda`; the first that this
            machine has, when missing.
        inline: Put the bodies of local functions in the place of their calls first, so that
            weights which callers hand over can be merged.
    """

    policy: Policy = Policy.AUTO
    border: Border = Border.EXACT
    image: str | None = None
    measure: bool = False
    provider: str | None = None
    inline: bool = False

    def call(self, model: ir.Model) -> FoldResult:
        """Fold a model in place."""
        before = inspect_model(model) if self.measure else None
        policy = self.policy
        if policy is Policy.AUTO:
            # The note outlives the units, so that folding once more changes nothing.
            marked = EXPANDED in model.metadata_props or drop_incomplete(model)
            policy = Policy.MARKED if marked else Policy.CHEAPEST
        if self.inline and policy is not Policy.MARKED:
            inline_functions(model)
        runs = [self._fold(model, policy)]
        for function in model.functions.values() if policy is not Policy.MARKED else ():
            runs.append(self._fold(body_of(function, model), policy))
            as_constants(function.graph)
        drop_incomplete(model)
        if policy is not Policy.MARKED:
            model.metadata_props.pop(EXPANDED, None)
        after = inspect_model(model) if self.measure else None
        kept = [kept for run in runs for kept in run.kept]
        kept += [_kept(b) for graph in model.graphs() for b in calls_with_weights(graph, model)]
        kept += [Kept(tuple(map(label, nodes)), why) for nodes, why in nonlinear_units(model)]
        sites = tuple(site for run in runs for site in run.sites)
        return FoldResult(
            model, bool(sites), FoldReport(policy, sites, tuple(kept), before, after)
        )

    def _fold(self, model: ir.Model, policy: Policy) -> _Run:
        """Fold all graphs of a model, those of its functions aside."""
        run = _Run(model, policy, self.border, self.image)
        if policy is Policy.LATENCY:
            run.stopwatch = Stopwatch(run.facts, self.provider)
        for graph in list(model.graphs()):
            run.fold_graph(graph)
        run.rewriter.finish()
        return run


_ROUNDS = 3


class _Run:
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
        # Whether a result came out simpler than its parts foretold, a bias that cancelled for
        # instance, so that more may merge now.
        self.simpler = False

    def fold_graph(self, graph: ir.Graph) -> None:
        """Fold one graph; the graphs within its nodes are folded by calls of their own."""
        if self.policy is not Policy.MARKED:
            for gone, name in state_extents(graph, self.facts, self.rewriter):
                self.sites.append(Site(gone, (name,), Cost(0, 0, len(gone)), Cost()))
        kept: list[Kept] = []
        self.simpler = True
        rounds = 0
        # Every round leaves less to do; but what is measured is never quite the same twice.
        most = _ROUNDS if self.stopwatch is not None else len(graph) + _ROUNDS
        while self.simpler and rounds < most:
            self.simpler, rounds = False, rounds + 1
            chains, breaks = find_chains(graph, self.facts)
            kept = [_kept(b) for b in breaks]
            for chain in chains:
                kept += self._fold_chain(chain)
            if not self.simpler and self.policy is not Policy.MARKED:
                self.simpler = (
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
        written = [(part, self._write(part, span, [plan.last])) for part in plan.parts]
        if any(isinstance(nodes, Refusal) for _, nodes in written):
            for _, nodes in written:
                _discard(nodes if isinstance(nodes, list) else [])
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
            (part, span, self._write(part, span, shared))
            for combined in plan.parts
            for part, span in combined.merges(self.policy)
        ]
        if any(isinstance(nodes, Refusal) for _, _, nodes in written):
            for _, _, nodes in written:
                _discard(nodes if isinstance(nodes, list) else [])
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
                nodes = self._bridge(way, part, span, self.facts.shape(chain.root))
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

    def _bridge(
        self, way: Border, part: Partitioner, span: Span, shape: Shape | None
    ) -> list[ir.Node] | Refusal:
        inside, links, old = part.inside(span), part.leaves(span), part.nodes(span)
        try:
            f = part.load(Span(span.first, span.last - 1))
            g = part.load(Span(span.last, span.last))
            target = self._target(inside[0].input, links, old, self._template(inside, links))
            static = shape is not None and None not in shape[2:]
            extents = part.extents_before(span) if static else (None,) * g.rank
            return bridge(way, f, g, extents, target)
        except RefusedError as error:
            return error.refusal

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
                    nodes = self._write(part, span)
                    if isinstance(nodes, Refusal):
                        refused.append((part, span, nodes))
                    else:
                        written.append((part, span, nodes))
                if not refused:
                    return [_kept(b) for b in partitioner.refusals(self.policy)], written
            except (*CONTRADICTIONS, MemoryError):
                for _, _, nodes in written:
                    _discard(nodes)
                raise
            for _, _, nodes in written:
                _discard(nodes)
            for part, span, refusal in refused:
                part.forbid(span, refusal)

    def _time(self, part: Partitioner, span: Span, merge: bool) -> int | None:
        """How long a span takes as one map, or its only element as it is."""
        assert self.stopwatch is not None
        element = part.elements[span.first]
        if not merge:
            alone = [element.node] if isinstance(element, Join) else list(element.nodes())
            return self.stopwatch.nanoseconds(alone)
        simpler = self.simpler
        nodes = self._write(part, span)
        self.simpler = simpler
        if isinstance(nodes, Refusal):
            return None
        taken = self.stopwatch.nanoseconds(nodes)
        _discard(nodes)
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
        self.rewriter.replace(old, new)
        for node in new:
            # Nodes before the result have its shape unless they state their own.
            if node is new[-1] or (node.op_type != "Pad" and node.outputs[0].shape is None):
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

    def _write(
        self, part: Partitioner, span: Span, shared: Sequence[ir.Node] = ()
    ) -> list[ir.Node] | Refusal:
        """The nodes that a span becomes; nothing in the graph is touched yet.

        Nodes that are shared with others stay for now, and keep their names.
        """
        merged = part.merged(span)
        assert isinstance(merged, Merged)
        inside = part.inside(span)
        links = [link for link in part.leaves(span) if link.node not in shared]
        old = [node for node in part.nodes(span) if node not in shared]
        template = self._template(inside[: 0 if shared else None], links)
        simpler = self.simpler
        try:
            affine, shift = _numbers(part, span, merged)
            if merged.form not in {Form.GEMM, Form.MATMUL}:
                affine = affine.finest()
            self.simpler |= affine.geometry != merged.geometry
            # A constant that the nodes map is read by what they become, too.
            free = set(self.rewriter.own_names(old)) - {inside[0].input.name or ""}
            target = self._target(inside[0].input, links, old, template, free)
            units = [unit for unit, _ in units_of(inside)]
            whole = bool(units) and len(units[0]) == len(inside)
            nodes = []
            if shift is not None:
                nodes.append(self._add_before(shift, merged, target, free))
                target = replace(target, x=nodes[0].outputs[0])
            nodes += self._lower(affine, merged, target, template, free, restore=whole)
            # Several nodes, or one for all channels alike, have merits of their own next time; and
            # a value that was beyond a change of layout may be next to its like now.
            self.simpler |= len(nodes) > 1 or merged.form is Form.ELEMENTWISE
            self.simpler |= merged.layout is not None
        except RefusedError as error:
            self.simpler = simpler
            return error.refusal
        except MemoryError:
            self.simpler = simpler
            return Refusal(Reason.UNSUPPORTED, "the merged weights do not fit into memory")
        if not whole and not shared and self._gains_nothing(part, span, nodes, merged):
            _discard(nodes)
            self.simpler = simpler
            return Refusal(Reason.COST, "merging would gain nothing")
        for node in nodes:
            unmark(node)
        return nodes

    def _gains_nothing(
        self, part: Partitioner, span: Span, nodes: Sequence[ir.Node], merged: Merged
    ) -> bool:
        """Whether nodes hold more numbers than was foretold, a bias of zeros say, so that as few
        as there were would do.
        """
        read = {v for node in nodes for v in node.inputs if v is not None}
        new = [v.const_value for v in read if not v.is_initializer() and v.const_value is not None]
        sizes = (tensor.size for tensor in new if tensor.dtype.is_floating_point())
        extra = sum(sizes) - merged.cost.parameters
        actual = merged.cost + Cost(0, extra, 0)
        before = part.as_is(span)
        return extra > 0 and self.policy.key(actual) >= self.policy.key(before)

    def _lower(
        self,
        affine: AffineConv,
        merged: Merged,
        target: Target,
        template: Template | None,
        free: set[str],
        *,
        restore: bool,
    ) -> list[ir.Node]:
        """The nodes of a map, with renames around it where its layout has any."""
        layout, geometry = merged.layout, affine.geometry
        if layout is None or merged.axes is None:
            ends: tuple[int | None, int | None] = (None, None)
        else:
            first = next(iter(layout.before), None)
            m = geometry.in_channels
            if first is not None and layout.spreads:
                m = first.channels[0]  # what becomes features was scaled by itself at most
            ends = m, geometry.out_channels

        def unique(name: str) -> str:
            return self.rewriter.unique(name, free=free)

        nodes: list[ir.Node] = []
        try:
            if layout is not None:
                nodes += write_renames(layout.before, target.x, ends[0], self.facts, unique)
            x = nodes[-1].outputs[0] if nodes else target.x
            mapping = lower(
                affine,
                merged.form,
                merged.axes,
                replace(target, x=x),
                template,
                restore=restore,
            )
            nodes += mapping
            if layout is not None:
                y = nodes[-1].outputs[0]
                axis = None if merged.axes is None else merged.axes[1]
                for node in mapping if layout.after else ():
                    extents = layout.after[0].source
                    state_shape(node.outputs[0], extents, axis, ends[1], target.dtype)
                nodes += write_renames(layout.after, y, ends[1], self.facts, unique)
        except RefusedError:
            _discard(nodes)
            raise
        return nodes

    def _add_before(
        self, shift: npt.NDArray[np.float64], merged: Merged, target: Target, free: set[str]
    ) -> ir.Node:
        """The node that adds a shift per channel to the input of a map."""
        assert merged.axes is not None
        rank = self.facts.rank(target.x)
        if rank is None and merged.axes[0] >= 0:
            raise RefusedError(
                Refusal(Reason.UNKNOWN_SHAPE, f"the rank of '{target.x.name}' is not known")
            )
        behind = -1 - merged.axes[0] if rank is None else rank - 1 - merged.axes[0]
        stem = target.names.node
        name = self.rewriter.unique(f"{stem}.shift", free=free)
        value = constant(shift.reshape(-1, *(1,) * behind), name, target.dtype)
        node = ir.node("Add", [target.x, value], name=self.rewriter.unique(f"{stem}.add"))
        out = node.outputs[0]
        out.dtype = target.dtype
        dims = self.facts.named_shape(target.x)
        out.shape = None if dims is None else ir.Shape(dims)
        self.facts.transfer(target.x, out)
        return node

    def _template(self, inside: Sequence[Element], links: Sequence[Linear]) -> Template | None:
        """The node to write a span like: one that expand replaced, else its heaviest node."""
        for _, member in units_of(inside):
            return member.template()
        for link in sorted(links, key=lambda link: -link.geometry.parameters):
            template = Template.of(link, self.facts)
            if template is not None:
                return template
        return None

    def _target(
        self,
        x: ir.Value,
        links: Sequence[Linear],
        old: Sequence[ir.Node],
        template: Template | None,
        free: set[str] | None = None,
    ) -> Target:
        free = set(self.rewriter.own_names(old)) if free is None else free
        constants = (c for link in links for c in (link.weight, link.bias) if c is not None)
        known = (self.facts.dtype(v) for v in (x, old[-1].outputs[0], *constants))
        dtype = next((d for d in known if d is not None), None)
        if dtype is None:
            raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, "the type of its input is not known"))
        read = (v.const_value for n in old for v in n.inputs if v is not None)
        # What replaces weights that lie in a file waits in a file, too.
        on_disk = any(isinstance(tensor, ir.ExternalTensor) for tensor in read)
        spill = self.rewriter.spill if on_disk else None
        return Target(x, dtype, self._names(old, links, template, free), self.facts, spill)

    def _names(
        self,
        old: Sequence[ir.Node],
        links: Sequence[Linear],
        template: Template | None,
        free: set[str],
    ) -> Names:
        shift = next((link for link in links if link.node.op_type == "Add"), None)
        biases = [link.bias.name for link in links if link.bias is not None and link.bias.name]
        node = label(old[0])
        weights = [link.weight.name for link in links if link.weight is not None]
        weight = next((name for name in weights if name), f"{node}.weight")
        bias = biases[0] if biases else _bias_name(weight)
        if template is not None:
            node = template.node.name or node
            weight = template.input_name(1 - template.slot if template.slot < 2 else 1) or weight
            bias = template.input_name(2) or (biases[0] if biases else _bias_name(weight))
        add = shift.node.name if shift is not None and shift.node.name else f"{node}.bias"
        free.discard(node)
        weight, bias, add = (self.rewriter.unique(n, free=free) for n in (weight, bias, add))
        return Names(node, weight, bias, add)


def _numbers(
    part: Partitioner, span: Span, merged: Merged
) -> tuple[AffineConv, npt.NDArray[np.float64] | None]:
    """The numbers of a span, and the shift that is added before it, if there is one."""
    if not merged.shifted:
        return part.load(span), None
    scaling = part.load(Span(span.first, span.first + merged.shifted - 1)).finest()
    rest = part.load(Span(span.first + merged.shifted, span.last))
    scale, bias = scaling.weight.reshape(-1), scaling.bias
    assert bias is not None
    shift = np.divide(bias, scale, out=np.zeros_like(bias), where=scale != 0)
    return rest @ replace(scaling, bias=None), shift


def _bias_name(weight: str) -> str:
    stem, dot, last = weight.rpartition(".")
    return f"{stem}{dot}bias" if last == "weight" else f"{weight}.bias"


def _partitioner(chain: Chain, facts: Facts) -> Partitioner:
    return Partitioner(chain.elements, chain.extents, chain.rank, facts)


def _possible(plans: Iterable[Plan]) -> Iterator[Plan]:
    """Plans as far as they can be made: shapes that contradict each other end them."""
    with contextlib.suppress(*CONTRADICTIONS, MemoryError):
        yield from plans


def _discard(nodes: Sequence[ir.Node]) -> None:
    """Take back nodes that were written but will not be used: they count as readers."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _kept(found: Break) -> Kept:
    return Kept(tuple(map(label, found.nodes)), found.refusal, found.value)
