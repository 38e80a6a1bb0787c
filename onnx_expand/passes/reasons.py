"""Find reasons for linear nodes that no other part of fold explains.

Regions report why they end, and partitions why they did not merge. What remains are nodes that
never became part of a region: a Cast, a sum of values from different places, a scale that the
model computes. Each question about a node or about two neighbours is one function here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.attributes import float_of
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, ops_with
from onnx_expand.graph.upstream import upstream
from onnx_expand.lift import LINEAR_OPS, Linear, lift, lift_parts
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.reasons import NOT_MARKED
from onnx_expand.linear.terms.views import find_view
from onnx_expand.passes.report import Kept

__all__ = ["is_linear_kind", "refined", "unexplained"]

_VIEWS = ops_with(Trait.VIEW)
_JOINS = ops_with(Trait.SUM) | {"Concat"}
_CASTS = frozenset({"Cast", "CastLike"})
_CUTS = ops_with(Trait.CUTS)
_KINDS = LINEAR_OPS | _VIEWS | _JOINS | _CASTS | _CUTS
_LOOK = 8  # inputs whose type is checked if that of the output is unknown
_DEEPEST = 64  # maximum number of values between an initializer and a value computed from it


def is_linear_kind(node: ir.Node, facts: Facts) -> bool:
    """Return whether a node has an op that is linear in some form, and a computed float output.

    This includes nodes that are linear in none of their inputs, such as the division of a constant
    by a computed value: they get a reason, too.
    """
    if node.domain or node.op_type not in _KINDS or not node.outputs:
        return False
    if node.op_type == "LeakyRelu" and float_of(node, "alpha") != 1:
        return False
    out = node.outputs[0]
    known = (facts.dtype(v) for v in (out, *node.inputs[:_LOOK]) if v is not None)
    dtype = next((d for d in known if d is not None), None)
    return dtype is not None and dtype.is_floating_point() and not facts.is_constant(out)


def unexplained(
    graph: ir.Graph, facts: Facts, named: Collection[str], policy: Policy
) -> Iterator[Kept]:
    """Find reasons for the linear nodes that have none yet.

    Yields:
        A reason for each node that has a linear neighbour or a weight that callers may replace.
    """
    relations = _Relations(facts)
    for node in graph:
        if label(node) in named or not is_linear_kind(node, facts):
            continue
        weight = overridable(node, facts)
        found = relations.apart(node) if weight is None else Kept.of([node], weight)
        if found is not None:
            yield replace(found, refusal=NOT_MARKED) if policy is Policy.MARKED else found


def refined(node: ir.Node, refusal: Refusal, facts: Facts) -> Refusal:
    """Refine the reason of a node with an operand that is dynamic since callers may replace it."""
    weight = overridable(node, facts) if refusal.reason is Reason.DYNAMIC else None
    return weight or refusal


def overridable(node: ir.Node, facts: Facts) -> Refusal | None:
    """Refuse a node with an operand computed from an initializer that is also a graph input."""
    if not facts.has_overridable:
        return None
    for value in node.inputs:
        if value is not None and not facts.is_constant(value):
            source = _overridable_source(value, facts)
            if source is not None:
                return source
    return None


def _overridable_source(value: ir.Value, facts: Facts) -> Refusal | None:
    """Return the refusal of the first replaceable initializer if a value depends on no others."""
    found = None

    def computed(node: ir.Node) -> list[ir.Value]:
        return [v for v in node.inputs if v is not None and not facts.is_constant(v)]

    for count, current in enumerate(upstream(value, through=computed), 1):
        if current.is_initializer() and current.is_graph_input():
            found = found or _refusal_of(current, facts)
        elif current.producer() is None or count > _DEEPEST:
            return None
    return found


def _refusal_of(value: ir.Value, facts: Facts) -> Refusal | None:
    try:
        facts.tensor(value)
    except RefusedError as error:
        return error.refusal
    return None


@dataclass(frozen=True)
class _Relations:
    """Why neighbours did not merge; what concerns one node or value is found out once."""

    facts: Facts
    _obstacles: dict[ir.Node, Refusal | None] = field(default_factory=dict)
    _reads: dict[ir.Value, int] = field(default_factory=dict)

    def apart(self, node: ir.Node) -> Kept | None:
        """Return why a node and a linear neighbour did not merge; None without a neighbour."""
        pair = next(_neighbours(node, self.facts), None)
        if pair is None:
            return None
        obstacle = self._obstacle(node)
        if obstacle is not None:
            return Kept.of([node], obstacle)
        first, value, second = pair
        return Kept.of([first, second], self._between(first, value, second), value.name or "")

    def _between(self, first: ir.Node, value: ir.Value, second: ir.Node) -> Refusal:
        """Return why two neighbours, of which at least one is a map, did not merge."""
        for node in (first, second):
            obstacle = self._obstacle(node)
            if obstacle is not None:
                return obstacle
        if value.is_graph_output():
            return Refusal(Reason.OUTPUT, f"'{value.name}' in between is an output of the graph")
        if value not in self._reads:
            self._reads[value] = sum(1 for _ in self.facts.readers(value))
        count = self._reads[value]
        if count > 1:
            message = f"'{value.name}' in between is read {count} times"
            return Refusal(Reason.SHARED, message, {"reads": count})
        if first.graph is not second.graph:
            return Refusal(Reason.GEOMETRY, "the nodes lie in different graphs")
        maps = [lift(node, self.facts) for node in (first, second)]
        axes = [m.axes for m in maps if isinstance(m, Linear) and m.axes is not None]
        if len(axes) > 1 and axes[0][1] != axes[1][0]:
            return Refusal(Reason.GEOMETRY, f"the nodes map different axes of '{value.name}'")
        return Refusal(Reason.COST, "merging would gain nothing")

    def _obstacle(self, node: ir.Node) -> Refusal | None:
        if node not in self._obstacles:
            self._obstacles[node] = _obstacle(node, self.facts)
        return self._obstacles[node]


def _neighbours(node: ir.Node, facts: Facts) -> Iterator[tuple[ir.Node, ir.Value, ir.Node]]:
    """Yield the linear nodes before and after a node, each with the value between."""
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if value is not None and producer is not None and is_linear_kind(producer, facts):
            yield producer, value, node
    for value in node.outputs:
        for reader in value.consumers():
            if is_linear_kind(reader, facts):
                yield node, value, reader


def _obstacle(node: ir.Node, facts: Facts) -> Refusal | None:
    """Return why a node is not a map of one value along its channels, or None if it is one."""
    lifted = lift(node, facts)
    if isinstance(lifted, Linear):
        return None
    weight = overridable(node, facts)
    if weight is not None:
        return weight
    return lifted if isinstance(lifted, Refusal) else _of_kind(node)(node, facts)


def _of_kind(node: ir.Node) -> Callable[[ir.Node, Facts], Refusal]:
    for ops, reason in _REASONS:
        if node.op_type in ops:
            return reason
    return _other


def _view(node: ir.Node, facts: Facts) -> Refusal:
    if find_view(node, facts) is None:
        return Refusal(
            Reason.UNKNOWN_SHAPE,
            f"it is not known which axes {node.op_type} makes of '{_name(node)}'",
            hint="run shape inference on the model first",
        )
    message = f"{node.op_type} changes the layout, and nothing next to it undoes that"
    return Refusal(Reason.GEOMETRY, message)


def _join(node: ir.Node, facts: Facts) -> Refusal:
    values = [value for value in _values(node)[1:] if not facts.is_constant(value)]
    if len(node.inputs) == 1:
        return Refusal(Reason.UNSUPPORTED, f"{node.op_type} of one value is taken for no map")
    if len(values) < 2:
        return Refusal(Reason.UNSUPPORTED, f"{node.op_type} combines a value with constants")
    if len(set(values)) == 1:
        return Refusal(Reason.COST, "merging would gain nothing")
    return Refusal(
        Reason.BRANCHES,
        f"{node.op_type} joins values that are not maps of one value along one axis",
    )


def _cast(node: ir.Node, facts: Facts) -> Refusal:
    kinds = [
        facts.dtype(value) for value in (node.inputs[0], node.outputs[0]) if value is not None
    ]
    names = [str(kind).lower() if kind is not None else "an unknown type" for kind in kinds]
    return Refusal(Reason.UNSUPPORTED, f"{node.op_type} stands between: {' to '.join(names)}")


def _cut(node: ir.Node, facts: Facts) -> Refusal:
    if node.op_type == "Split" and lift_parts(node, facts):
        return Refusal(Reason.SHARED, "its parts are read by nodes that merge with none of them")
    message = f"{node.op_type} does not cut channels into parts of known size"
    return Refusal(Reason.UNSUPPORTED, message)


def _product(node: ir.Node, facts: Facts) -> Refusal:
    if node.op_type == "Div" and facts.is_constant(node.inputs[0]):
        return Refusal(Reason.UNSUPPORTED, "it divides by what the model computes")
    values = [value for value in _values(node)[1:] if not facts.is_constant(value)]
    if len(values) > 1:
        return Refusal(Reason.DYNAMIC, "both of its operands are computed while the model runs")
    return _other(node, facts)


def _other(node: ir.Node, facts: Facts) -> Refusal:
    message = f"this {node.op_type} is not a map along the channels"
    return Refusal(Reason.UNSUPPORTED, message)


_REASONS: tuple[tuple[frozenset[str], Callable[[ir.Node, Facts], Refusal]], ...] = (
    (_VIEWS, _view),
    (_JOINS, _join),
    (_CASTS, _cast),
    (_CUTS, _cut),
    (frozenset({"Mul", "Div", "MatMul", "Gemm", "Einsum"}), _product),
)


def _values(node: ir.Node) -> list[ir.Value]:
    """Return the first output, then the inputs of a node."""
    return [node.outputs[0], *(value for value in node.inputs if value is not None)]


def _name(node: ir.Node) -> str:
    value = node.inputs[0] if node.inputs else None
    return "" if value is None else value.name or ""
