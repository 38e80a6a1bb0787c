"""Finding the chains of an imported graph, and what keeps linear layers apart."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from onnx_expand.errors import Reason, Refusal
from onnx_expand.train.composed.chain import Chain, Element, Sum
from onnx_expand.train.composed.layers import Layer, Source, is_same, layer_of
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.elementwise import add, mean, sub, total
from onnx_expand.train.ops.normalization import BatchNormalization

__all__ = ["Apart", "Found", "find"]

# Longer chains are cut: the number of stretches grows with the square.
_LONGEST = 24


@dataclass(frozen=True)
class Apart:
    """Two neighbouring linear layers that no single map computes.

    Attributes:
        first: The label of the first one.
        second: The label of the other one.
        refusal: Why.
    """

    first: str
    second: str
    refusal: Refusal


@dataclass(frozen=True)
class Found:
    """A chain in a graph.

    Attributes:
        chain: The chain.
        root: The node whose value it maps.
        nodes: Its nodes, the one that computes the result last.
    """

    chain: Chain
    root: fx.Node
    nodes: tuple[fx.Node, ...]


@dataclass
class _Segment:
    """A chain on its way down."""

    root: fx.Node
    entries: frozenset[fx.Node]  # the nodes that read the root
    elements: list[Element]
    nodes: list[fx.Node] = field(default_factory=list)

    @functools.cached_property
    def chain(self) -> Chain:
        return Chain.of(self.elements)


def find(module: OnnxModule) -> tuple[list[Found], list[Apart]]:
    """The chains of several layers, or of branches, in the order of the graph."""
    finder = _Finder(module)
    for node in module.graph.nodes:
        finder.visit(node)
    found = []
    apart = [a for a, nodes in finder.apart if not finder.joined(nodes)]
    for segment in finder.segments.values():
        chain = segment.chain
        apart += [
            Apart(chain.elements[i].label, chain.elements[i + 1].label, refusal)
            for i, refusal in sorted(chain.ends.items())
        ]
        if any(s.geometry is not None and i < j for (i, j), s in chain.spans.items()) or any(
            isinstance(element, Sum) for element in chain.elements
        ):
            found.append(Found(chain, segment.root, tuple(segment.nodes)))
    return found, apart


class _Finder:
    """Grows chains along the nodes of one graph."""

    def __init__(self, module: OnnxModule) -> None:
        self.module = module
        self.source = Source(module)
        self.segments: dict[fx.Node, _Segment] = {}
        self.normalized: dict[fx.Node, _Segment] = {}
        self.apart: list[tuple[Apart, tuple[fx.Node, ...]]] = []

    def visit(self, node: fx.Node) -> None:
        """Take in the next node, in topological order."""
        if node.op == "call_module":
            self._module(node)
        elif node.op == "call_function" and (is_same(node) or not self._join(node)):
            self._layer(node)

    def _module(self, node: fx.Node) -> None:
        """Remember what a batch normalization follows."""
        child = self.module.get_submodule(str(node.target))
        above = node.args[0]
        if isinstance(child, BatchNormalization) and above in self.segments:
            assert isinstance(above, fx.Node)
            self.normalized[node] = self.segments[above]

    def _layer(self, node: fx.Node) -> None:
        values = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op != "get_attr"]
        if len(values) != 1:
            return
        x = values[0]
        above = self._alone(x, node)
        if is_same(node):
            if above is not None:
                self._extend(x, above, [], node)
            return
        last = above.elements[-1].geometry if above is not None else None
        layer = layer_of(node, self.source, last)
        if layer is None:
            return
        if above is not None and _fits(above, layer) and len(above.elements) < _LONGEST:
            self._extend(x, above, [layer], node)
            return
        self._explain(x, layer, node)
        self.segments[node] = _Segment(x, frozenset([node]), [layer], [node])

    def _extend(
        self, x: fx.Node, above: _Segment, elements: Sequence[Element], node: fx.Node
    ) -> None:
        del self.segments[x]
        self.segments[node] = _Segment(
            above.root, above.entries, [*above.elements, *elements], [*above.nodes, node]
        )

    def joined(self, nodes: Sequence[fx.Node]) -> bool:
        """Whether nodes that seemed to be apart are in one chain after all."""
        return any(set(nodes) <= set(segment.nodes) for segment in self.segments.values())

    def _explain(self, x: fx.Node, layer: Layer, node: fx.Node) -> None:
        """Record why the layer of a node begins a chain though another layer is above it."""
        if x in self.normalized:
            above, refusal = self.normalized[x], _normalized("stands in between")
        elif x in self.segments and self._alone(x, node) is None:
            above = self.segments[x]
            shown = any(user.op == "output" for user in x.users)
            words = "is an output of the graph" if shown else "is read more than once"
            reason = Reason.OUTPUT if shown else Reason.SHARED
            refusal = Refusal(reason, f"what is in between {words}")
        else:
            return
        if _fits(above, layer):
            labels = above.elements[-1].label, layer.label
            self.apart.append((Apart(*labels, refusal), (x, node)))

    def _join(self, node: fx.Node) -> bool:
        """Make one element of branches that one node adds; whether the node adds any."""
        if node.target not in {add, sub, total, mean} or len(node.args) < 2:
            return False
        values = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if len(values) != len(node.args) or any(v.op == "get_attr" for v in values):
            return False
        segments = [self._alone(value, node) for value in values]
        roots = {v if s is None else s.root for v, s in zip(values, segments, strict=True)}
        if len(roots) != 1 or all(s is None for s in segments):
            self._explain_join(node, values)
            return True
        root = roots.pop()
        self._sum(node, root, values, segments)
        return True

    def _sum(
        self,
        node: fx.Node,
        root: fx.Node,
        values: Sequence[fx.Node],
        segments: Sequence[_Segment | None],
    ) -> None:
        count = len(values)
        factors = {sub: (1.0, -1.0), mean: (1 / count,) * count}.get(node.target, (1.0,) * count)  # type: ignore[arg-type]
        element = Sum.of([None if s is None else s.chain for s in segments], factors)
        if isinstance(element, Refusal):
            labels = [s.chain.label for s in segments if s is not None]
            self.apart.append((Apart(labels[0], labels[-1], element), (node, root)))
            return
        inner: list[fx.Node] = []
        entries = {node} if None in segments else set()
        for value, segment in zip(values, segments, strict=True):
            if segment is not None:
                del self.segments[value]
                inner += segment.nodes
                entries |= segment.entries
        above = self.segments.get(root)
        elements: list[Element] = [element]
        if above is not None and set(root.users) <= entries and _fits(above, element):
            del self.segments[root]
            self.segments[node] = _Segment(
                above.root, above.entries, [*above.elements, *elements],
                [*above.nodes, *inner, node],
            )  # fmt: skip
        else:
            self.segments[node] = _Segment(root, frozenset(entries), elements, [*inner, node])

    def _explain_join(self, node: fx.Node, values: Sequence[fx.Node]) -> None:
        """Record that branches would be one map but for batch normalization in them."""
        segments = [self.normalized.get(v) or self.segments.get(v) for v in values]
        roots = {v if s is None else s.root for v, s in zip(values, segments, strict=True)}
        known = [s.chain.label for s in segments if s is not None]
        if len(roots) == 1 and any(v in self.normalized for v in values):
            refusal = _normalized("stands in the branches")
            self.apart.append((Apart(known[0], known[-1], refusal), (node, *roots)))

    def _alone(self, value: fx.Node, reader: fx.Node) -> _Segment | None:
        """The chain that ends at a value, if only `reader` reads it, and once."""
        segment = self.segments.get(value)
        if segment is None or set(value.users) != {reader}:
            return None
        return segment if list(reader.args).count(value) == 1 else None


def _normalized(place: str) -> Refusal:
    message = f"batch normalization {place}, which is not linear in training"
    return Refusal(Reason.ACTIVATION, message)


def _fits(above: _Segment, element: Element) -> bool:
    """Whether an element maps the axes on which a chain ends."""
    last = above.elements[-1].geometry
    return last.rank == element.geometry.rank and last.out_channels == element.geometry.in_channels
