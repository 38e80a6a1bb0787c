"""Merge products of one input into one wider product and a Split, or the reverse.

    x W1, x W2, x W3 = Split(x [W1 W2 W3])

Both compute the same sums. Which is faster depends on the machine, the runtime and the extents (a
wide product starts once and reads x once; a Split copies). Only a measurement can decide, so only
the policy `latency` applies them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import flag_of, has_references, int_of, ints_of
from onnx_expand.graph.editing import Rewriter, Rewritten, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, ops_with
from onnx_expand.graph.tensors import read_tensor

__all__ = ["Width", "resize"]

_COUNTED = 13  # the first opset in which a Split takes its sizes as an input


_ACTIVATIONS = ops_with(Trait.ELEMENTWISE | Trait.SOUND | Trait.KEEPS_RANK)


class Width(StrEnum):
    """How to write products of one input."""

    AS_IS = "as it is"
    WIDER = "wider"
    NARROWER = "narrower"


@dataclass(frozen=True)
class _Product:
    """A product of a value and a constant, with an optional bias.

    Attributes:
        node: The product.
        add: The node that adds the bias of a MatMul, if there is one.
        axis: The axis of the weight along which its outputs lie.
        bias: The constant bias, if there is one.
        act: The activation that alone reads the result, if there is one.
    """

    node: ir.Node
    add: ir.Node | None
    axis: int
    bias: ir.Value | None
    act: ir.Node | None = None

    @property
    def weight(self) -> ir.Value:
        weight = self.node.inputs[1]
        assert weight is not None
        return weight

    @property
    def y(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return tuple(n for n in (self.node, self.add, self.act) if n is not None)


def resize(
    graph: ir.Graph,
    facts: Facts,
    rewriter: Rewriter,
    width: Width,
    locked: frozenset[str] = frozenset(),
) -> Iterator[Rewritten]:
    """Merge or split the products of a graph, except those of the labels `locked`."""
    writer = _Writer(graph, facts, rewriter, locked)
    if width is Width.WIDER:
        yield from writer.widen()
    elif width is Width.NARROWER:
        yield from writer.narrow()


class _Writer:
    """Rewrites the products of one graph."""

    def __init__(
        self, graph: ir.Graph, facts: Facts, rewriter: Rewriter, locked: frozenset[str]
    ) -> None:
        self._graph, self._facts, self._rewriter = graph, facts, rewriter
        self._locked = locked

    def widen(self) -> Iterator[Rewritten]:
        """Replace products of one value by one wide product and a Split."""
        groups: dict[object, list[_Product]] = defaultdict(list)
        for node in self._graph:
            product = self._activated(node)
            if product is not None and self._locked.isdisjoint(map(label, product.nodes)):
                groups[self._key(product)].append(product)
        for products in groups.values():
            if len(products) > 1 and len({p.weight for p in products}) == len(products):
                if len({_kind(p.act) for p in products}) > 1:
                    products = [replace(p, act=None) for p in products]
                yield self._widened(products)

    def narrow(self) -> Iterator[Rewritten]:
        """Replace a product that a Split cuts by one product for each part."""
        for node in list(self._graph):
            product = self._activated(node)
            split = None if product is None else self._split(product)
            if product is None or split is None:
                continue
            if self._locked.isdisjoint(map(label, (*product.nodes, split[0]))):
                yield self._narrowed(product, *split)

    # -- Finding ----------------------------------------------------------------------------

    def _activated(self, node: ir.Node) -> _Product | None:
        """Return a product with the activation that alone reads it; runtimes fuse the two."""
        product = self._product(node)
        users = [] if product is None else list(product.y.uses())
        if product is None or len(users) != 1 or product.y.is_graph_output():
            return product
        act = users[0].node
        plain = act.op_type in _ACTIVATIONS and not act.domain and len(act.inputs) == 1
        fits = plain and act.graph is self._graph and _kind(act) is not None
        return replace(product, act=act) if fits else product

    def _product(self, node: ir.Node) -> _Product | None:
        """Return a node as a product whose outputs can be split, or None for other nodes."""
        if node.domain or node.op_type not in {"MatMul", "Gemm", "Conv"} or len(node.inputs) < 2:
            return None
        if has_references(node):
            return None
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or not self._is_own(weight) or self._facts.is_constant(x):
            return None
        rank = self._facts.rank(weight)
        if node.op_type == "MatMul":
            return self._matmul(node) if rank == 2 else None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and not (self._is_own(bias) and self._facts.rank(bias) == 1):
            return None
        axis = 0
        if node.op_type == "Gemm":
            axis = 0 if flag_of(node, "transB", self._facts.opset) else 1
        elif int_of(node, "group", self._facts.opset, 1) != 1:
            return None
        if (
            bias is not None
            and self._facts.dims(bias) != self._facts.dims(weight)[axis : axis + 1]
        ):
            return None  # the bias broadcasts
        return _Product(node, None, axis, bias)

    def _matmul(self, node: ir.Node) -> _Product | None:
        """Return a MatMul as a product, with an Add of a bias after it."""
        if (self._facts.rank(node.inputs[0]) or 0) < 2:
            return None
        y, n = node.outputs[0], self._facts.dims(node.inputs[1])[-1]  # type: ignore[arg-type]
        users = list(y.uses())
        if len(users) == 1 and not y.is_graph_output():
            add = users[0].node
            bias = add.inputs[1 - users[0].idx] if add.op_type == "Add" else None
            if bias is not None and not add.domain and add.graph is self._graph:
                plain = self._is_own(bias) and self._facts.dims(bias) == (n,)
                if plain:
                    return _Product(node, add, 1, bias)
        return _Product(node, None, 1, None)

    def _is_own(self, value: ir.Value) -> bool:
        """Return whether a constant is an initializer with a single use."""
        plain = value.is_initializer() and not value.is_graph_input()
        return plain and len(value.uses()) == 1 and not value.is_graph_output()

    def _key(self, product: _Product) -> object:
        """Return the key on which products must agree to be merged."""
        node = product.node
        dims = self._facts.dims(product.weight)
        rest = dims[: product.axis] + dims[product.axis + 1 :]
        traits = (product.add is None, product.bias is None, product.weight.dtype)
        return (node.inputs[0], _kind(node), rest, *traits)

    def _split(self, product: _Product) -> tuple[ir.Node, tuple[int, ...]] | None:
        """Return the Split along the channels that alone reads a product, and its sizes."""
        users = list(product.y.uses())
        if len(users) != 1 or product.y.is_graph_output():
            return None
        split, n = users[0].node, self._facts.dims(product.weight)[product.axis]
        if split.op_type != "Split" or split.domain or split.graph is not self._graph:
            return None
        rank = self._facts.rank(product.y)
        axis = int_of(split, "axis", self._facts.opset)
        channel = 1 if product.node.op_type == "Conv" else -1
        if rank is None or axis % rank != channel % rank:
            return None
        sizes = ints_of(split, "split")
        if len(split.inputs) > 1 and split.inputs[1] is not None:
            if not self._facts.is_constant(split.inputs[1]):
                return None
            given = read_tensor(self._facts.tensor(split.inputs[1]))
            sizes = tuple(int(size) for size in given.reshape(-1))
        count = len(split.outputs)
        if not sizes and n % count:
            return None
        sizes = sizes or (n // count,) * count
        whole = sum(sizes) == n and len(sizes) == count > 1 and min(sizes) > 0
        return (split, sizes) if whole else None

    # -- Writing ----------------------------------------------------------------------------

    def _widened(self, products: Sequence[_Product]) -> Rewritten:
        first = products[0]
        axis = first.axis
        weight = self._constant(first.weight, [p.weight for p in products], axis)
        bias = None
        if first.bias is not None:
            bias = self._constant(first.bias, [p.bias for p in products if p.bias], 0)
        nodes = self._written(first, weight, bias)
        sizes = [self._facts.dims(p.weight)[axis] for p in products]
        split = self._cut(first, nodes[-1].outputs[0], sizes)
        old = [n for p in products for n in p.nodes]
        return self._put([*nodes, split], old, [p.y for p in products], split.outputs)

    def _narrowed(self, product: _Product, split: ir.Node, sizes: Sequence[int]) -> Rewritten:
        nodes: list[ir.Node] = []
        outputs: list[ir.Value] = []
        begin = 0
        for size in sizes:
            part = slice(begin, begin + size)
            weight = self._constant(product.weight, [product.weight], product.axis, part)
            bias = None
            if product.bias is not None:
                bias = self._constant(product.bias, [product.bias], 0, part)
            nodes += self._written(product, weight, bias)
            outputs.append(nodes[-1].outputs[0])
            begin += size
        return self._put(nodes, [*product.nodes, split], split.outputs, outputs)

    def _written(self, like: _Product, weight: ir.Value, bias: ir.Value | None) -> list[ir.Node]:
        """Create a product like another, with other constants."""
        old, x = like.node, like.node.inputs[0]
        inputs = [x, weight] if bias is None or like.add is not None else [x, weight, bias]
        name = self._rewriter.unique(label(old))
        nodes = [ir.Node("", old.op_type, inputs, list(old.attributes.values()), name=name)]
        if like.add is not None:
            name = self._rewriter.unique(label(like.add))
            nodes.append(ir.node("Add", [nodes[0].outputs[0], bias], name=name))
        if like.act is not None:
            name = self._rewriter.unique(label(like.act))
            own = list(like.act.attributes.values())
            nodes.append(ir.Node("", like.act.op_type, nodes[-1].outputs, own, name=name))
        return nodes

    def _constant(
        self, like: ir.Value, parts: Sequence[ir.Value], axis: int, part: slice | None = None
    ) -> ir.Value:
        """Concatenate constants, or cut a part out of one."""
        arrays = [read_tensor(self._facts.tensor(value)) for value in parts]
        whole = np.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]
        if part is not None:
            whole = np.ascontiguousarray(whole[(slice(None),) * axis + (part,)])
        name = self._rewriter.unique(like.name or "weight")
        dtype = self._facts.tensor(like).dtype
        return ir.val(name, const_value=ir.Tensor(whole, dtype, name=name))

    def _cut(self, like: _Product, wide: ir.Value, sizes: Sequence[int]) -> ir.Node:
        """Create the Split of a wide product."""
        rank = self._facts.rank(like.y)
        is_conv = like.node.op_type == "Conv"
        axis = 1 if is_conv else -1 if rank is None else rank - 1
        name = self._rewriter.unique(f"{label(like.node)}.split")
        attributes: list[ir.Attr] = [ir.AttrInt64("axis", axis)]
        inputs = [wide]
        if self._facts.opset < _COUNTED:
            attributes.append(ir.AttrInt64s("split", list(sizes)))
        else:
            stated = f"{name}.sizes"
            array = ir.Tensor(np.array(sizes, np.int64), name=stated)
            inputs.append(ir.val(self._rewriter.unique(stated), const_value=array))
        return ir.Node("", "Split", inputs, attributes, num_outputs=len(sizes), name=name)

    def _put(
        self,
        new: Sequence[ir.Node],
        old: Sequence[ir.Node],
        before: Sequence[ir.Value],
        after: Sequence[ir.Value],
    ) -> Rewritten:
        """Replace nodes of the graph by others that compute the same values."""
        labels = tuple(map(label, old))
        position = {node: i for i, node in enumerate(self._graph)}
        old = sorted(old, key=position.__getitem__)
        entry = self._rewriter.record(new, old)
        for node in new:
            for out in node.outputs:
                if out not in after:
                    out.name = self._rewriter.unique(f"{label(node)}.out")
                    out.type = before[0].type
        self._graph.insert_before(old[0], new)
        for value, other in zip(before, after, strict=True):
            other.shape, other.type = value.shape, value.type
            other.doc_string = value.doc_string
            other.metadata_props.update(value.metadata_props)
            other.meta.update(value.meta)
            name, value.name = value.name, None
            self._facts.transfer(value, other)
            value.replace_all_uses_with(other, replace_graph_outputs=True)
            other.name = name
        read = [value for node in old for value in node.inputs if value is not None]
        self._graph.remove(old, safe=True)
        for value in read:
            self._rewriter.drop(value)
        self._rewriter.register(entry)
        return Rewritten(labels, tuple(map(label, new)))


def _kind(node: ir.Node | None) -> tuple[str, ...] | None:
    """Return what equal nodes of one input have in common; None for none."""
    if node is None or has_references(node):
        return None
    own = sorted(f"{name}={attribute.value}" for name, attribute in node.attributes.items())
    return (node.op_type, *own)
