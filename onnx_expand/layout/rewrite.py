"""Rewrite nodes to work in another axis order, with the Transposes that remain necessary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_expand.frames import find_frames
from onnx_expand.graph.editing import Rewriter, Rewritten, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.patterns import Composites
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.layout.choice import Choice, bytes_of, orders_of
from onnx_expand.layout.features import Features
from onnx_expand.layout.turns import Turn
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

        def size(value: ir.Value) -> int:
            return bytes_of(value, facts, usual)

        choice = Choice(graph, facts, order, composites, size, fixed)
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
            turn = choice.turns.get(node)
            if turn is not None and choice.turns_over(node):
                self._turn(node, turn)
        gone = set(self._old)
        for value in list(choice.faces):
            face = choice.faces[value]
            for use in list(value.uses()):
                if use.node not in gone and use.node not in choice.turning:
                    use.node.replace_input_with(use.idx, self._of(value, face))
            if value.is_graph_output():
                self._replace_output(value, self._of(value, face))
        labels = {node: label(node) for node in choice.turning}
        self._remove()
        left = [node for node in choice.turning if node.graph is None]
        choice.graph.sort()
        gone_labels = (*(labels[node] for node in left), *self._gathering)
        return Rewritten(gone_labels, tuple(self._new))

    # -- Values -----------------------------------------------------------------------------

    def _of(self, value: ir.Value, face: int) -> ir.Value:
        """Return the value with the same elements in a face, adding a Transpose if needed."""
        choice, root = self.choice, self.choice.root(value)
        if (root, face) in self._made:
            return self._made[root, face]
        made = choice.face(choice.maker(root))
        source = self._made.setdefault((root, made), root)
        if face == made:
            return source
        for known in self._members[root]:
            node = known.producer()
            if node in choice.turning and node.inputs[0] is source:
                found = known
                break
        else:
            found = self._transposed(root, source, made)
        self._made[root, face] = found
        return found

    def _transposed(self, root: ir.Value, source: ir.Value, face: int) -> ir.Value:
        """Insert a Transpose of a value directly after its producer."""
        graph, order = self.choice.graph, self.choice.order_from(face)
        old = next((v for v in self._members[root] if self.choice.faces[v] != face), root)
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
            facts.state(value, [extents[axis] for axis in order])

    def _replace_output(self, value: ir.Value, new: ir.Value) -> None:
        """Replace a graph output by another value, under the name of the output."""
        if value is new:
            return
        graph, maker = self.choice.graph, new.producer()
        # A value of an outer graph cannot be an output of this one.
        if maker is None or maker.graph is not graph or new.is_graph_output():
            node = ir.node("Identity", [new], name=self.rewriter.unique(f"{value.name}.out"))
            graph.append(node)
            new = node.outputs[0]
        new.type, new.shape, name = value.type, value.shape, value.name
        new.doc_string = value.doc_string
        new.metadata_props.update(value.metadata_props)
        new.meta.update(value.meta)
        value.name = None
        value.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name
        self.choice.facts.transfer(value, new)

    # -- Nodes ------------------------------------------------------------------------------

    def _turn(self, node: ir.Node, turn: Turn) -> None:
        """Write a node in the other axis order."""
        choice = self.choice
        face = 1 - choice.own(node)
        inputs = list(node.inputs)
        for i in turn.inputs:
            value = inputs[i]
            assert value is not None
            inputs[i] = self._of(value, face)
        for i, tensor in turn.constants.items():
            inputs[i] = self._constant(node, i, tensor)
        new = node_like(node, inputs, max(turn.outputs, default=0) + 1)
        for name, number in turn.attributes.items():
            is_list = not isinstance(number, int)
            made = ir.AttrInt64s(name, list(number)) if is_list else ir.AttrInt64(name, number)  # type: ignore[arg-type]
            new.attributes[name] = made
        choice.graph.insert_before(node, new)
        self._old.append(node)
        order = choice.order_from(choice.own(node))
        if turn.outputs:
            for i in turn.outputs:
                out = node.outputs[i]
                self._describe(new.outputs[i], out, order)
                self._made[choice.root(out), face] = new.outputs[i]
        elif turn.gathered:
            self._gather(node, new, order)
        else:
            self._replace(node.outputs[0], new.outputs[0])
        if turn.features is not None:
            self._reorder(turn.features, () if turn.outputs else new.outputs)

    def _reorder(self, features: Features, results: Sequence[ir.Value]) -> None:
        """Reorder the weights of dense layers, and rename the values with reordered features."""
        for operand in features.operands:
            node, index = operand.node, operand.index
            old = node.inputs[index]
            assert old is not None
            tensor = self.choice.facts.tensor(old)
            array = np.take(read_tensor(tensor), features.places, operand.axis)
            node.replace_input_with(
                index, self._constant(node, index, ir.Tensor(array, tensor.dtype))
            )
            self.rewriter.drop(old)
        for value in (*features.values, *results):
            if value.name:  # a replaced value has no name
                value.name = self.rewriter.unique(f"{value.name}.turned")

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replace a value by an equal one."""
        name = old.name
        new.type, new.shape = old.type, old.shape
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
        new.meta.update(old.meta)
        self.choice.facts.transfer(old, new)
        if old in self.choice.faces:
            self._made[self.choice.root(old), self.choice.faces[old]] = new
            self.choice.adopt(new, old)
        old.name = None
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name

    def _gather(self, node: ir.Node, new: ir.Node, order: Sequence[int]) -> None:
        """Append a Gather that restores the order of the extents of a turned value."""
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
        gone = {*self._old, *choice.turning}
        for node in reversed([n for n in graph if n in gone]):
            if any(out.uses() or out.is_graph_output() for out in node.outputs):
                continue
            read = [value for value in node.inputs if value is not None]
            graph.remove(node, safe=True)
            for value in read:
                if value not in choice.faces:
                    self.rewriter.drop(value)
        for new, old in self._named:  # new constants reuse the names of removed ones
            if old.name and old.name not in graph.initializers:
                self.rewriter.rename(graph, new, old.name)
