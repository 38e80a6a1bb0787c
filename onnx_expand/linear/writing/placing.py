"""Insert the nodes of new terms into the graph, in place of removed nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.graph.editing import Entry, Rewriter, describe_like, label
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.driver import Terms
from onnx_expand.linear.rules.borders import Bridge
from onnx_expand.linear.rules.bridges import Border
from onnx_expand.linear.terms.base import Map, Read, SplitInput, Term, View
from onnx_expand.linear.terms.batched import BatchedProduct
from onnx_expand.linear.terms.matrix_bias import MatrixBias
from onnx_expand.linear.writing.copies import Copy, WrittenMap, copies_of
from onnx_expand.linear.writing.nodes import NodeBuilder, annotate
from onnx_expand.lower.units import unmark

__all__ = ["Writer", "Written"]

_Whole = Map | Bridge | BatchedProduct | MatrixBias


@dataclass(frozen=True)
class Written:
    """A written term: the nodes that it replaced, and those that compute it now."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    before: Cost
    after: Cost
    border: Border = Border.EXACT


@dataclass(eq=False)
class Writer:
    """Writes the terms of one graph.

    Attributes:
        terms: The terms to write.
        rewriter: Creates names and inserts initializers.
        written: The written terms.
        copies: Weights of which the model now stores two versions.
    """

    terms: Terms
    rewriter: Rewriter
    written: list[Written] = field(default_factory=list)
    copies: tuple[Copy, ...] = ()
    _made: list[WrittenMap] = field(default_factory=list)
    _values: dict[Term, ir.Value] = field(default_factory=dict)
    _going: set[ir.Node] = field(default_factory=set)
    _builder: NodeBuilder = field(init=False)
    _entries: list[Entry] = field(default_factory=list)
    _called: dict[ir.Node, str] = field(default_factory=dict)

    @property
    def _facts(self) -> Facts:
        return self.terms.facts

    def write(self) -> bool:
        """Update the graph to its terms; return whether it changed."""
        live = list(self.terms.live())
        stays = {n for t in live if t.is_source for n in (t.node, *t.sources)}
        every = [*self.terms.nodes, *self.terms.frames]
        self._going = {node for node in every if node not in stays}
        position = {node: i for i, node in enumerate(self.terms.graph)}
        self._keep_what_is_read(live, position)
        if not self._going and all(t.is_source or isinstance(t, Read) for t in live):
            return False
        going = sorted(self._going, key=position.__getitem__)
        # The values that new terms compute keep their names.
        kept = {term.value.name for term in live if term.value is not None}
        free = set(self.rewriter.own_names(going)) - kept
        self._builder = NodeBuilder(self._facts, self.rewriter, self._going, free)
        # A node without a name is identified by its output, whose name the new node gets.
        self._called = {node: label(node) for node in going}
        for term in live:
            self._value(term)
            for value in self.terms.equal.get(term, ()):
                self._equal(value, self._values[term])
        for term in live:
            if term in self.terms.scaled and term.is_source and term.value is not None:
                name = term.value.name or "scaled"
                term.value.name = self.rewriter.unique(name, free=free)
        self._redirect()
        self._store_constants(going)
        self._redirect_shape_readers()
        self._remove(position)
        for entry in self._entries:
            self.rewriter.register(entry)
        self.copies = tuple(copies_of(self._made))
        return True

    def _keep_what_is_read(self, live: Sequence[Term], position: dict[ir.Node, int]) -> None:
        """Keep nodes that compute a constant for consumers that stay."""
        # The consumers of these will read another value.
        computed = {term.value for term in live}
        for equal in (*self.terms.equal.values(), *self.terms.roots.values()):
            computed.update(equal)
        shape_readers = {node for asks in self.terms.shape_readers.values() for node, _ in asks}
        for node in sorted(self._going, key=position.__getitem__, reverse=True):
            readers = (n for out in node.outputs for n in self._facts.readers(out))
            if not computed.isdisjoint(node.outputs):
                continue
            if any(n not in self._going and n not in shape_readers for n in readers):
                self._going.discard(node)

    # -- Values -----------------------------------------------------------------------------

    def _value(self, term: Term) -> ir.Value:
        """Return the value of a term whose arguments are written."""
        if term in self._values:
            return self._values[term]
        if isinstance(term, Read) or term.is_source:
            assert term.value is not None or isinstance(term, SplitInput)
            value = term.value if term.value is not None else self._values[term.args[0]]
        else:
            value = self._new(term)
        self._values[term] = value
        return value

    def _equal(self, old: ir.Value | None, new: ir.Value) -> None:
        """Replace a value by an equal one in its consumers."""
        if old is not None and old is not new:
            old.replace_all_uses_with(new)

    def _new(self, term: Term) -> ir.Value:
        nodes = self._builder.make(term, [self._values[arg] for arg in term.args])
        if isinstance(term, Map) and term.like is None:
            self._made.append(WrittenMap.of(term, nodes))
        labels = tuple(
            self._called.get(node) or label(node) for node in dict.fromkeys(term.origins)
        )
        self._insert(term, nodes)
        new = tuple(map(label, nodes))
        if isinstance(term, _Whole) and labels and not self._builder.is_second(term):
            border = term.border if isinstance(term, Bridge) else Border.EXACT
            costs = term.before or Cost(), term.price().cost
            self.written.append(Written(labels, new, *costs, border))
        elif isinstance(term, View) and len(labels) > 1:
            counts = Cost(0, 0, len(labels)), Cost(0, 0, 1)
            self.written.append(Written(labels, new, *counts))
        return nodes[-1].outputs[0]

    def _insert(self, term: Term, nodes: Sequence[ir.Node]) -> None:
        """Insert nodes; the output of the last one replaces the term's value."""
        graph, y = self.terms.graph, nodes[-1].outputs[0]
        for node in nodes:
            unmark(node)
            for out in node.outputs:
                if out is not y and not out.name:
                    out.name = self.rewriter.unique(f"{label(node)}.out")
        old = term.value
        if old is not None:
            describe_like(y, old)
            name, old.name = old.name, None
            if term in self.terms.scaled:
                name = self.rewriter.unique(name or label(nodes[-1]))
            self._facts.transfer(old, y)
        else:
            name = self.rewriter.unique(f"{label(nodes[-1])}.out")
            annotate(y, term.tensor, self._facts)
        for node in nodes[:-1]:
            out = node.outputs[0]
            if out.shape is None and node.op_type != "Pad":
                out.shape, out.type = y.shape, y.type
                if old is not None:
                    self._facts.transfer(old, out)
        assert term.anchor is not None
        replaced = term.origins if isinstance(term, _Whole) and term.origins else (term.anchor,)
        origins = term.origins or term.names_like or (term.anchor,)
        origins = origins if term.like is None else (term.like,)
        entry = self.rewriter.record(nodes, replaced, whole=term.unit, origins=origins)
        self._entries.append(entry)
        graph.insert_before(term.anchor, nodes)
        y.name = name
        if old is not None:
            old.replace_all_uses_with(y, replace_graph_outputs=True)
            y.name = name

    def _redirect(self) -> None:
        """Redirect the rest of the graph to the new values."""
        for term, values in self.terms.roots.items():
            for value in values:
                self._equal(value, self._values[term])

    def _redirect_shape_readers(self) -> None:
        """Redirect nodes that read only a shape to a value that exists."""
        moved = False
        asked = ((t, *ask) for t, asks in self.terms.shape_readers.items() for ask in asks)
        for other_term, node, value in asked:
            if value.producer() not in self._going or node.inputs[0] is not value:
                continue
            other = self._values.get(other_term, other_term.value)
            assert other is not None
            node.replace_input_with(0, other)
            moved = moved or not isinstance(other_term, Read)
        if moved:
            self.terms.graph.sort()

    def _store_constants(self, going: Iterable[ir.Node]) -> None:
        """Store constants that other nodes compute from the shape or type of removed values."""
        for value in (out for node in going for out in node.outputs):
            for reader in list(value.consumers()):
                if reader not in self._going:
                    for known in self._facts.fixed_values(reader) or ():
                        self.rewriter.freeze(known, self._facts.tensor(known))

    def _remove(self, position: dict[ir.Node, int]) -> None:
        gone: dict[ir.Node, None] = {}
        for node in sorted(self._going, key=position.__getitem__, reverse=True):
            is_read = any(
                out.is_graph_output() or any(user not in gone for user in out.consumers())
                for out in node.outputs
            )
            if node.graph is not None and not is_read:
                gone[node] = None
        read = [value for node in gone for value in node.inputs if value is not None]
        self.terms.graph.remove(gone, safe=True)
        for value in dict.fromkeys(read):
            self.rewriter.drop(value)

    def value_of(self, term: Term) -> ir.Value | None:
        """Return the value of a term that was written, or that stays."""
        return self._values.get(term, term.value)
