"""Rewrite nodes to work in another axis order, with the Transposes that remain necessary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_expand.frames import find_frames
from onnx_expand.graph.editing import Rewriter, Rewritten, label, take_over
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.patterns import Composites
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.layout.choice import Choice, extents_of, orders_of
from onnx_expand.layout.features import Features
from onnx_expand.layout.reorderings import Reordering
from onnx_expand.lower import node_like

__all__ = ["straighten_layouts"]

Usual = Callable[[ir.Value], "tuple[int, ...] | None"]


def straighten_layouts(
    graph: ir.Graph,
    facts: Facts,
    rewriter: Rewriter,
    usual: Usual,
    locked: frozenset[str] = frozenset(),
) -> Iterator[Rewritten]:
    """Rewrite a graph so that the fewest bytes are transposed.

    Args:
        graph: The graph to rewrite; its subgraphs do not change.
        facts: Facts about the model.
        rewriter: Creates names and constants.
        usual: Returns the usual extents of a value, for those that are not static.
        locked: The labels of nodes that must not change.

    Yields:
        The changes for the Transposes of each permutation.
    """
    orders = orders_of(graph, facts)
    if not orders:
        return
    fixed = {n for frame in find_frames(graph, facts) for n in frame.nodes}
    fixed |= {node for node in graph if label(node) in locked}
    for order in orders:
        composites = Composites(graph, facts)

        def extents(value: ir.Value) -> tuple[int, ...]:
            return extents_of(value, facts, usual)

        choice = Choice(graph, facts, order, composites, extents, fixed)
        if choice.decide():
            yield _Writer(choice, rewriter).write()


@dataclass(eq=False)
class _Writer:
    choice: Choice
    rewriter: Rewriter
    _made: dict[tuple[ir.Value, int], ir.Value] = field(default_factory=dict)
    _old: list[ir.Node] = field(default_factory=list)
    _new: list[str] = field(default_factory=list)
    _gathering: list[str] = field(default_factory=list)
    _named: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._members = self.choice.members

    def write(self) -> Rewritten:
        """Rewrite the graph according to the choice."""
        choice = self.choice
        for node in list(choice.graph):
            reordering = choice.reorderings.get(node)
            if reordering is not None and choice.is_reordered(node):
                self._reorder_node(node, reordering)
        gone = set(self._old)
        for value in list(choice.layouts):
            layout = choice.layouts[value]
            for use in list(value.uses()):
                if use.node not in gone and use.node not in choice.transposes:
                    use.node.replace_input_with(use.idx, self._of(value, layout))
            if value.is_graph_output():
                self._replace_output(value, self._of(value, layout))
        labels = {node: label(node) for node in choice.transposes}
        self._remove()
        left = [node for node in choice.transposes if node.graph is None]
        choice.graph.sort()
        gone_labels = (*(labels[node] for node in left), *self._gathering)
        return Rewritten(gone_labels, tuple(self._new))

    # -- Values -----------------------------------------------------------------------------

    def _of(self, value: ir.Value, layout: int) -> ir.Value:
        """Return the value with the same elements in a layout, adding a Transpose if needed."""
        choice, origin = self.choice, self.choice.origin(value)
        if (origin, layout) in self._made:
            return self._made[origin, layout]
        made = choice.layout(choice.producer_of(origin))
        source = self._made.setdefault((origin, made), origin)
        if layout == made:
            return source
        for known in self._members[origin]:
            node = known.producer()
            if node in choice.transposes and node.inputs[0] is source:
                found = known
                break
        else:
            found = self._transposed(origin, source, made)
        self._made[origin, layout] = found
        return found

    def _transposed(self, origin: ir.Value, source: ir.Value, layout: int) -> ir.Value:
        """Insert a Transpose of a value directly after its producer."""
        graph, order = self.choice.graph, self.choice.order_from(layout)
        old = next((v for v in self._members[origin] if self.choice.layouts[v] != layout), origin)
        stem = label(old.producer()) if old.producer() is not None else old.name  # type: ignore[arg-type]
        name = self.rewriter.unique(f"{stem}.transpose")
        node = ir.node("Transpose", [source], {"perm": order}, name=name)
        self._describe(node.outputs[0], source, order)
        producer = source.producer()
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, node)
        else:
            graph.insert_before(next(iter(graph)), node)
        self._new.append(name)
        return node.outputs[0]

    def _describe(self, value: ir.Value, like: ir.Value, order: Sequence[int]) -> None:
        """Set name, type and shape of a new value that is a permutation of another one."""
        facts = self.choice.facts
        value.name = self.rewriter.unique(f"{like.name}.turned") if like.name else like.name
        value.type = like.type
        dtype = facts.dtype(like)
        if value.dtype is None and dtype is not None:
            value.dtype = dtype
        extents = facts.extents(like)
        if extents is not None:
            facts.set_extents(value, [extents[axis] for axis in order])

    def _replace_output(self, value: ir.Value, new: ir.Value) -> None:
        """Replace a graph output by another value, under the name of the output."""
        if value is new:
            return
        graph, producer = self.choice.graph, new.producer()
        # A value of an outer graph cannot be an output of this one.
        if producer is None or producer.graph is not graph or new.is_graph_output():
            node = ir.node("Identity", [new], name=self.rewriter.unique(f"{value.name}.out"))
            graph.append(node)
            new = node.outputs[0]
        take_over(value, new)
        self.choice.facts.transfer(value, new)

    # -- Nodes ------------------------------------------------------------------------------

    def _reorder_node(self, node: ir.Node, reordering: Reordering) -> None:
        """Write a node in the other axis order."""
        choice = self.choice
        layout = 1 - choice.original_layout(node)
        inputs = list(node.inputs)
        for i in reordering.inputs:
            value = inputs[i]
            assert value is not None
            inputs[i] = self._of(value, layout)
        for i, tensor in reordering.constants.items():
            inputs[i] = self._constant(node, i, tensor)
        new = node_like(node, inputs, max(reordering.outputs, default=0) + 1)
        for name, number in reordering.attributes.items():
            is_list = not isinstance(number, int)
            made = ir.AttrInt64s(name, list(number)) if is_list else ir.AttrInt64(name, number)  # type: ignore[arg-type]
            new.attributes[name] = made
        choice.graph.insert_before(node, new)
        self._old.append(node)
        order = choice.order_from(choice.original_layout(node))
        if reordering.outputs:
            for i in reordering.outputs:
                out = node.outputs[i]
                self._describe(new.outputs[i], out, order)
                self._made[choice.origin(out), layout] = new.outputs[i]
        elif reordering.gathered:
            self._gather(node, new, order)
        else:
            self._replace(node.outputs[0], new.outputs[0])
        if reordering.features is not None:
            self._reorder(reordering.features, () if reordering.outputs else new.outputs)

    def _reorder(self, features: Features, results: Sequence[ir.Value]) -> None:
        """Reorder the weights of dense layers, and rename the values with reordered features."""
        for operand in features.operands:
            node, index = operand.node, operand.index
            old = node.inputs[index]
            assert old is not None
            tensor = self.choice.facts.tensor(old)
            array = read_tensor(tensor)
            order = np.arange(array.shape[operand.axis])
            order[operand.first :][: features.places.size] = operand.first + features.places
            array = np.take(array, order, operand.axis)
            node.replace_input_with(
                index, self._constant(node, index, ir.Tensor(array, tensor.dtype))
            )
            self.rewriter.drop(old)
        for value in (*features.values, *results):
            if value.name:  # a replaced value has no name
                value.name = self.rewriter.unique(f"{value.name}.turned")

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replace a value by an equal one."""
        self.choice.facts.transfer(old, new)
        if old in self.choice.layouts:
            self._made[self.choice.origin(old), self.choice.layouts[old]] = new
            self.choice.adopt(new, old)
        take_over(old, new)

    def _gather(self, node: ir.Node, new: ir.Node, order: Sequence[int]) -> None:
        """Append a Gather that restores the order of the extents of a reordered value."""
        numbers = np.array([order.index(axis) for axis in range(len(order))], dtype=np.int64)
        out = new.outputs[0]
        out.name = self.rewriter.unique(f"{node.outputs[0].name}.turned")
        out.type = node.outputs[0].type
        axes = self._initializer(f"{label(node)}.axes", ir.Tensor(numbers))
        name = self.rewriter.unique(f"{label(node)}.gather")
        back = ir.node("Gather", [out, axes], {"axis": 0}, name=name)
        self.choice.graph.insert_after(new, back)
        self._gathering.append(label(node))
        self._new += [label(new), label(back)]
        self._replace(node.outputs[0], back.outputs[0])

    def _constant(self, node: ir.Node, index: int, tensor: ir.TensorProtocol) -> ir.Value:
        old = node.inputs[index]
        stem = f"{label(node)}.{index}" if old is None or not old.name else f"{old.name}.turned"
        new = self._initializer(stem, tensor)
        if old is not None and old.is_initializer():
            self._named.append((new, old))
        return new

    def _initializer(self, stem: str, tensor: ir.TensorProtocol) -> ir.Value:
        return self.rewriter.constant(self.choice.graph, self.rewriter.unique(stem), tensor)

    def _remove(self) -> None:
        """Remove the nodes that have been replaced."""
        graph, choice = self.choice.graph, self.choice
        gone = {*self._old, *choice.transposes}
        for node in reversed([n for n in graph if n in gone]):
            if any(out.uses() or out.is_graph_output() for out in node.outputs):
                continue
            read = [value for value in node.inputs if value is not None]
            graph.remove(node, safe=True)
            for value in read:
                if value not in choice.layouts:
                    self.rewriter.drop(value)
        for new, old in self._named:  # new constants reuse the names of removed ones
            stays = old.is_initializer()  # of this graph or of one around it
            if old.name and not stays and old.name not in graph.initializers:
                self.rewriter.rename(graph, new, old.name)
