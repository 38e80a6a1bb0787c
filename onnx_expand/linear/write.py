"""Writing terms: the nodes that the source did not have, in the place of those that go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.attributes import float_of
from onnx_expand.graph.editing import Entry, Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import same_bytes
from onnx_expand.linear.borders import Bridge
from onnx_expand.linear.bridges import Border, bridge
from onnx_expand.linear.copies import Copy, Made, copies_of
from onnx_expand.linear.driver import Terms
from onnx_expand.linear.stacks import Stack
from onnx_expand.linear.tables import Table, with_table
from onnx_expand.linear.tensors import Tensor
from onnx_expand.linear.terms import Cat, Homogeneous, Hub, Map, Read, Sum, Term, View
from onnx_expand.linear.views import ViewOp
from onnx_expand.lower import Form, Names, Target, Template, constant, lower, node_like
from onnx_expand.lower.units import unit_member, unmark

__all__ = ["Writer", "Written"]


@dataclass(frozen=True)
class Written:
    """A term that was written: the nodes that it stood for, and those that compute it now."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    before: Cost
    after: Cost
    border: Border = Border.EXACT


@dataclass(eq=False)
class Writer:
    """Writes the terms of one graph.

    Attributes:
        terms: What to write.
        rewriter: Gives names, and puts initializers in place.
        written: What was written.
        copies: Weights that the model stores in two versions since.
    """

    terms: Terms
    rewriter: Rewriter
    written: list[Written] = field(default_factory=list)
    copies: tuple[Copy, ...] = ()
    _made: list[Made] = field(default_factory=list)
    _values: dict[Term, ir.Value] = field(default_factory=dict)
    _going: set[ir.Node] = field(default_factory=set)
    _free: set[str] = field(default_factory=set)
    _given: frozenset[str] = frozenset()
    _named: dict[Term, Names] = field(default_factory=dict)
    _entries: list[Entry] = field(default_factory=list)
    _called: dict[ir.Node, str] = field(default_factory=dict)

    @property
    def _facts(self) -> Facts:
        return self.terms.facts

    def write(self) -> bool:
        """Bring the graph up to date with its terms; whether anything changed."""
        live = list(self.terms.live())
        stays = {t.node for t in live if t.is_source} | {
            n for t in live if t.is_source for n in getattr(getattr(t, "frame", None), "nodes", ())
        }
        every = [*self.terms.nodes, *self.terms.frames]
        self._going = {node for node in every if node not in stays}
        position = {node: i for i, node in enumerate(self.terms.graph)}
        self._keep_what_is_read(live, position)
        if not self._going and all(t.is_source or isinstance(t, Read) for t in live):
            return False
        going = sorted(self._going, key=position.__getitem__)
        # The values that new terms compute keep their names.
        kept = {term.value.name for term in live if term.value is not None}
        self._free = set(self.rewriter.own_names(going, whole=True)) - kept
        self._given = frozenset(self._free)
        # A node without a name is called by that of its output, which goes to what is new.
        self._called = {node: label(node) for node in going}
        for term in live:
            self._value(term)
            for value in self.terms.equal.get(term, ()):
                self._equal(value, self._values[term])
        for term in live:
            if term in self.terms.scaled and term.is_source and term.value is not None:
                term.value.name = self._unique(term.value.name or "scaled")
        self._redirect()
        self._settle_constants()
        self._ask_others()
        self._remove(position)
        for entry in self._entries:
            self.rewriter.register(entry)
        self.copies = tuple(copies_of(self._made))
        return True

    def _keep_what_is_read(self, live: Sequence[Term], position: dict[ir.Node, int]) -> None:
        """Leave nodes that compute a constant which something that stays reads."""
        # What reads these is going to read another value.
        computed = {term.value for term in live}
        for equal in (*self.terms.equal.values(), *self.terms.roots.values()):
            computed.update(equal)
        askers = {node for asks in self.terms.askers.values() for node, _ in asks}
        for node in sorted(self._going, key=position.__getitem__, reverse=True):
            readers = (n for out in node.outputs for n in self._facts.readers(out))
            if not computed.isdisjoint(node.outputs):
                continue
            if any(n not in self._going and n not in askers for n in readers):
                self._going.discard(node)

    # -- Values -----------------------------------------------------------------------------

    def _value(self, term: Term) -> ir.Value:
        """The value of a term whose arguments are written."""
        if term in self._values:
            return self._values[term]
        if isinstance(term, Read) or term.is_source:
            assert term.value is not None or isinstance(term, Hub)
            value = term.value if term.value is not None else self._values[term.args[0]]
        else:
            value = self._new(term)
        self._values[term] = value
        return value

    def _equal(self, old: ir.Value | None, new: ir.Value) -> None:
        """Let what reads one value read another that equals it."""
        if old is not None and old is not new:
            old.replace_all_uses_with(new)

    def _new(self, term: Term) -> ir.Value:
        xs = [self._values[arg] for arg in term.args]
        border = Border.EXACT
        if isinstance(term, Map) and term.like is not None:
            nodes = [_like(term, xs[0])]
            nodes[0].name = self._unique(nodes[0].name) if nodes[0].name else nodes[0].name
        elif isinstance(term, Map):
            nodes = self._map(term, xs[0])
            self._made.append(Made.of(term, nodes))
        elif isinstance(term, Bridge):
            nodes, border = self._bridge(term, xs[0]), term.border
        elif isinstance(term, Table):
            nodes = self._table(term, xs[0])
        elif isinstance(term, Stack):
            nodes = self._stack(term, xs[0])
        elif isinstance(term, View):
            nodes = [self._view(term, xs[0])]
        elif isinstance(term, Cat):
            nodes = [self._join_node("Concat", xs, term.like, {"axis": term.axis})]
        elif isinstance(term, Sum):
            nodes = self._sum(term, xs)
        elif isinstance(term, Homogeneous):
            inputs = list(term.like.inputs)
            for slot, x in zip(term.slots, xs, strict=True):
                inputs[slot] = x
            nodes = [self._again(term.like, inputs)]
        else:
            raise AssertionError(f"{type(term).__name__} is written only as it stands")
        origins = term.origins if isinstance(term, Map | Bridge | Stack | Table | View) else ()
        labels = tuple(self._called.get(node) or label(node) for node in dict.fromkeys(origins))
        self._insert(term, nodes)
        new = tuple(map(label, nodes))
        if isinstance(term, Map | Bridge | Stack | Table) and labels and not self._is_second(term):
            costs = term.before or Cost(), term.price().cost
            self.written.append(Written(labels, new, *costs, border))
        elif isinstance(term, View) and len(labels) > 1:
            counts = Cost(0, 0, len(labels)), Cost(0, 0, 1)
            self.written.append(Written(labels, new, *counts))
        return nodes[-1].outputs[0]

    def _insert(self, term: Term, nodes: Sequence[ir.Node]) -> None:
        """Put nodes into the graph, the last one's output in the place of the term's value."""
        graph, y = self.terms.graph, nodes[-1].outputs[0]
        for node in nodes:
            unmark(node)
            for out in node.outputs:
                if out is not y and not out.name:
                    out.name = self._fresh(f"{label(node)}.out")
        old = term.value
        if old is not None:
            y.shape, y.type = old.shape, old.type
            y.doc_string = old.doc_string
            y.metadata_props.update(old.metadata_props)
            y.meta.update(old.meta)  # quantization annotations
            name, old.name = old.name, None
            if term in self.terms.scaled:
                name = self._fresh(name or label(nodes[-1]))
            self._facts.transfer(old, y)
        else:
            name = self._fresh(f"{label(nodes[-1])}.out")
            _state(y, term.tensor, self._facts)
        for node in nodes[:-1]:
            out = node.outputs[0]
            if out.shape is None and node.op_type != "Pad":
                out.shape, out.type = y.shape, y.type
                if old is not None:
                    self._facts.transfer(old, out)
        assert term.anchor is not None
        sources = term.origins if isinstance(term, Map | Bridge | Stack | Table) else ()
        is_unit = isinstance(term, Map) and term.unit
        entry = self.rewriter.record(
            nodes, sources or (term.anchor,), whole=is_unit, origins=_origins(term)
        )
        self._entries.append(entry)
        graph.insert_before(term.anchor, nodes)
        y.name = name
        if old is not None:
            old.replace_all_uses_with(y, replace_graph_outputs=True)
            y.name = name

    def _redirect(self) -> None:
        """Let the rest of the graph read what became of the values that it read."""
        for term, values in self.terms.roots.items():
            for value in values:
                self._equal(value, self._values[term])

    def _ask_others(self) -> None:
        """Let nodes that want a shape ask a value that is there for it."""
        moved = False
        asked = ((t, *ask) for t, asks in self.terms.askers.items() for ask in asks)
        for twin, node, value in asked:
            if value.producer() not in self._going or node.inputs[0] is not value:
                continue
            other = self._values.get(twin, twin.value)
            assert other is not None
            node.replace_input_with(0, other)
            moved = moved or not isinstance(twin, Read)
        if moved:
            self.terms.graph.sort()

    def _settle_constants(self) -> None:
        """Write down what other nodes compute from the shape or type of what goes."""
        for value in (out for node in self._going for out in node.outputs):
            for reader in list(value.consumers()):
                if reader not in self._going:
                    for known in self._facts.fixed_values(reader) or ():
                        self.rewriter.freeze(known, self._facts.tensor(known))

    def _remove(self, position: dict[ir.Node, int]) -> None:
        for node in sorted(self._going, key=position.__getitem__, reverse=True):
            if any(out.uses() or out.is_graph_output() for out in node.outputs):
                continue
            if node.graph is None:
                continue
            read = [value for value in node.inputs if value is not None]
            self.terms.graph.remove(node, safe=True)
            for value in read:
                self.rewriter.drop(value)

    def _unique(self, name: str) -> str:
        return self.rewriter.unique(name, free=self._free)

    def _fresh(self, name: str) -> str:
        """A name for a value that the source does not compute: none of the source's own."""
        return self.rewriter.unique(name)

    def value_of(self, term: Term) -> ir.Value | None:
        """The value of a term that was written, or that stays."""
        return self._values.get(term, term.value)

    def scratch(self, term: Term) -> list[ir.Node] | None:
        """The nodes of a map, and of the views around it, in no graph; None if there are none.

        Names are those of nothing: the nodes are for measuring.
        """
        chain: list[Term] = []
        while term.node is None and isinstance(term, Map | View):
            chain.append(term)
            term = term.args[0]
        if term.value is None:
            return None
        x, nodes = term.value, list[ir.Node]()
        for current in reversed(chain):
            if isinstance(current, Map) and current.like is not None:
                made = [_like(current, x)]
            elif isinstance(current, Map):
                assert current.form is not None
                dtype = current.tensor.dtype or ir.DataType.FLOAT
                target = Target(x, dtype, Names("n", "w", "b", "a"), self._facts)
                made = lower(current.load(), current.form, current.axes, target, judged=True)
            else:
                assert isinstance(current, View)
                old = current.op.node
                inputs = [x, *old.inputs[1:]]
                made = [ir.Node(old.domain, old.op_type, inputs, list(old.attributes.values()))]
            for node in made:
                _state(node.outputs[0], current.tensor, self._facts)
            nodes += made
            x = nodes[-1].outputs[0]
        return nodes

    # -- Maps -------------------------------------------------------------------------------

    def _map(self, term: Map, x: ir.Value) -> list[ir.Node]:
        assert term.form is not None
        known = term.args[0].tensor.rank
        if known is not None:
            self._facts.note_rank(x, known)
        template = self._template(term)
        target = self._target(term, x, template)
        if term.form is Form.ELEMENTWISE and not term.unit:
            template = None
        affine = term.load()
        if term.form not in {Form.GEMM, Form.MATMUL}:
            affine = affine.finest()
        if affine.bias is not None and not np.any(affine.bias) and not term.unit:
            affine = replace(affine, bias=None)
            template = None if template is None else template.without_bias()
        nodes = lower(
            affine, term.form, term.axes, target, template, restore=term.unit, judged=True
        )
        rank = self._facts.rank(x)
        if rank is not None:
            for node in nodes:
                self._facts.note_rank(node.outputs[0], rank)
        if not term.unit:  # its constants get the names back that they had
            self._keep_constants(term, nodes)
        return nodes

    def _keep_constants(self, term: Map | Table, nodes: Sequence[ir.Node]) -> None:
        """Let new nodes read the constants of the source where these came out as they were."""
        old = [v for link in term.links for v in (link.weight, link.bias) if v is not None]
        for node in nodes:
            for slot, new in enumerate(node.inputs):
                if new is None or new.const_value is None or new.is_initializer():
                    continue
                for value in old:
                    if self._is_free(value, new) and _holds(value, new, self._facts):
                        node.replace_input_with(slot, value)
                        self._free.discard(value.name or "")
                        break

    def _is_free(self, value: ir.Value, new: ir.Value) -> bool:
        """Whether a constant of the source has its name still."""
        return value.name == new.name or value.name in self._free or value.name not in self._given

    def _bridge(self, term: Bridge, x: ir.Value) -> list[ir.Node]:
        target = self._target(term, x, self._template(term))
        nodes = bridge(term.border, term.first(), term.second(), term.extents, target)
        if isinstance(nodes, Refusal):
            raise RefusedError(nodes)
        return nodes

    def _stack(self, term: Stack, x: ir.Value) -> list[ir.Node]:
        """A MatMul with several matrices."""
        target = self._target(term, x, None)
        weight = constant(term.numbers(), target.names.weight, target.dtype, target.spill)
        operands = [x, weight] if term.right else [weight, x]
        return [ir.node("MatMul", operands, name=target.names.node)]

    def _table(self, term: Table, x: ir.Value) -> list[ir.Node]:
        """A Gemm with a matrix for its C, or an Add."""
        layer = term.layer
        if layer is None:
            target = self._target(term, x, None)
            added = constant(term.numbers(), target.names.bias, target.dtype)
            return [ir.node("Add", [x, added], name=target.names.add)]
        template = self._template(term)
        if template is not None and template.node.op_type == "MatMul":
            node = ir.node("Gemm", [], name=template.node.name)
            template = replace(template, node=node)
        target = self._target(term, x, template)
        affine = replace(layer.load(), bias=None)
        (node,) = lower(affine, Form.GEMM, layer.axes, target, template, judged=True)
        beta = float_of(node, "beta", self._facts.opset)
        added = constant(term.numbers() / beta, target.names.bias, target.dtype)
        nodes = [with_table(node, added)]
        self._facts.note_rank(nodes[0].outputs[0], 2)
        self._keep_constants(term, nodes)
        return nodes

    def _template(self, term: Map | Bridge | Stack | Table) -> Template | None:
        """The node to write a map like: one that expand replaced, else its heaviest node."""
        members = [unit_member(node) for node in term.origins]
        if term.unit:
            return next((m.template() for m in members if m is not None), None)
        for link in sorted(term.links, key=lambda link: -link.geometry.parameters):
            template = Template.of(link, self._facts)
            if template is not None:
                return template
        return None

    def _target(
        self, term: Map | Bridge | Stack | Table, x: ir.Value, template: Template | None
    ) -> Target:
        read = [v for n in term.origins for v in n.inputs if v is not None]
        # In the body of a function its constants alone may tell.
        known = (term.tensor.dtype, *(self._facts.dtype(v) for v in read))
        dtype = next((d for d in known if d is not None and d.is_floating_point()), None)
        if dtype is None:
            message = f"the type of '{x.name}' is not known"
            raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, message))
        # What replaces weights that lie in a file waits in a file, too.
        on_disk = any(isinstance(v.const_value, ir.ExternalTensor) for v in read)
        spill = self.rewriter.spill if on_disk else None
        return Target(x, dtype, self._names(term, template), self._facts, spill)

    def _is_second(self, term: Map | Bridge | Stack | Table) -> bool:
        """Whether a term is the second half of a map that was written as two nodes."""
        return isinstance(term, Map) and term.pair is not None and term.pair in self._named

    def _names(self, term: Map | Bridge | Stack | Table, template: Template | None) -> Names:
        """The names of a map's node, constants and addition; two halves share them."""
        key = term.pair if isinstance(term, Map) and term.pair is not None else term
        if key not in self._named:
            self._named[key] = self._new_names(term, template)
        return self._named[key]

    def _new_names(self, term: Map | Bridge | Stack | Table, template: Template | None) -> Names:
        links = term.links
        shift = next((link for link in links if link.node.op_type == "Add"), None)
        biases = [link.bias.name for link in links if link.bias is not None and link.bias.name]
        named = [n for n in term.origins if n in self._going] or list(term.names_like)
        first = named[0] if named else term.anchor
        assert first is not None
        node = label(first)
        weights = [link.weight.name for link in links if link.weight is not None]
        weight = next((name for name in weights if name), f"{node}.weight")
        bias = biases[0] if biases else _bias_name(weight)
        if template is not None:
            node = template.node.name or node
            weight = template.input_name(1 - template.slot if template.slot < 2 else 1) or weight
            bias = template.input_name(2) or (biases[0] if biases else _bias_name(weight))
        if term.names_like:
            node, bias = f"{node}.add", f"{node}.shift"
        add = shift.node.name if shift is not None and shift.node.name else f"{node}.bias"
        if term.names_like:
            add = node
        weight, bias = self._unique(weight), self._unique(bias)
        node = self._unique(node)
        return Names(node, weight, bias, node if term.names_like else self._unique(add))

    # -- Joins and views --------------------------------------------------------------------

    def _join_node(
        self,
        op_type: str,
        xs: Sequence[ir.Value],
        like: ir.Node | None,
        attributes: dict[str, int],
    ) -> ir.Node:
        if like is not None:
            return self._again(like, xs)
        return ir.node(op_type, list(xs), attributes, name=self._unique(op_type.lower()))

    def _sum(self, term: Sum, xs: Sequence[ir.Value]) -> list[ir.Node]:
        if term.like is not None:
            return [self._join_node("Sum", xs, term.like, {})]
        assert term.anchor is not None
        total, nodes = xs[0], list[ir.Node]()
        stem = label(term.anchor)
        for x, factor in zip(xs[1:], term.factors[1:], strict=True):
            op = "Add" if factor > 0 else "Sub"
            nodes.append(ir.node(op, [total, x], name=self._unique(stem)))
            total = nodes[-1].outputs[0]
        return nodes

    def _view(self, term: View, x: ir.Value) -> ir.Node:
        old = term.op.node
        inputs = [x, *old.inputs[1:]]
        if old.op_type == "Reshape":
            inputs[1] = _operand(term.op, self._facts, self._unique)
        return self._again(old, inputs)

    def _again(self, old: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """A node like one of the source, with other inputs and a name of its own."""
        node = node_like(old, inputs)
        node.name = self._unique(old.name) if old.name else old.name
        return node


def _like(term: Map, x: ir.Value) -> ir.Node:
    """The node of the source that a map is like, of another input."""
    assert term.like is not None
    inputs = list(term.like.inputs) or [None]
    inputs[term.links[0].slot] = x
    return node_like(term.like, inputs)


def _origins(term: Term) -> tuple[ir.Node, ...]:
    """The nodes of the source whose work a new term does."""
    like = getattr(term, "like", None)
    if like is not None:
        return (like,)
    found = term.origins if isinstance(term, Map | Bridge | Stack | Table | View) else ()
    if isinstance(term, Map):
        found = found or tuple(term.names_like)
    assert term.anchor is not None
    return found or (term.anchor,)


def _holds(value: ir.Value, new: ir.Value, facts: Facts) -> bool:
    """Whether a constant of the source holds just what a new one does."""
    if not facts.is_constant(value) or new.const_value is None:
        return False
    a, b = facts.tensor(value), new.const_value
    return a.dtype == b.dtype and facts.dims(value) == tuple(b.shape) and same_bytes(a, b)


def _bias_name(weight: str) -> str:
    stem, dot, last = weight.rpartition(".")
    return f"{stem}{dot}bias" if last == "weight" else f"{weight}.bias"


def _state(value: ir.Value, tensor: Tensor, facts: Facts) -> None:
    """State the shape and type of a new value."""
    if tensor.extents is not None:
        facts.state(value, tensor.extents)
    if tensor.dtype is not None:
        value.dtype = tensor.dtype


def _operand(op: ViewOp, facts: Facts, unique: Callable[[str], str]) -> ir.Value:
    """The operand of a Reshape: a constant, if it can be one.

    Raises:
        RefusedError: It spells the number of channels where it cannot be changed.
    """
    given = op.node.inputs[1]
    assert given is not None
    if given.producer() is None and op.is_as_spelled:
        return given
    numbers = op.spelled()
    if numbers is None:
        original = facts.extents(op.node.outputs[0])
        axis = None if op.axes is None else op.axes[1]
        if axis is None or (original is not None and original[axis] == op.target[axis]):
            return given
        message = f"'{given.name}' spells the number of channels and is no constant"
        raise RefusedError(Refusal(Reason.DYNAMIC, message))
    name = unique(given.name or "shape")
    return ir.val(name, const_value=ir.Tensor(np.array(numbers, dtype=np.int64), name=name))
