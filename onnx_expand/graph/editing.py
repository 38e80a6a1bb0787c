"""Replace nodes in a model, and preserve names, order and metadata."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import ModelError
from onnx_expand.graph.origins import inherit
from onnx_expand.graph.spill import Spill
from onnx_expand.graph.tensors import first_bytes, read_tensor, same_bytes

__all__ = [
    "ACTIVATION_KEY",
    "UNIT_KEY",
    "Entry",
    "Rewriter",
    "Rewritten",
    "describe_like",
    "detach",
    "label",
    "take_over",
]

UNIT_KEY = "onnx_expand.unit"
ACTIVATION_KEY = "onnx_expand.activation"
# Node metadata that locate a node in an expanded unit; replacements do not inherit them.
_PLACES = frozenset({UNIT_KEY, ACTIVATION_KEY})


def label(node: ir.Node) -> str:
    """Return a node's name for messages; the name of its output if it has none."""
    return node.name or (node.outputs[0].name if node.outputs else "") or node.op_type


def detach(nodes: Iterable[ir.Node]) -> None:
    """Detach built but unused nodes; onnx-ir still lists them as consumers."""
    for node in nodes:
        for slot in range(len(node.inputs)):
            node.replace_input_with(slot, None)


def describe_like(new: ir.Value, old: ir.Value) -> None:
    """Give a value the shape, type, documentation and metadata of another one."""
    new.shape, new.type, new.doc_string = old.shape, old.type, old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)  # quantization annotations


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Replace a value by another one for all consumers, under its name."""
    describe_like(new, old)
    name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


@dataclass(frozen=True)
class Entry:
    """New nodes whose constants are to be registered.

    Attributes:
        graph: Their graph.
        nodes: The nodes.
        places: The position among the initializers for each input index.
        read: The initializers read by the replaced nodes, by name.
        whole: Whether every constant keeps its own name.
    """

    graph: ir.Graph
    nodes: tuple[ir.Node, ...]
    places: dict[int, tuple[float, ...]]
    read: dict[str | None, ir.Value]
    whole: bool = False


@dataclass(frozen=True)
class Rewritten:
    """Nodes that were replaced: the labels of the old ones and of the new ones."""

    old: tuple[str, ...]
    new: tuple[str, ...]


class Rewriter:
    """Replace sequences of nodes in one model, keeping names unique and initializers in order.

    New initializers take the positions of those that they replace, so that undoing a rewrite
    restores the same file.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self.spill = Spill()
        self._taken: set[str] = set()
        self._place: dict[tuple[ir.Graph, str], tuple[float, ...]] = {}
        self._new: dict[Hashable, list[ir.Value]] = {}
        for graph in model.graphs():
            for position, name in enumerate(graph.initializers):
                self._place[graph, name] = (position,)
                self._taken.add(name)
            self._taken.update(value.name or "" for value in graph.inputs)
            for node in graph:
                self._taken.update([node.name or "", *(v.name or "" for v in node.outputs)])

    def unique(self, name: str, *, free: set[str] | None = None) -> str:
        """Return a name that is unused in the model, the wanted one if possible.

        Args:
            name: The wanted name.
            free: Names that become free when nodes are replaced; the returned name is removed.
        """
        given_up = set() if free is None else free
        candidate, count = name, 1
        while candidate in self._taken and candidate not in given_up:
            candidate, count = f"{name}_{count}", count + 1
        self._taken.add(candidate)
        given_up.discard(candidate)
        return candidate

    def own_names(self, nodes: Sequence[ir.Node]) -> list[str]:
        """Return the names that removing nodes makes free, those of constants included."""
        inside = set(nodes)
        names = [node.name or "" for node in nodes]
        names += [o.name or "" for node in nodes for o in node.outputs]
        for value in _constants(nodes):
            if all(use.node in inside for use in value.uses()) and not value.is_graph_output():
                names.append(value.name or "")
        return names

    def record(
        self,
        nodes: Sequence[ir.Node],
        old: Sequence[ir.Node],
        *,
        whole: bool = False,
        origins: Sequence[ir.Node] | None = None,
    ) -> Entry:
        """Record what `register` needs to know of nodes before they are removed.

        Args:
            nodes: New nodes, whose constants are not registered yet.
            old: The nodes that they replace.
            whole: Whether every constant keeps its own name, even if it equals another.
            origins: The nodes that they derive from, if these are not the replaced ones.
        """
        graph = old[-1].graph
        assert isinstance(graph, ir.Graph)
        _describe(nodes, old)
        inherit(nodes, old if origins is None else origins, is_new=not whole)
        read = {v.name: v for n in old for v in n.inputs if v is not None and v.is_initializer()}
        return Entry(graph, tuple(nodes), self._places(graph, old), read, whole)

    def register(self, entry: Entry) -> None:
        """Register the constants of new nodes in the positions of the removed ones."""
        fallback = min(entry.places.values(), default=(float(len(self._place)),))
        count = 0
        for node in entry.nodes:
            for slot, value in enumerate(node.inputs):
                if value is None or value.const_value is None or value.is_initializer():
                    continue
                if value.producer() is not None:
                    continue
                source = entry.read.get(value.name)
                twin = self._twin(entry, value, source)
                if twin is not None:
                    node.replace_input_with(slot, twin)
                    continue
                place = (*entry.places.get(slot, fallback), count)
                self._place[entry.graph, value.name or ""] = place
                entry.graph.register_initializer(value)
                if source is not None:  # documentation of the weight whose name it takes
                    value.doc_string = source.doc_string
                    value.metadata_props.update(source.metadata_props)
                count += 1

    def _twin(self, entry: Entry, value: ir.Value, source: ir.Value | None) -> ir.Value | None:
        """Return a new constant with equal contents, unless one has documentation or metadata."""
        tensor = value.const_value
        assert tensor is not None
        said = source is not None and (source.doc_string or source.metadata_props)
        if entry.whole or said or not tensor.size:
            return None
        key = (entry.graph, tensor.dtype, tuple(tensor.shape), first_bytes(tensor))
        twins = self._new.setdefault(key, [])
        for twin in twins:
            held = twin.const_value
            if held is not None and twin.is_initializer() and same_bytes(held, tensor):
                return twin
        twins.append(value)
        return None

    def replace(
        self, old: Sequence[ir.Node], new: Sequence[ir.Node], *, whole: bool = False
    ) -> None:
        """Replace a sequence of nodes by another that computes the same output.

        Args:
            old: Nodes of one graph, in order; only the first output of the last one has other
                consumers.
            new: Nodes in no graph yet, in order, whose constants are not registered yet.
            whole: See `record`.
        """
        graph = old[0].graph
        if not isinstance(graph, ir.Graph):
            raise ModelError(f"node '{old[0].name}' lies in no graph")
        before, after = old[-1].outputs[0], new[-1].outputs[0]
        after.name = before.name
        describe_like(after, before)
        for node in new[:-1]:
            out = node.outputs[0]
            out.name = out.name or self.unique(f"{label(node)}.out")
            if (
                out.shape is None and out.type is None
            ):  # values before the last step have the shape of the result
                out.shape, out.type = before.shape, before.type
        entry = self.record(new, old, whole=whole)
        read = [value for node in old for value in node.inputs if value is not None]
        # The inputs of the new nodes are available before the first old node, or at least before
        # the last.
        given = {v for node in new for v in node.inputs if v is not None} - {
            node.outputs[0] for node in new
        }
        early = given <= {v for v in old[0].inputs if v is not None} | {
            v for v in given if v.producer() is None
        }
        graph.insert_before(old[0] if early else old[-1], new)
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        graph.remove(old, safe=True)
        self._drop(read)
        self.register(entry)

    def freeze(self, value: ir.Value, tensor: ir.TensorProtocol) -> str:
        """Replace a value by a constant, remove its producers, and return the new name."""
        node = value.producer()
        graph = node.graph if node is not None else None
        if node is None or not isinstance(graph, ir.Graph):
            raise ModelError(f"'{value.name}' is computed by no node of a graph")
        name = self.unique(value.name or "constant", free={value.name or ""})
        if value.is_graph_output():
            self._put_out(graph, value, tensor)
            return name
        constant = self.constant(graph, name, tensor)
        value.replace_all_uses_with(constant)
        self._drop([value])  # unless another output of the node has consumers
        return name

    def _put_out(self, graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """Replace a graph output by a constant, written as a node as outputs need a producer."""
        producer = value.producer()
        assert producer is not None
        constant = self.constant(graph, self.unique(f"{value.name}.constant"), tensor)
        node = ir.node("Identity", [constant], name=producer.name)
        graph.insert_before(producer, node)
        take_over(value, node.outputs[0])
        if not any(o.uses() or o.is_graph_output() for o in producer.outputs):
            graph.remove(producer, safe=True)

    def constant(self, graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Register a constant after the others of a graph, under an unused name."""
        value = ir.val(name, const_value=ir.Tensor(read_tensor(tensor), tensor.dtype, name=name))
        self._place[graph, name] = (float(len(self._place)),)
        graph.register_initializer(value)
        return value

    def rename(self, graph: ir.Graph, value: ir.Value, name: str) -> None:
        """Give a constant the name and position of one that was removed."""
        place = self._place.pop((graph, value.name or ""))
        self._place.setdefault((graph, name), place)
        value.name = name

    def integers(self, graph: ir.Graph, name: str, numbers: Sequence[int]) -> ir.Value:
        """Add a list of integers to a graph's initializers.

        Args:
            graph: The graph.
            name: Its name, if that is unused.
            numbers: Its elements, as int64.
        """
        return self.constant(graph, self.unique(name), ir.Tensor(np.asarray(numbers, np.int64)))

    def feed(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> None:
        """Replace the inputs of a node, and remove values that have no consumer any more."""
        old = [value for value in node.inputs if value is not None]
        node.resize_inputs(len(inputs))
        for slot, value in enumerate(inputs):
            node.replace_input_with(slot, value)
        self._drop(dict.fromkeys(old))

    def can_stand_in(self, new: ir.Value, old: ir.Value) -> bool:
        """Return whether a value can replace another for all its consumers.

        A graph output keeps its name: its replacement must be computed by a node of that graph and
        must not be an output itself.
        """
        if not old.is_graph_output():
            return True
        maker, node = new.producer(), old.producer()
        if maker is None or node is None or new.is_graph_output():
            return False
        return maker.graph is node.graph

    def stand_in(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Remove a node, and replace its outputs by other values.

        Args:
            node: The node; producers that only it consumes are removed as well.
            values: One for each of its first outputs; further outputs have no consumers.
        """
        for old, new in zip(node.outputs, values, strict=False):
            self.give(old, new)
        self.remove(node)

    def give(self, old: ir.Value, new: ir.Value) -> None:
        """Replace a value for all consumers; a graph output passes on name, type and metadata."""
        if old.is_graph_output():
            take_over(old, new)
        else:
            old.replace_all_uses_with(new)

    def remove(self, node: ir.Node) -> None:
        """Remove a node whose outputs have no consumers, and producers that only it consumes."""
        if node.outputs:
            self._drop([node.outputs[0]])

    def drop(self, value: ir.Value) -> None:
        """Remove the producers of a value that has no consumers."""
        self._drop([value])

    def _places(self, graph: ir.Graph, nodes: Sequence[ir.Node]) -> dict[int, tuple[float, ...]]:
        """Return the first initializer position for each input index of some nodes."""
        places: dict[int, tuple[float, ...]] = {}
        for node in nodes:
            for slot, value in enumerate(node.inputs):
                place = self._place.get((graph, value.name or "")) if value is not None else None
                if place is not None:
                    places[slot] = min(place, places.get(slot, place))
        return places

    def finish(self) -> None:
        """Sort the initializers by their recorded positions."""
        for graph in self._model.graphs():
            ordered = sorted(
                graph.initializers.values(), key=lambda v: self._place[graph, v.name or ""]
            )
            if ordered != list(graph.initializers.values()):
                graph.initializers.clear()
                for value in ordered:
                    graph.initializers.add(value)

    def _drop(self, values: Iterable[ir.Value]) -> None:
        """Remove constants without consumers, and the nodes that computed them."""
        pending = list(values)
        while pending:
            value = pending.pop()
            if value.uses() or value.is_graph_output() or value.is_graph_input():
                continue
            node = value.producer()
            if node is None:
                if value.is_initializer() and value.graph is not None:
                    del value.graph.initializers[value.name or ""]
                continue
            if any(out.uses() or out.is_graph_output() for out in node.outputs):
                continue
            if node.graph is not None:
                inputs = [v for v in node.inputs if v is not None]
                node.graph.remove(node, safe=True)
                pending += inputs


def _describe(new: Sequence[ir.Node], old: Sequence[ir.Node]) -> None:
    """Copy documentation and metadata to nodes from those they replace, preferring equal names."""
    for node in new:
        for source in sorted(old, key=lambda n: n.name != node.name):
            node.doc_string = node.doc_string or source.doc_string
            for key, text in source.metadata_props.items():
                if key not in _PLACES:
                    node.metadata_props.setdefault(key, text)


def _constants(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """Return the constants that nodes read, registered or not, without duplicates."""
    found: dict[ir.Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            is_node = producer is not None and producer.op_type == "Constant"
            if value.const_value is not None or is_node:
                found[value] = None
    return list(found)
