"""Choose which nodes work in another axis order, so that the fewest bytes are transposed.

Let q be the permutation of some Transposes. The input and the output of such a Transpose have the
same elements in two axis orders, called faces. Nodes that can work on either face may choose; all
others require the face that they have. A value costs a Transpose if some consumer requires another
face than the one in which it is produced. The choice of least cost is a minimum cut, with the
nodes of one face on one side (Kolmogorov and Zabih, 2004, characterize such costs).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.graph.attributes import ints_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.patterns import Composites
from onnx_expand.layout.cut import Cut
from onnx_expand.layout.turns import Order, Turn, turn_of

__all__ = ["Choice", "inverse", "orders_of"]

_AXES = {"LayerNormalization", "RMSNormalization", "attention"}
"""Composite patterns that runtimes recognize in one axis order only."""

_ENDLESS = 1 << 120


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
    """The faces of the values around the Transposes of one permutation, and the nodes' choices.

    Attributes:
        graph: The graph.
        facts: Facts about the model.
        order: The permutation of the Transposes, from face 0 to face 1.
        composites: Patterns whose nodes choose together.
        size: Estimates the bytes of a value.
        fixed: Nodes that must not change: those of frames, and locked ones.
        faces: The face of each value that has one.
        turning: The Transposes from one face to the other.
        turns: For each node that may choose, how it works on the other face.
        chosen: The chosen face of each of these nodes.
    """

    graph: ir.Graph
    facts: Facts
    order: Order
    composites: Composites
    size: Callable[[ir.Value], int]
    fixed: Collection[ir.Node] = ()
    faces: dict[ir.Value, int] = field(default_factory=dict)
    turning: dict[ir.Node, None] = field(default_factory=dict)
    turns: dict[ir.Node, Turn] = field(default_factory=dict)
    chosen: dict[ir.Node, int] = field(default_factory=dict)
    _own: dict[ir.Node, int] = field(default_factory=dict)
    _roots: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._orders = (self.order, inverse(self.order))
        for node in self.graph:
            order = None if node in self.fixed else order_of(node, self.facts)
            if order in self._orders and node not in self.turning:
                x = node.inputs[0]
                assert x is not None
                if x not in self.faces:
                    self._spread(x, self._orders.index(order))
        self._keep_composites()

    def decide(self) -> bool:
        """Choose; return whether fewer bytes are transposed, or equally many by fewer nodes."""
        before = [self.size(node.outputs[0]) for node in self.turning]
        if not before:
            return False
        self._cut()
        after = [self.size(root) for root in self._members if self.is_turned(root)]
        gathers = [n for n, turn in self.turns.items() if turn.gathered and self.turns_over(n)]
        count = len(after) + len(gathers)
        return count <= len(before) and (sum(after), count) < (sum(before), len(before))

    # -- Faces ------------------------------------------------------------------------------

    def _spread(self, value: ir.Value, face: int) -> None:
        """Assign a face to a value and to all values that nodes with a choice connect with it."""
        self.faces[value] = face
        pending = [value]
        while pending:
            current = pending.pop()
            face = self.faces[current]
            maker = current.producer()
            users = [use.node for use in current.uses() if use.node.graph is self.graph]
            for node in dict.fromkeys([*users, *([] if maker is None else [maker])]):
                for other, its in self._neighbors(node, current, face):
                    if other not in self.faces:
                        self.faces[other] = its
                        pending.append(other)

    def _neighbors(
        self, node: ir.Node, value: ir.Value, face: int
    ) -> Iterator[tuple[ir.Value, int]]:
        """Yield the values that a node connects with a value, and their faces."""
        if node in self.turning or node in self._own or node in self.fixed:
            return
        if node.graph is not self.graph:
            return
        if order_of(node, self.facts) in self._orders:
            x, y = node.inputs[0], node.outputs[0]
            begin = face if value is x else 1 - face
            known = self.faces.get(y, 1 - begin) == 1 - begin
            is_its = order_of(node, self.facts) == self._orders[begin]
            if x is not None and is_its and known and self.faces.get(x, begin) == begin:
                self.turning[node] = None
                yield from ((x, begin), (y, 1 - begin))
                return
        turn = self._turn(node, face)
        if turn is None:
            return
        ports = [node.inputs[i] for i in turn.inputs] + [node.outputs[i] for i in turn.outputs]
        if value not in ports or any(self.faces.get(p, face) != face for p in ports if p):
            return
        self.turns[node], self._own[node] = turn, face
        yield from ((port, face) for port in ports if port is not None)

    def _turn(self, node: ir.Node, face: int) -> Turn | None:
        composite = self.composites.of(node)
        if composite is not None and composite.pattern.name in _AXES:
            return None
        turn = turn_of(node, self._orders[face], self.facts)
        if turn is not None and turn.features is not None:
            return None if any(o.node in self.fixed for o in turn.features.operands) else turn
        return turn

    def _keep_composites(self) -> None:
        """Fix all nodes of a composite pattern if one of them may not choose."""
        for composite in self.composites.found:
            if not all(node in self.turns for node in composite.nodes):
                for node in composite.nodes:
                    self.turns.pop(node, None)
                    self._own.pop(node, None)

    def order_from(self, face: int) -> Order:
        """Return the permutation of a Transpose from a face to the other."""
        return self._orders[face]

    def root(self, value: ir.Value) -> ir.Value:
        """Return the value of which a value is a Transpose, through any number of them."""
        chain: list[ir.Value] = []
        while value not in self._roots:
            chain.append(value)
            node = value.producer()
            x = node.inputs[0] if node is not None and node in self.turning else None
            self._roots[value] = value
            value = value if x is None else x
        root = self._roots[value]
        self._roots.update(dict.fromkeys(chain, root))
        return root

    def adopt(self, new: ir.Value, old: ir.Value) -> None:
        """Assign the face and the root of a value to the one that replaces it."""
        if old in self.faces:
            self.faces[new], self._roots[new] = self.faces[old], self.root(old)

    @property
    def members(self) -> dict[ir.Value, list[ir.Value]]:
        """The values with the same elements, in either face, by their root."""
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in self.faces:
            found.setdefault(self.root(value), []).append(value)
        return found

    def own(self, node: ir.Node) -> int:
        """Return the face that a node with a choice has in the source."""
        return self._own[node]

    # -- Choosing ---------------------------------------------------------------------------

    def maker(self, root: ir.Value) -> ir.Node | int:
        """Return the node whose choice is the face in which a value is produced, or that face."""
        node = root.producer()
        if node in self.turns and self.turns[node].outputs:
            return node
        return self.faces[root]

    def demands(self, value: ir.Value) -> Iterator[ir.Node | int]:
        """Yield, for each consumer of a value, the node if it may choose, else its face."""
        if value.is_graph_output():
            yield self.faces[value]
        for use in value.uses():
            node, turn = use.node, self.turns.get(use.node)
            if node in self.turning:
                continue
            if turn is None or use.idx not in turn.inputs:
                yield self.faces[value]
            elif turn.outputs:
                yield node

    def face(self, choice: ir.Node | int) -> int:
        """Return the face that a node chose, or the face itself."""
        return choice if isinstance(choice, int) else self.chosen[choice]

    def is_turned(self, root: ir.Value) -> bool:
        """Return whether a value needs a Transpose."""
        made = self.face(self.maker(root))
        return any(
            self.face(demand) != made for v in self._members[root] for demand in self.demands(v)
        )

    def turns_over(self, node: ir.Node) -> bool:
        """Return whether a node with a choice works on the other face."""
        if self.turns[node].outputs:
            return self.chosen[node] != self._own[node]
        x = node.inputs[0]
        assert x is not None
        # The node reads the available face; if both are available, it does not change.
        root = self.root(x)
        return self.face(self.maker(root)) != self._own[node] and not self.is_turned(root)

    def _cut(self) -> None:
        self._members = self.members
        choosing = [node for node, turn in self.turns.items() if turn.outputs]
        cut = Cut()
        vertices: dict[ir.Node | int, int] = {0: 0, 1: 1}
        # Minimize bytes, then the number of Transposes, then the number of changed nodes.
        each = len(choosing) + 1
        scale = each * (len(self._members) + 1)
        for node in choosing:
            vertices[node] = cut.vertex()
            if self._own[node]:
                cut.charge(vertices[node], 1, 1)
            else:
                cut.charge(0, vertices[node], 1)
        for root, values in self._members.items():
            demands = {vertices[demand] for value in values for demand in self.demands(value)}
            cost = self.size(root) * scale + each
            _charge(cut, vertices[self.maker(root)], demands, cost)
        for composite in self.composites.found:
            together = [vertices[node] for node in composite.nodes if node in vertices]
            for one, other in itertools.pairwise(together):
                cut.charge(one, other, _ENDLESS)
                cut.charge(other, one, _ENDLESS)
        second = cut.second_side()
        self.chosen = {node: int(second[vertices[node]]) for node in choosing}


def _charge(cut: Cut, maker: int, demands: set[int], cost: int) -> None:
    """Charge a cost once if any consumer is on another side than the producer."""
    demands = demands - {maker}
    if len(demands) < 2:
        for demand in demands:
            cut.charge(maker, demand, cost)
            cut.charge(demand, maker, cost)
        return
    # `some` is on the second side if any consumer is, `every` if all consumers are.
    some, every = cut.vertex(), cut.vertex()
    cut.charge(maker, some, cost)
    cut.charge(every, maker, cost)
    for demand in demands:
        cut.charge(some, demand, _ENDLESS)
        cut.charge(demand, every, _ENDLESS)


def bytes_of(
    value: ir.Value, facts: Facts, usual: Callable[[ir.Value], tuple[int, ...] | None]
) -> int:
    """Estimate the bytes of a value for one sample, with usual extents for dynamic ones."""
    shape, dtype = facts.shape(value), facts.dtype(value)
    known = usual(value)
    if shape is None:
        return 0
    if known is None or len(known) != len(shape):  # usual extents may be those of another rank
        known = (0,) * len(shape)
    sizes = [
        extent or _USUAL if size is None else size
        for size, extent in zip(shape, known, strict=True)
    ]
    is_number = dtype is not None and dtype != ir.DataType.STRING
    return math.prod(sizes) * (max(1, dtype.bitwidth // 8) if dtype and is_number else 1)


_USUAL = 16
