"""Branches that a region does not cover: sums and concatenations of values from different roots.

Two rewrites bring linear nodes next to each other there. A map of single channels behind a
concatenation or a sum goes into the branches, where each layer takes in its share. The terms of a
longer sum that come from one value are added first, so that they can become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.attributes import int_of
from onnx_expand.cost import Cost
from onnx_expand.elements import Join, Leaf
from onnx_expand.lift import Linear, lift
from onnx_expand.passes.partition import Merged, Partitioner, Policy, Span, sum_costs
from onnx_expand.passes.rewrite import Rewriter
from onnx_expand.regions import Chain, connected, extents_of
from onnx_expand.values import Facts

__all__ = ["Regrouping", "Spread", "find_regroupings", "find_spreads", "regroup"]

_SUMS = {"Add", "Sum"}


@dataclass(frozen=True)
class Spread:
    """A map of single channels that the layers before a join can take in.

    Attributes:
        join: Concat, or a sum.
        last: The node of the map.
        parts: For each input of the join its layer and its share of the map.
    """

    join: ir.Node
    last: ir.Node
    parts: tuple[Partitioner, ...]


def find_spreads(graph: ir.Graph, facts: Facts, policy: Policy) -> Iterator[Spread]:
    """The maps of single channels behind joins that cost less in the layers before these."""
    for node in graph:
        if node.domain or node.op_type not in {*_SUMS, "Concat", "Mean", "Sub"}:
            continue
        value = node.outputs[0]
        readers = facts.readers(value)
        if len(readers) != 1 or value.is_graph_output() or readers[0].graph is not graph:
            continue
        linear = lift(readers[0], facts)
        if not isinstance(linear, Linear) or not linear.geometry.is_per_channel:
            continue
        if linear.y.is_graph_output() and linear.node.outputs[0] is not linear.y:
            continue
        layers = [_alone(v, node, facts) for v in node.inputs]
        if len(layers) < 2 or len(set(node.inputs)) < len(layers):
            continue
        found = [layer for layer in layers if layer is not None and layer.axes is not None]
        if len(found) == len(layers):
            plan = _spread(node, found, linear, facts, policy)
            if plan is not None:
                yield plan


def _alone(value: ir.Value | None, reader: ir.Node, facts: Facts) -> Linear | None:
    """The linear node that computes a value for one reader only."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or value.is_graph_output():
        return None
    if producer.graph is not reader.graph or facts.readers(value) != [reader]:
        return None
    linear = lift(producer, facts)
    return linear if isinstance(linear, Linear) else None


def _spread(
    join: ir.Node, layers: Sequence[Linear], last: Linear, facts: Facts, policy: Policy
) -> Spread | None:
    axis = layers[0].axes[1] if layers[0].axes is not None else 1
    counts = [layer.geometry.out_channels for layer in layers]
    is_concat = join.op_type == "Concat"
    if any(layer.axes is None or layer.axes[1] != axis for layer in layers):
        return None
    if is_concat:
        rank = facts.rank(join.outputs[0])
        given = int_of(join, "axis", facts.opset, 1)
        if rank is None or given % rank != axis % rank:
            return None
    last = last.on(axis, sum(counts) if is_concat else counts[0])
    if last.axes is None or last.axes[0] != axis:
        return None
    parts, before, first = [], [], 0
    for i, layer in enumerate(layers):
        # Of a sum one term takes the shift, of a mean every one.
        shifts = i == 0 or join.op_type in {"Concat", "Mean"}
        share = _share(last, first if is_concat else 0, counts[i], shifts)
        first += counts[i]
        elements = connected([Leaf(layer)], [Leaf(share)])
        if elements is None:
            return None
        shape = facts.shape(layer.x)
        rank = None if shape is None else len(shape)
        part = Partitioner(elements, extents_of(elements, shape), rank, facts, may_shift=False)
        if not isinstance(part.merged(Span(0, 1)), Merged):
            return None
        parts.append(part)
        before.append(part.as_is(Span(0, 0)))
    after = sum_costs(_merged_cost(part) for part in parts)
    channels = sum(counts) if is_concat else counts[0]
    own = Cost.of_node(last, parts[0].positions_after(Span(0, 0)), facts)
    total = sum_costs(iter([*before, own]))
    if channels != last.geometry.out_channels or policy.key(after) >= policy.key(total):
        return None
    return Spread(join, last.node, tuple(parts))


def _merged_cost(part: Partitioner) -> Cost:
    merged = part.merged(Span(0, 1))
    assert isinstance(merged, Merged)
    return merged.cost


def _share(last: Linear, first: int, count: int, shifts: bool) -> Linear:
    """A map of single channels for some of them, without its shift if another takes that."""
    geometry = replace(
        last.geometry,
        in_channels=count,
        out_channels=count,
        group=count,
        bias=last.geometry.bias and shifts,
    )

    def load() -> AffineConv:
        affine = last.load()
        scale = affine.weight.reshape(-1)[first : first + count]
        shift = None if affine.bias is None or not shifts else affine.bias[first : first + count]
        return AffineConv.per_channel(scale, shift)

    return replace(last, geometry=geometry, load=load)


# -- Sums -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regrouping:
    """The terms of a sum of several nodes, in the order in which to add them.

    Attributes:
        adders: The nodes that add them now, the one that computes the sum last.
        terms: All terms, those that can become one first.
    """

    adders: tuple[ir.Node, ...]
    terms: tuple[ir.Value, ...]


def find_regroupings(
    graph: ir.Graph, chains: Sequence[Chain], facts: Facts, policy: Policy
) -> Iterator[Regrouping]:
    """The sums in which terms of one root are apart that would cost less as one map."""
    ending = {chain.elements[-1].output: chain for chain in chains}
    for node in graph:
        if not _is_sum(node, facts) or _is_inside(node, facts):
            continue
        adders, terms = _terms(node, facts)
        if len(terms) < 3 or len(set(terms)) < len(terms):
            continue
        by_root: dict[ir.Value, list[ir.Value]] = {}
        for term in terms:
            chain = ending.get(term)
            alone = chain is not None and len(facts.readers(term)) == 1
            root = chain.root if chain is not None and alone else term
            by_root.setdefault(root, []).append(term)
        for group in by_root.values():
            chosen = _mergeable(group, adders[-1], ending, facts, policy)
            if 1 < len(chosen) < len(terms) and not _is_added(chosen, adders, facts):
                rest = [term for term in terms if term not in chosen]
                yield Regrouping(tuple(adders), (*chosen, *rest))
                break


def regroup(plan: Regrouping, rewriter: Rewriter, facts: Facts) -> None:
    """Add the terms of a sum in another order."""
    total, nodes = plan.terms[0], list[ir.Node]()
    y = plan.adders[-1].outputs[0]
    names = [adder.name or "" for adder in plan.adders]
    while len(names) < len(plan.terms) - 1:
        names.insert(0, rewriter.unique(names[-1] or "sum"))
    for name, term in zip(names, plan.terms[1:], strict=False):
        nodes.append(ir.node("Add", [total, term], name=name))
        total = nodes[-1].outputs[0]
    rewriter.replace(plan.adders, nodes)
    for node in nodes:
        facts.transfer(y, node.outputs[0])


def _is_sum(node: ir.Node, facts: Facts) -> bool:
    if node.domain or node.op_type not in _SUMS or len(node.inputs) < 2:
        return False
    shapes = [facts.shape(value) for value in node.inputs]
    first = shapes[0]
    # Terms that are broadcast are not to be added in another order.
    if first is None or any(shape != first for shape in shapes) or None in first[1:2]:
        return False
    return not any(facts.is_constant(value) for value in node.inputs)


def _is_inside(node: ir.Node, facts: Facts) -> bool:
    """Whether a sum is a term of another sum, and nothing else."""
    value = node.outputs[0]
    readers = facts.readers(value)
    if len(readers) != 1 or value.is_graph_output() or readers[0].graph is not node.graph:
        return False
    return _is_sum(readers[0], facts)


def _terms(node: ir.Node, facts: Facts) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes of a sum, its last one last, and its terms from left to right."""
    adders: list[ir.Node] = []
    terms: list[ir.Value] = []
    pending: list[ir.Value | ir.Node] = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, ir.Node):
            adders.append(current)
            pending += [v for v in reversed(current.inputs) if v is not None]
            continue
        producer = current.producer()
        inner = producer is not None and _is_sum(producer, facts) and _is_inside(producer, facts)
        if inner and producer is not None:
            pending.append(producer)
        else:
            terms.append(current)
    return adders[::-1], terms


def _is_added(chosen: Sequence[ir.Value], adders: Sequence[ir.Node], facts: Facts) -> bool:
    """Whether some terms are added to each other already."""
    return any(set(chosen) == set(_terms(adder, facts)[1]) for adder in adders)


def _mergeable(
    group: Sequence[ir.Value],
    adder: ir.Node,
    ending: dict[ir.Value, Chain],
    facts: Facts,
    policy: Policy,
) -> list[ir.Value]:
    """Terms of one root that cost less as one map, as many as fit."""
    chosen: list[ir.Value] = []
    for term in group:
        wanted = [*chosen, term]
        if len(group) > 1 and (len(wanted) == 1 or _gains(wanted, adder, ending, facts, policy)):
            chosen = wanted
    return chosen


def _gains(
    terms: Sequence[ir.Value],
    adder: ir.Node,
    ending: dict[ir.Value, Chain],
    facts: Facts,
    policy: Policy,
) -> bool:
    chains = [ending.get(term) for term in terms]
    known = [chain for chain in chains if chain is not None]
    axes = {(c.elements[0].axes, c.elements[-1].axes) for c in known}
    if not known or len(axes) != 1 or None in next(iter(axes)):
        return False
    first, last = known[0].elements[0], known[0].elements[-1]
    if first.axes is None or last.axes is None:
        return False
    if len(known) < len(terms) and first.axes[0] != last.axes[1]:
        return False  # the root itself has its channels on another axis
    leaf = next(first.leaves(), None)
    if leaf is None:
        return False
    m = first.in_channels if isinstance(first, Join) else leaf.geometry.in_channels
    ends = (first.axes[0], last.axes[1])
    branches = tuple(() if chain is None else chain.elements for chain in chains)
    join = Join(adder, branches, (1.0,) * len(terms), ends, m, last.out_channels)
    if any(element.leaves_parts() for branch in branches for element in branch):
        return False
    part = Partitioner([join], known[0].extents, known[0].rank, facts)
    return any(chain is part for chain, _ in part.merges(policy))
