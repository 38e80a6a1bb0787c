"""Write products of tokens as products of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, Rewritten, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.model import DESCRIBED
from onnx_expand.passes.report import Kept
from onnx_expand.passes.rows.groups import Finder, Group, Product, Uses

__all__ = ["Rowed", "as_rows"]

_BROADCASTING = 7  # the first opset in which C of a Gemm broadcasts without an attribute


@dataclass(frozen=True)
class Rowed(Rewritten):
    """Products that were rewritten."""

    names: dict[str, str]

    def renamed(self, kept: Kept) -> Kept:
        """Return a reason with the names of replaced nodes updated."""
        if self.names.keys().isdisjoint(kept.nodes):
            return kept
        return replace(kept, nodes=tuple(dict.fromkeys(self.names.get(n, n) for n in kept.nodes)))


def as_rows(
    graph: ir.Graph, facts: Facts, rewriter: Rewriter, locked: frozenset[str] = frozenset()
) -> Iterator[Rowed]:
    """Write the products of a graph as products of rows where that needs no more nodes.

    Nodes of the labels `locked` stay.
    """
    if facts.opset < _BROADCASTING:
        return
    finder = Finder(graph, facts, locked)
    writer = _Writer(graph, facts, rewriter, finder)
    for group in finder.groups():
        if finder.growth(group) <= 0:
            yield writer.write(group)


class _Writer:
    """Writes the products of one graph."""

    def __init__(self, graph: ir.Graph, facts: Facts, rewriter: Rewriter, finder: Finder) -> None:
        self._graph, self._facts, self._rewriter, self._finder = graph, facts, rewriter, finder

    def write(self, group: Group) -> Rowed:
        """Write a group in rows."""
        values = self._finder.values(group)
        uses = {value: self._finder.uses(value) for value in values}
        old, new = list[str](), list[ir.Node]()
        rows: dict[ir.Value, ir.Value] = {}
        for product in group.products:
            if product.x not in self._finder.flat and product.x not in rows:
                replaced = self._finder.reshape_before(product.x)
                old += [] if replaced is None else [label(replaced)]
                new.append(self._entry(product, replaced))
                rows[product.x] = new[-1].outputs[0]
        names: dict[str, str] = {}
        for product in group.products:
            labels = label(product.node), label(product.add)
            made = self._gemm(product, rows.get(product.x, product.x))
            outer = self._hand_over(product.y, made, uses[product.y])
            self._rewriter.remove(product.add)
            old += labels
            new += [made, *outer]
            names |= dict.fromkeys(labels, label(made))
        for node in group.between:
            value = node.outputs[0]
            outer = self._hand_over(value, node, uses[value])
            self._facts.set_extents(value, self._extents(value))
            value.type = self._type(value)
            value.meta.pop(DESCRIBED, None)
            new += outer
        return Rowed(tuple(old), tuple(map(label, new)), names)

    def _extents(self, value: ir.Value) -> list[int]:
        """Return the extents of a value written as rows."""
        shape = self._facts.shape(value) or ()
        return [math.prod(extent or 1 for extent in shape[:-1]), shape[-1] or 1]

    def _entry(self, product: Product, replaced: ir.Node | None) -> ir.Node:
        """Insert the Reshape that turns the tokens of a product into rows."""
        source = product.x if replaced is None else replaced.inputs[0]
        assert source is not None
        extents = self._extents(product.x)
        node = self._reshape(source, f"{label(product.node)}.rows", [-1, extents[1]])
        self._facts.set_extents(node.outputs[0], extents)
        self._graph.insert_before(product.node, node)
        self._rewriter.register(self._rewriter.record([node], [replaced or product.node]))
        return node

    def _reshape(self, source: ir.Value, stem: str, target: Sequence[int]) -> ir.Node:
        name = self._rewriter.unique(stem)
        stated = self._rewriter.unique(f"{name}.shape")
        shape = ir.Tensor(np.array(target, np.int64), name=stated)
        node = ir.node("Reshape", [source, ir.val(stated, const_value=shape)], name=name)
        out = node.outputs[0]
        out.name, out.type = self._rewriter.unique(f"{name}.out"), self._type(source)
        return node

    def _type(self, value: ir.Value) -> ir.TypeProtocol | None:
        dtype = self._facts.dtype(value)
        return value.type if dtype is None else ir.TensorType(dtype)

    def _gemm(self, product: Product, rows: ir.Value) -> ir.Node:
        """Insert the Gemm of a product, with the name of its MatMul."""
        stem, y = label(product.node), product.y
        name = self._rewriter.unique(stem, free={product.node.name or ""})
        node = ir.node("Gemm", [rows, product.node.inputs[1], product.bias], name=name)
        out = node.outputs[0]
        out.name, out.type = self._rewriter.unique(f"{stem}.rows.out"), self._type(y)
        self._facts.set_extents(out, self._extents(y))
        self._graph.insert_before(product.add, node)
        self._rewriter.register(self._rewriter.record([node], [product.node, product.add]))
        return node

    def _hand_over(self, value: ir.Value, made: ir.Node, uses: Uses) -> list[ir.Node]:
        """Redirect the consumers of a value to its rows, with a Reshape if they need its shape."""
        rows, needed = made.outputs[0], uses.others or value.is_graph_output()
        outer, name = list[ir.Node](), value.name
        if needed:
            shape = [extent or 1 for extent in self._facts.shape(value) or ()]
            outer = [self._reshape(rows, f"{label(made)}.tokens", shape)]
            out = outer[0].outputs[0]
            self._graph.insert_after(made, outer[0])
            self._rewriter.register(self._rewriter.record(outer, [made]))
            self._facts.set_extents(out, shape)
            for use in uses.others:
                use.node.replace_input_with(use.idx, out)
            if value.is_graph_output():
                self._rewriter.give(value, out)
        # The name stays with the tokens: a tensor of rows by that name would be another one.
        value.name = self._rewriter.unique(f"{name}.rows")
        if outer:
            outer[0].outputs[0].name = name
        for use in uses.flat:
            use.node.replace_input_with(use.idx, rows)
        for node, target in uses.reshapes.items():
            self._rewriter.feed(node, [rows, self._stated(node, target)])
        return outer

    def _stated(self, node: ir.Node, target: Sequence[int]) -> ir.Value:
        """Return the constant target of a Reshape, with copied extents resolved."""
        given = node.inputs[1]
        assert given is not None
        asked = read_tensor(self._facts.tensor(given)).reshape(-1).tolist()
        if asked == list(target):
            return given
        return self._rewriter.integers(self._graph, f"{label(node)}.shape", target)
