"""Find products of tokens whose rows can be kept between them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.graph.union_find import UnionFind

__all__ = ["Finder", "Group", "Product", "Use", "Uses"]

_QUANTIZING = {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}


class Use(Protocol):
    """A use of a value: the consumer, and the index of its input."""

    @property
    def node(self) -> ir.Node:
        """The consumer."""

    @property
    def idx(self) -> int:
        """The index of the input."""


@dataclass(frozen=True)
class Product:
    """A product of tokens and the addition of its bias."""

    node: ir.Node
    add: ir.Node
    bias: ir.Value

    @property
    def x(self) -> ir.Value:
        """The tokens."""
        x = self.node.inputs[0]
        assert x is not None
        return x

    @property
    def y(self) -> ir.Value:
        """The result of the addition."""
        return self.add.outputs[0]


@dataclass
class Group:
    """Products connected by values in rows, and the elementwise nodes between them."""

    products: list[Product] = field(default_factory=list)
    between: list[ir.Node] = field(default_factory=list)


@dataclass(frozen=True)
class Uses:
    """The uses of a value, by what they read.

    Attributes:
        reshapes: The Reshapes that can read the rows instead, with their targets.
        others: The uses that need the value in its own shape.
        flat: The uses that read its rows.
    """

    reshapes: dict[ir.Node, list[int]] = field(default_factory=dict)
    others: list[Use] = field(default_factory=list)
    flat: list[Use] = field(default_factory=list)


class Finder:
    """Finds the products of one graph.

    Attributes:
        flat: The values that can be written as rows, each with the product or the elementwise
            node that computes it.
    """

    def __init__(self, graph: ir.Graph, facts: Facts, locked: frozenset[str]) -> None:
        self._graph, self._facts, self._locked = graph, facts, locked
        self.flat: dict[ir.Value, Product | ir.Node] = {}

    def groups(self) -> list[Group]:
        """Return the products, grouped by connections through rows."""
        for node in self._graph:
            product = self._product(node)
            if product is not None:
                self.flat[product.y] = product
            elif self._is_between(node):
                self.flat[node.outputs[0]] = node
        for value, maker in reversed(
            list(self.flat.items())
        ):  # only nodes that lead to another product
            if isinstance(maker, ir.Node) and not any(map(self._stays_flat, value.uses())):
                del self.flat[value]
        classes = UnionFind[ir.Value]()
        for value, maker in self.flat.items():
            reads = [maker.x] if isinstance(maker, Product) else self._operands(maker)
            for read in reads:
                classes.join(value, read)
        found: dict[ir.Value, Group] = defaultdict(Group)
        for value, maker in self.flat.items():
            group = found[classes(value)]
            if isinstance(maker, Product):
                group.products.append(maker)
            else:
                group.between.append(maker)
        return list(found.values())

    def _product(self, node: ir.Node) -> Product | None:
        """Return the product that an Add completes, or None for other nodes."""
        if node.op_type != "Add" or node.domain or label(node) in self._locked:
            return None
        for slot in (0, 1):
            value, bias = node.inputs[slot], node.inputs[1 - slot]
            made = None if value is None else value.producer()
            if made is None or value is None or bias is None or made.graph is not self._graph:
                continue
            if made.op_type != "MatMul" or made.domain or label(made) in self._locked:
                continue
            alone = len(value.uses()) == 1 and not value.is_graph_output()
            if alone and self._is_plain(made, node.outputs[0], bias):
                return Product(made, node, bias)
        return None

    def _is_plain(self, node: ir.Node, y: ir.Value, bias: ir.Value) -> bool:
        """Return whether a MatMul of tokens and a stored matrix can become a Gemm with a bias."""
        facts = self._facts
        x, weight = node.inputs
        if x is None or weight is None or facts.is_constant(x):
            return False
        if not _is_stored(weight) or not _is_stored(bias):
            return False
        shape, matrix, row = facts.shape(x), facts.dims(weight), facts.dims(bias)
        if shape is None or len(shape) < 3 or len(matrix) != 2 or not all(shape):
            return False
        if row not in {matrix[1:], (1, *matrix[1:])} or 0 in matrix:
            return False
        if facts.shape(y) != (*shape[:-1], matrix[1]) or shape[-1] != matrix[0]:
            return False
        around = [x.producer(), *(use.node for use in y.uses())]
        if any(n is not None and n.op_type in _QUANTIZING for n in around):
            return False
        return facts.writable(facts.dtype(y)).allows("Gemm")

    def _is_between(self, node: ir.Node) -> bool:
        """Return whether a node is elementwise on values that can be written as rows."""
        if node.domain or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            return False
        if Trait.ELEMENTWISE not in op_of(node).traits or label(node) in self._locked:
            return False
        operands = self._operands(node)
        if not operands or any(v not in self.flat for v in operands):
            return False
        rest = [v for v in node.inputs if v is not None and v not in self.flat]
        if any(math.prod(self._facts.dims(v)) != 1 for v in rest):
            return False
        shapes = {self._facts.shape(v) for v in (*operands, node.outputs[0])}
        return len(shapes) == 1 and all(len(self._facts.dims(v)) < 3 for v in rest)

    def _operands(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs of a node that are not constant."""
        return [v for v in node.inputs if v is not None and not self._facts.is_constant(v)]

    def _stays_flat(self, use: Use) -> bool:
        """Return whether a use of a value can read its rows."""
        out = use.node.outputs[0] if use.node.outputs else None
        if use.node.graph is not self._graph or out is None:
            return False
        if isinstance(self.flat.get(out), ir.Node):
            return True
        add = next(iter(out.uses())).node if use.node.op_type == "MatMul" and out.uses() else None
        known = None if add is None else self.flat.get(add.outputs[0])
        return isinstance(known, Product) and known.node is use.node and use.idx == 0

    # -- Counting ---------------------------------------------------------------------------

    def growth(self, group: Group) -> int:
        """Return the number of nodes that a group gains when written as rows."""
        entries = dict.fromkeys(p.x for p in group.products if p.x not in self.flat)
        found = sum(self.reshape_before(x) is None for x in entries)
        for value in self.values(group):
            found += value.is_graph_output() or bool(self.uses(value).others)
        return found - len(group.products)

    def values(self, group: Group) -> list[ir.Value]:
        """Return the values of a group."""
        return [*(p.y for p in group.products), *(node.outputs[0] for node in group.between)]

    def reshape_before(self, x: ir.Value) -> ir.Node | None:
        """Return the Reshape whose result only products read, which theirs replaces."""
        node = x.producer()
        if node is None or node.op_type != "Reshape" or node.domain or x.is_graph_output():
            return None
        alone = node.graph is self._graph and all(map(self._stays_flat, x.uses()))
        return node if alone and label(node) not in self._locked else None

    def uses(self, value: ir.Value) -> Uses:
        """Classify the uses of a value."""
        found = Uses()
        for use in value.uses():
            target = None if self._stays_flat(use) else self._target(use)
            if target is not None:
                found.reshapes[use.node] = target
            else:
                (found.flat if self._stays_flat(use) else found.others).append(use)
        return found

    def _target(self, use: Use) -> list[int] | None:
        """Return the target of a Reshape, with copied extents resolved, or None for other uses."""
        node, value = use.node, use.node.inputs[0]
        if node.op_type != "Reshape" or node.domain or use.idx or len(node.inputs) < 2:
            return None
        given, shape = node.inputs[1], self._facts.shape(value)
        if node.graph is not self._graph or given is None or shape is None:
            return None
        if not self._facts.is_constant(given) or label(node) in self._locked:
            return None
        asked = [int(n) for n in read_tensor(self._facts.tensor(given)).reshape(-1)]
        if 0 in asked and int_of(node, "allowzero", self._facts.opset, 0):
            return None
        found = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(asked)]
        return None if any(n is None or n == 0 for n in found) else [n for n in found if n]


def _is_stored(value: ir.Value) -> bool:
    """Return whether a value is an initializer that callers cannot replace."""
    return value.is_initializer() and not value.is_graph_input()
