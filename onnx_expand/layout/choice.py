"""Choose which nodes work in another axis order, so that the fewest bytes are transposed.

Let q be the permutation of some Transposes. The input and the output of such a Transpose have the
same elements in two axis orders, called layouts 0 and 1. Nodes that can work in either layout may
choose; all others require the layout that they have. A value costs a Transpose if some consumer
requires another layout than the one in which it is produced. The choice of least cost is a minimum
cut, with the nodes of one layout on one side (Kolmogorov and Zabih, 2004, characterize such
costs).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.graph.attributes import ints_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.patterns import Composites
from onnx_expand.layout.cut import Cut
from onnx_expand.layout.reorderings import Order, Reordering, reordering_of

__all__ = ["Choice", "inverse", "orders_of"]

_AXES = {"LayerNormalization", "RMSNormalization", "attention"}
"""Composite patterns that runtimes recognize in one axis order only."""

_ENDLESS = 1 << 120
_USUAL = 16  # an extent that nothing tells


def inverse(order: Order) -> Order:
    """Return the inverse permutation."""
    return tuple(order.index(axis) for axis in range(len(order)))


def order_of(node: ir.Node, facts: Facts) -> Order | None:
    """Return the permutation of a Transpose with a variable input; None for other nodes."""
    if node.domain or node.op_type != "Transpose" or facts.is_constant(node.outputs[0]):
        return None
    rank = facts.rank(node.inputs[0])
    perm = ints_of(node, "perm") or tuple(range(rank or 0))[::-1]
    fits = rank is not None and rank > 2 and sorted(perm) == list(range(rank))
    return perm if fits and node.inputs[0] is not None else None


def orders_of(graph: ir.Graph, facts: Facts) -> list[Order]:
    """Return the permutations of a graph's Transposes, one of each pair of inverses."""
    found: list[Order] = []
    for node in graph:
        order = order_of(node, facts)
        if order is not None and order not in found and inverse(order) not in found:
            found.append(order)
    return found


@dataclass(eq=False)
class Choice:
    """The layouts of the values around the Transposes of one permutation, and the nodes' choices.

    Attributes:
        graph: The graph.
        facts: Facts about the model.
        order: The permutation of the Transposes, from layout 0 to layout 1.
        composites: Patterns whose nodes choose together.
        extents: The extents of a value for one sample, with 0 for unknown ones; empty for a value
            of unknown rank.
        fixed: Nodes that must not change: those of frames, and locked ones.
        layouts: The layout of each value that has one.
        transposes: The Transposes from one layout to the other.
        reorderings: For each node that may choose, how it works in the other layout.
        chosen: The chosen layout of each of these nodes.
    """

    graph: ir.Graph
    facts: Facts
    order: Order
    composites: Composites
    extents: Callable[[ir.Value], Sequence[int]]
    fixed: Collection[ir.Node] = ()
    layouts: dict[ir.Value, int] = field(default_factory=dict)
    transposes: dict[ir.Node, None] = field(default_factory=dict)
    reorderings: dict[ir.Node, Reordering] = field(default_factory=dict)
    chosen: dict[ir.Node, int] = field(default_factory=dict)
    _original: dict[ir.Node, int] = field(default_factory=dict)
    _origins: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._orders = (self.order, inverse(self.order))
        for node in self.graph:
            order = None if node in self.fixed else order_of(node, self.facts)
            if order in self._orders and node not in self.transposes:
                x = node.inputs[0]
                assert x is not None
                if x not in self.layouts:
                    self._spread(x, self._orders.index(order))
        self._keep_composites()
        self._assumed = self._largest()

    def _largest(self) -> list[int]:
        """Return the largest extent that is known along each axis of layout 0, or a usual one."""
        found = [0] * len(self.order)
        for value, layout in self.layouts.items():
            for i, extent in enumerate(self.extents(value)):
                axis = self.order[i] if layout else i
                found[axis] = max(found[axis], extent)
        return [extent or _USUAL for extent in found]

    def _bytes(self, value: ir.Value) -> int:
        """Estimate the bytes of a value, whose unknown extents are those of values around it."""
        assumed = self._assumed
        if self.layouts.get(value):
            assumed = [assumed[axis] for axis in self.order]
        known = self.extents(value) or (0,) * len(assumed)
        dtype = self.facts.dtype(value)
        is_number = dtype is not None and dtype != ir.DataType.STRING
        width = max(1, dtype.bitwidth // 8) if dtype is not None and is_number else 1
        return math.prod(a or b for a, b in zip(known, assumed, strict=True)) * width

    def decide(self) -> bool:
        """Choose; return whether fewer bytes are transposed, or equally many by fewer nodes."""
        before = [self._bytes(node.outputs[0]) for node in self.transposes]
        if not before:
            return False
        self._cut()
        after = [self._bytes(origin) for origin in self._members if self.needs_transpose(origin)]
        gathers = [
            n for n, how in self.reorderings.items() if how.gathered and self.is_reordered(n)
        ]
        count = len(after) + len(gathers)
        return count <= len(before) and (sum(after), count) < (sum(before), len(before))

    # -- Layouts ----------------------------------------------------------------------------

    def _spread(self, value: ir.Value, layout: int) -> None:
        """Assign a layout to a value and to all that nodes with a choice connect with it."""
        self.layouts[value] = layout
        pending = [value]
        while pending:
            current = pending.pop()
            layout = self.layouts[current]
            producer = current.producer()
            users = [use.node for use in current.uses() if use.node.graph is self.graph]
            for node in dict.fromkeys([*users, *([] if producer is None else [producer])]):
                for other, its in self._neighbors(node, current, layout):
                    if other not in self.layouts:
                        self.layouts[other] = its
                        pending.append(other)

    def _neighbors(
        self, node: ir.Node, value: ir.Value, layout: int
    ) -> Iterator[tuple[ir.Value, int]]:
        """Yield the values that a node connects with a value, and their layouts."""
        if node in self.transposes or node in self._original or node in self.fixed:
            return
        if node.graph is not self.graph:
            return
        if order_of(node, self.facts) in self._orders:
            x, y = node.inputs[0], node.outputs[0]
            begin = layout if value is x else 1 - layout
            known = self.layouts.get(y, 1 - begin) == 1 - begin
            is_its = order_of(node, self.facts) == self._orders[begin]
            if x is not None and is_its and known and self.layouts.get(x, begin) == begin:
                self.transposes[node] = None
                yield from ((x, begin), (y, 1 - begin))
                return
        reordering = self._reorder_node(node, layout)
        if reordering is None:
            return
        ports = [node.inputs[i] for i in reordering.inputs] + [
            node.outputs[i] for i in reordering.outputs
        ]
        if value not in ports or any(self.layouts.get(p, layout) != layout for p in ports if p):
            return
        self.reorderings[node], self._original[node] = reordering, layout
        yield from ((port, layout) for port in ports if port is not None)

    def _reorder_node(self, node: ir.Node, layout: int) -> Reordering | None:
        composite = self.composites.of(node)
        if composite is not None and composite.pattern.name in _AXES:
            return None
        reordering = reordering_of(node, self._orders[layout], self.facts)
        if reordering is not None and reordering.features is not None:
            return (
                None
                if any(o.node in self.fixed for o in reordering.features.operands)
                else reordering
            )
        return reordering

    def _keep_composites(self) -> None:
        """Fix all nodes of a composite pattern if one of them may not choose."""
        for composite in self.composites.found:
            if not all(node in self.reorderings for node in composite.nodes):
                for node in composite.nodes:
                    self.reorderings.pop(node, None)
                    self._original.pop(node, None)

    def order_from(self, layout: int) -> Order:
        """Return the permutation of a Transpose from a layout to the other."""
        return self._orders[layout]

    def origin(self, value: ir.Value) -> ir.Value:
        """Return the value of which a value is a Transpose, through any number of them."""
        chain: list[ir.Value] = []
        while value not in self._origins:
            chain.append(value)
            node = value.producer()
            x = node.inputs[0] if node is not None and node in self.transposes else None
            self._origins[value] = value
            value = value if x is None else x
        origin = self._origins[value]
        self._origins.update(dict.fromkeys(chain, origin))
        return origin

    def adopt(self, new: ir.Value, old: ir.Value) -> None:
        """Assign the layout and the origin of a value to the one that replaces it."""
        if old in self.layouts:
            self.layouts[new], self._origins[new] = self.layouts[old], self.origin(old)

    @property
    def members(self) -> dict[ir.Value, list[ir.Value]]:
        """The values with the same elements, in either layout, by their origin."""
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in self.layouts:
            found.setdefault(self.origin(value), []).append(value)
        return found

    def original_layout(self, node: ir.Node) -> int:
        """Return the layout that a node with a choice has in the source."""
        return self._original[node]

    # -- Choosing ---------------------------------------------------------------------------

    def producer_of(self, origin: ir.Value) -> ir.Node | int:
        """Return the node whose choice is the layout of a value as produced, or that layout."""
        node = origin.producer()
        if node in self.reorderings and self.reorderings[node].outputs:
            return node
        return self.layouts[origin]

    def demands(self, value: ir.Value) -> Iterator[ir.Node | int]:
        """Yield, for each consumer of a value, the node if it may choose, else its layout."""
        if value.is_graph_output():
            yield self.layouts[value]
        for use in value.uses():
            node, reordering = use.node, self.reorderings.get(use.node)
            if node in self.transposes:
                continue
            if reordering is None or use.idx not in reordering.inputs:
                yield self.layouts[value]
            elif reordering.outputs:
                yield node

    def layout(self, choice: ir.Node | int) -> int:
        """Return the layout that a node chose, or the layout itself."""
        return choice if isinstance(choice, int) else self.chosen[choice]

    def needs_transpose(self, origin: ir.Value) -> bool:
        """Return whether a value needs a Transpose."""
        made = self.layout(self.producer_of(origin))
        return any(
            self.layout(demand) != made
            for v in self._members[origin]
            for demand in self.demands(v)
        )

    def is_reordered(self, node: ir.Node) -> bool:
        """Return whether a node with a choice works in the other layout."""
        if self.reorderings[node].outputs:
            return self.chosen[node] != self._original[node]
        x = node.inputs[0]
        assert x is not None
        # The node reads the available layout; if both are available, it does not change.
        origin = self.origin(x)
        is_other = self.layout(self.producer_of(origin)) != self._original[node]
        return is_other and not self.needs_transpose(origin)

    def _cut(self) -> None:
        self._members = self.members
        choosing = [node for node, reordering in self.reorderings.items() if reordering.outputs]
        cut = Cut()
        vertices: dict[ir.Node | int, int] = {0: 0, 1: 1}
        # Minimize bytes, then the number of Transposes, then the number of changed nodes.
        each = len(choosing) + 1
        scale = each * (len(self._members) + 1)
        for node in choosing:
            vertices[node] = cut.vertex()
            if self._original[node]:
                cut.charge(vertices[node], 1, 1)
            else:
                cut.charge(0, vertices[node], 1)
        for origin, values in self._members.items():
            demands = {vertices[demand] for value in values for demand in self.demands(value)}
            cost = self._bytes(origin) * scale + each
            _charge(cut, vertices[self.producer_of(origin)], demands, cost)
        for composite in self.composites.found:
            together = [vertices[node] for node in composite.nodes if node in vertices]
            for one, other in itertools.pairwise(together):
                cut.charge(one, other, _ENDLESS)
                cut.charge(other, one, _ENDLESS)
        second = cut.second_side()
        self.chosen = {node: int(second[vertices[node]]) for node in choosing}


def _charge(cut: Cut, producer: int, demands: set[int], cost: int) -> None:
    """Charge a cost once if any consumer is on another side than the producer."""
    demands = demands - {producer}
    if len(demands) < 2:
        for demand in demands:
            cut.charge(producer, demand, cost)
            cut.charge(demand, producer, cost)
        return
    # `some` is on the second side if any consumer is, `every` if all consumers are.
    some, every = cut.vertex(), cut.vertex()
    cut.charge(producer, some, cost)
    cut.charge(every, producer, cost)
    for demand in demands:
        cut.charge(some, demand, _ENDLESS)
        cut.charge(demand, every, _ENDLESS)


def extents_of(
    value: ir.Value, facts: Facts, usual: Callable[[ir.Value], tuple[int, ...] | None]
) -> tuple[int, ...]:
    """Return the extents of a value, usual ones if they are dynamic, and 0 for unknown ones."""
    shape, known = facts.shape(value), usual(value)
    if shape is None:
        return ()
    if known is None or len(known) != len(shape):  # usual extents may be those of another rank
        known = (0,) * len(shape)
    return tuple(b if a is None else a for a, b in zip(shape, known, strict=True))
