"""Find the chains of a graph, and the reasons that keep linear layers apart."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.train.composed.chain import Branches, Chain, Element
from onnx_expand.train.composed.layers import Lifter, LinearNode, is_same

__all__ = ["FoundChain", "SeparateLayers", "find"]

# Longer chains are cut, because the number of stretches grows quadratically.
_LONGEST = 24


@dataclass(frozen=True)
class SeparateLayers:
    """Two neighbouring linear layers that do not form one map."""

    first: str
    second: str
    refusal: Refusal


@dataclass(frozen=True)
class FoundChain:
    """A chain in a graph."""

    chain: Chain
    root: ir.Value
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True)
class _Segment:
    """A chain while it grows."""

    root: ir.Value
    entries: frozenset[ir.Node]  # the nodes that read the root
    elements: tuple[Element, ...]
    nodes: tuple[ir.Node, ...]

    @functools.cached_property
    def chain(self) -> Chain:
        return Chain.of(self.elements)

    def extended(self, elements: Sequence[Element], nodes: Sequence[ir.Node]) -> _Segment:
        return _Segment(
            self.root, self.entries, (*self.elements, *elements), (*self.nodes, *nodes)
        )

    def takes(self, element: Element) -> bool:
        """Return whether an element can be appended: it maps the same axes, and fits the limit."""
        last = self.elements[-1]
        ranks = {e.geometry.rank for e in (*self.elements, element)} - {0}
        return (
            len(ranks) < 2
            and last.axis == element.axis
            and last.geometry.out_channels == element.geometry.in_channels
            and len(self.elements) < _LONGEST
        )


def find(graph: ir.Graph, lifter: Lifter) -> tuple[list[FoundChain], list[SeparateLayers]]:
    """Return the chains of several layers or of branches, in graph order, and the layers apart."""
    finder = _Finder(lifter)
    for node in graph:
        finder.visit(node)
    found = []
    apart = [a for a, values in finder.apart if not finder.joined(values)]
    for segment in finder.segments.values():
        chain = segment.chain
        apart += [
            SeparateLayers(chain.elements[i].label, chain.elements[i + 1].label, refusal)
            for i, refusal in sorted(chain.ends.items())
        ]
        if chain.composes and chain.is_weighted:
            found.append(FoundChain(chain, segment.root, segment.nodes))
    return found, apart


class _Finder:
    """Grows chains along the nodes of one graph."""

    def __init__(self, lifter: Lifter) -> None:
        self.lifter = lifter
        self.segments: dict[ir.Value, _Segment] = {}
        self.normalized: dict[ir.Value, _Segment] = {}
        self.apart: list[tuple[SeparateLayers, tuple[ir.Value, ...]]] = []

    def visit(self, node: ir.Node) -> None:
        """Process the next node, in topological order."""
        x = node.inputs[0] if node.inputs else None
        if node.op_type == "BatchNormalization" and x in self.segments:
            self.normalized[node.outputs[0]] = self.segments[x]
        elif not self._join(node):
            self._layer(node)

    def _layer(self, node: ir.Node) -> None:
        linear = self.lifter.linear(node)
        if linear is None:
            return
        x, y = linear.x, node.outputs[0]
        above = self._alone(x, node)
        if is_same(linear):
            if above is not None:
                self.segments[y] = self.segments.pop(x).extended([], [node])
            return
        layer = self.lifter.layer(linear, None if above is None else above.elements[-1])
        if layer is None:
            return
        if above is not None and above.takes(layer):
            self.segments[y] = self.segments.pop(x).extended([layer], [node])
            return
        self._explain(x, layer, node)
        self.segments[y] = _Segment(x, frozenset([node]), (layer,), (node,))

    def joined(self, values: Sequence[ir.Value]) -> bool:
        """Return whether values recorded as apart are in one chain after all."""
        nodes = {value.producer() for value in values}
        return any(nodes <= set(segment.nodes) for segment in self.segments.values())

    def _explain(self, x: ir.Value, layer: LinearNode, node: ir.Node) -> None:
        """Record why the layer of a node starts a new chain although a layer precedes it."""
        if x in self.normalized:
            above, refusal = self.normalized[x], _normalized("stands in between")
        elif x in self.segments and self._alone(x, node) is None:
            above = self.segments[x]
            shown = x.is_graph_output()
            words = "is an output of the graph" if shown else "is read more than once"
            reason = Reason.OUTPUT if shown else Reason.SHARED
            refusal = Refusal(reason, f"what is in between {words}")
        else:
            return
        if above.takes(layer):
            labels = above.elements[-1].label, layer.label
            self.apart.append((SeparateLayers(*labels, refusal), (x, node.outputs[0])))

    def _join(self, node: ir.Node) -> bool:
        """Make one element of branches that a node sums; return whether the node sums any."""
        if Trait.SUM not in op_of(node).traits or len(node.inputs) < 2:
            return False
        stored = self.lifter.stored
        values = [value for value in node.inputs if value is not None and value not in stored]
        if len(values) != len(node.inputs) or node not in self.lifter.translations:
            return False
        segments = [self._alone(value, node) for value in values]
        roots = {v if s is None else s.root for v, s in zip(values, segments, strict=True)}
        if len(roots) != 1 or all(s is None for s in segments):
            self._explain_join(node, values)
        else:
            self._sum(node, roots.pop(), values, segments)
        return True

    def _sum(
        self,
        node: ir.Node,
        root: ir.Value,
        values: Sequence[ir.Value],
        segments: Sequence[_Segment | None],
    ) -> None:
        count = len(values)
        factors = {"Sub": (1.0, -1.0), "Mean": (1 / count,) * count}
        branches = [None if s is None else s.chain for s in segments]
        element = Branches.of(branches, factors.get(node.op_type, (1.0,) * count))
        if isinstance(element, Refusal):
            labels = [s.chain.label for s in segments if s is not None]
            apart = SeparateLayers(labels[0], labels[-1], element)
            self.apart.append((apart, (node.outputs[0], root)))
            return
        inner: list[ir.Node] = []
        entries = {node} if None in segments else set()
        for value, segment in zip(values, segments, strict=True):
            if segment is not None:
                del self.segments[value]
                inner += segment.nodes
                entries |= segment.entries
        above = self.segments.get(root)
        shared = {use.node for use in root.uses()} - entries or root.is_graph_output()
        if above is not None and not shared and above.takes(element):
            del self.segments[root]
            segment = above.extended([element], [*inner, node])
        else:
            segment = _Segment(root, frozenset(entries), (element,), (*inner, node))
        self.segments[node.outputs[0]] = segment

    def _explain_join(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Record branches that batch normalization alone keeps from being one map."""
        segments = [self.normalized.get(v) or self.segments.get(v) for v in values]
        roots = {v if s is None else s.root for v, s in zip(values, segments, strict=True)}
        known = [s.chain.label for s in segments if s is not None]
        if len(roots) == 1 and any(v in self.normalized for v in values):
            refusal = _normalized("stands in the branches")
            self.apart.append(
                (SeparateLayers(known[0], known[-1], refusal), (node.outputs[0], *roots))
            )

    def _alone(self, value: ir.Value, reader: ir.Node) -> _Segment | None:
        """Return the chain that ends at a value, if `reader` alone reads it, and once."""
        segment = self.segments.get(value)
        if segment is None or value.is_graph_output():
            return None
        return segment if [use.node for use in value.uses()] == [reader] else None


def _normalized(place: str) -> Refusal:
    message = f"batch normalization {place}, which is not linear in training"
    return Refusal(Reason.ACTIVATION, message)
