"""Create the nodes of new terms: their form, constants and names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.attributes import float_of
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import same_bytes
from onnx_expand.linear.rules.borders import Bridge
from onnx_expand.linear.rules.bridges import bridge
from onnx_expand.linear.terms.base import Concat, Homogeneous, Map, Sum, Term, View
from onnx_expand.linear.terms.batched import BatchedProduct
from onnx_expand.linear.terms.matrix_bias import MatrixBias, with_matrix_bias
from onnx_expand.linear.terms.tensors import Tensor
from onnx_expand.linear.terms.views import ViewOp
from onnx_expand.lower import Form, Names, Target, Template, constant, lower, node_like
from onnx_expand.lower.units import unit_member
from onnx_expand.model import is_external

__all__ = ["NodeBuilder", "annotate"]

_Whole = Map | Bridge | BatchedProduct | MatrixBias


@dataclass(eq=False)
class NodeBuilder:
    """Creates the nodes of new terms, which are not yet in a graph.

    Attributes:
        facts: Facts about the model.
        rewriter: Creates names.
        going: The nodes of the source that will be removed.
        free: The names that become available when these are removed.
    """

    facts: Facts
    rewriter: Rewriter
    going: Collection[ir.Node]
    free: set[str]
    _given: frozenset[str] = field(init=False)
    _named: dict[Term, Names] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._given = frozenset(self.free)

    def make(self, term: Term, xs: Sequence[ir.Value]) -> list[ir.Node]:
        """Create the nodes that compute a term from the values of its arguments."""
        # functools.singledispatchmethod keeps each instance for good in Python 3.13.
        match term:
            case Bridge():
                return self._of_bridge(term, xs)
            case Map():
                return self._of_map(term, xs)
            case BatchedProduct():
                return self._of_batched_product(term, xs)
            case MatrixBias():
                return self._of_matrix_bias(term, xs)
            case View():
                return self._of_view(term, xs)
            case Concat():
                return self._of_concat(term, xs)
            case Sum():
                return self._of_sum(term, xs)
            case Homogeneous():
                return self._of_homogeneous(term, xs)
        raise AssertionError(f"{type(term).__name__} is written only as it stands")

    def _of_map(self, term: Map, xs: Sequence[ir.Value]) -> list[ir.Node]:
        if term.like is None:
            return self._map(term, xs[0])
        inputs = list(term.like.inputs) or [None]
        inputs[term.links[0].slot] = xs[0]
        return [self._again(term.like, inputs)]

    def _of_bridge(self, term: Bridge, xs: Sequence[ir.Value]) -> list[ir.Node]:
        target = self._target(term, xs[0], self._template(term))
        nodes = bridge(term.border, term.first(), term.second(), term.extents, target)
        if isinstance(nodes, Refusal):
            raise RefusedError(nodes)
        return nodes

    def _of_batched_product(self, term: BatchedProduct, xs: Sequence[ir.Value]) -> list[ir.Node]:
        """Create a MatMul with a batch of matrices."""
        target = self._target(term, xs[0], None)
        weight = constant(term.numbers(), target.names.weight, target.dtype, target.spill)
        operands = [xs[0], weight] if term.right else [weight, xs[0]]
        return [ir.node("MatMul", operands, name=target.names.node)]

    def _of_matrix_bias(self, term: MatrixBias, xs: Sequence[ir.Value]) -> list[ir.Node]:
        """Create a Gemm with a matrix as its C, or an Add."""
        layer = term.layer
        if layer is None:
            target = self._target(term, xs[0], None)
            added = constant(term.numbers(), target.names.bias, target.dtype)
            return [ir.node("Add", [xs[0], added], name=target.names.add)]
        template = self._template(term)
        if template is not None and template.node.op_type == "MatMul":
            node = ir.node("Gemm", [], name=template.node.name)
            template = replace(template, node=node)
        target = self._target(term, xs[0], template)
        affine = replace(layer.load(), bias=None)
        (node,) = lower(affine, Form.GEMM, layer.axes, target, template, judged=True)
        beta = float_of(node, "beta", self.facts.opset)
        added = constant(term.numbers() / beta, target.names.bias, target.dtype)
        nodes = [with_matrix_bias(node, added)]
        self.facts.note_rank(nodes[0].outputs[0], 2)
        self._keep_constants(term, nodes)
        return nodes

    def _of_view(self, term: View, xs: Sequence[ir.Value]) -> list[ir.Node]:
        old = term.op.node
        inputs = [xs[0], *old.inputs[1:]]
        if old.op_type == "Reshape":
            inputs[1] = _operand(term.op, self.facts, self._unique)
        return [self._again(old, inputs)]

    def _of_concat(self, term: Concat, xs: Sequence[ir.Value]) -> list[ir.Node]:
        if term.like is not None:
            return [self._again(term.like, xs)]
        name = self._unique("concat")
        return [ir.node("Concat", list(xs), {"axis": term.axis}, name=name)]

    def _of_sum(self, term: Sum, xs: Sequence[ir.Value]) -> list[ir.Node]:
        if term.like is not None:
            return [self._again(term.like, xs)]
        assert term.anchor is not None
        total, nodes = xs[0], list[ir.Node]()
        stem = label(term.anchor)
        for x, factor in zip(xs[1:], term.factors[1:], strict=True):
            op = "Add" if factor > 0 else "Sub"
            nodes.append(ir.node(op, [total, x], name=self._unique(stem)))
            total = nodes[-1].outputs[0]
        return nodes

    def _of_homogeneous(self, term: Homogeneous, xs: Sequence[ir.Value]) -> list[ir.Node]:
        inputs = list(term.like.inputs)
        for slot, x in zip(term.slots, xs, strict=True):
            inputs[slot] = x
        return [self._again(term.like, inputs)]

    def _again(self, old: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """Copy a node of the source with other inputs and a new name."""
        node = node_like(old, inputs)
        node.name = self._unique(old.name) if old.name else old.name
        return node

    # -- Maps -------------------------------------------------------------------------------

    def _map(self, term: Map, x: ir.Value) -> list[ir.Node]:
        assert term.form is not None
        known = term.args[0].tensor.rank
        if known is not None:
            self.facts.note_rank(x, known)
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
        rank = self.facts.rank(x)
        if rank is not None:
            for node in nodes:
                self.facts.note_rank(node.outputs[0], rank)
        if not term.unit:  # its constants get their original names
            self._keep_constants(term, nodes)
        return nodes

    def _keep_constants(self, term: Map | MatrixBias, nodes: Sequence[ir.Node]) -> None:
        """Reuse constants of the source that are unchanged."""
        old: dict[Hashable, list[ir.Value]] = {}
        for value in (v for link in term.links for v in (link.weight, link.bias)):
            if value is not None and self.facts.is_constant(value):
                kind = self.facts.tensor(value).dtype, self.facts.dims(value)
                old.setdefault(kind, []).append(value)
        for node in nodes:
            for slot, new in enumerate(node.inputs):
                tensor = None if new is None else new.const_value
                if new is None or tensor is None or new.is_initializer():
                    continue
                for value in old.get((tensor.dtype, tuple(tensor.shape)), ()):
                    if self._is_free(value, new) and same_bytes(self.facts.tensor(value), tensor):
                        node.replace_input_with(slot, value)
                        self.free.discard(value.name or "")
                        break

    def _is_free(self, value: ir.Value, new: ir.Value) -> bool:
        """Return whether the name of a constant of the source is available."""
        return value.name == new.name or value.name in self.free or value.name not in self._given

    def _template(self, term: _Whole) -> Template | None:
        """Return the node to imitate: one that expand replaced, else the one with most weights."""
        members = [unit_member(node) for node in term.origins]
        if term.unit:
            return next((m.template() for m in members if m is not None), None)
        for link in sorted(term.links, key=lambda link: -link.geometry.parameters):
            template = Template.of(link, self.facts)
            if template is not None:
                return template
        return None

    def _target(self, term: _Whole, x: ir.Value, template: Template | None) -> Target:
        read = [v for n in term.origins for v in n.inputs if v is not None]
        # In the body of a function only its constants may determine it.
        known = (term.tensor.dtype, *(self.facts.dtype(v) for v in read))
        dtype = next((d for d in known if d is not None and d.is_floating_point()), None)
        if dtype is None:
            message = f"the type of '{x.name}' is not known"
            raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, message))
        # Replacements of external weights are stored in a temporary file until they are written.
        on_disk = any(is_external(v.const_value) for v in read)
        spill = self.rewriter.spill if on_disk else None
        return Target(x, dtype, self._names(term, template), self.facts, spill)

    def is_second(self, term: _Whole) -> bool:
        """Return whether a term is the second half of a map that was written as two nodes."""
        return isinstance(term, Map) and term.pair is not None and term.pair in self._named

    def _names(self, term: _Whole, template: Template | None) -> Names:
        """Return the names of a map's node, constants and addition; two halves share them."""
        key = term.pair if isinstance(term, Map) and term.pair is not None else term
        if key not in self._named:
            self._named[key] = self._new_names(term, template)
        return self._named[key]

    def _new_names(self, term: _Whole, template: Template | None) -> Names:
        links = term.links
        shift = next((link for link in links if link.node.op_type == "Add"), None)
        biases = [link.bias.name for link in links if link.bias is not None and link.bias.name]
        named = [n for n in term.origins if n in self.going] or list(term.names_like)
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

    def _unique(self, name: str) -> str:
        return self.rewriter.unique(name, free=self.free)


def _bias_name(weight: str) -> str:
    stem, dot, last = weight.rpartition(".")
    return f"{stem}{dot}bias" if last == "weight" else f"{weight}.bias"


def annotate(value: ir.Value, tensor: Tensor, facts: Facts) -> None:
    """Set the shape and type of a new value."""
    if tensor.extents is not None:
        facts.set_extents(value, tensor.extents)
    if tensor.dtype is not None:
        value.dtype = tensor.dtype


def _operand(op: ViewOp, facts: Facts, unique: Callable[[str], str]) -> ir.Value:
    """Return the operand of a Reshape: a constant, if it can be one.

    Raises:
        RefusedError: It states the number of channels and cannot be changed.
    """
    given = op.node.inputs[1]
    assert given is not None
    if given.producer() is None and op.fits_node:
        return given
    numbers = op.spelled()
    if numbers is None:
        original = facts.extents(op.node.outputs[0])
        axis = None if op.axes is None else op.axes[1]
        if axis is None or (original is not None and original[axis] == op.target[axis]):
            return given
        message = f"'{given.name}' states the number of channels and is not constant"
        raise RefusedError(Refusal(Reason.DYNAMIC, message))
    name = unique(given.name or "shape")
    return ir.val(name, const_value=ir.Tensor(np.array(numbers, dtype=np.int64), name=name))
