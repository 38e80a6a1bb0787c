"""A small pattern language to match nodes of the graph.

    x = Value("x")
    gelu = x * 0.5 * (apply("Erf", x / math.sqrt(2)) + 1)

Sums, products, maxima and minima match with their operands in either order, and all occurrences
of a name must match the same value. Settings that are attributes in some opsets and inputs in
others (the bounds of Clip, the axes of ReduceMean) match in both forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import has_references, int_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers, setting

__all__ = [
    "Apply",
    "Constant",
    "Either",
    "Expression",
    "Match",
    "Number",
    "Value",
    "apply",
    "matches",
]

_COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min"})
# onnxruntime compares float32 constants with about this tolerance, float16 with a larger one.
_NEAR, _NEAR_IN_HALF = 1e-5, 2e-3
_SIXTEEN = 16  # width in bits of the types in which constants are coarse


class Expression:
    """A pattern of nodes; arithmetic operators combine patterns."""

    def __add__(self, other: Expression | float) -> Apply:
        return apply("Add", self, other)

    def __sub__(self, other: Expression | float) -> Apply:
        return apply("Sub", self, other)

    def __rsub__(self, other: float) -> Apply:
        return apply("Sub", other, self)

    def __mul__(self, other: Expression | float) -> Apply:
        return apply("Mul", self, other)

    def __truediv__(self, other: Expression | float) -> Apply:
        return apply("Div", self, other)

    def __rtruediv__(self, other: float) -> Apply:
        return apply("Div", other, self)

    def __pow__(self, other: Expression | float) -> Apply:
        return apply("Pow", self, other)

    def __or__(self, other: Expression) -> Either:
        return Either((self, other))


@dataclass(frozen=True)
class Value(Expression):
    """Any value that the model computes."""

    name: str


@dataclass(frozen=True)
class Constant(Expression):
    """Any constant."""

    name: str


@dataclass(frozen=True)
class Number(Expression):
    """A scalar constant, up to the rounding of its type."""

    number: float


@dataclass(frozen=True)
class Apply(Expression):
    """A node of an operator of the default domain."""

    op: str
    args: tuple[Expression, ...]


@dataclass(frozen=True)
class Either(Expression):
    """Alternatives, of which the first match counts."""

    options: tuple[Expression, ...]


def apply(op: str, *args: Expression | float) -> Apply:
    """Build the pattern of an operator applied to expressions and numbers."""
    return Apply(op, tuple(a if isinstance(a, Expression) else Number(a) for a in args))


@dataclass(frozen=True)
class Match:
    """The nodes and values that an expression matched.

    Attributes:
        nodes: The nodes, the last to compute first.
        values: The value of each name.
    """

    nodes: tuple[ir.Node, ...] = ()
    values: Mapping[str, ir.Value] = field(default_factory=dict)


def matches(
    expression: Expression, value: ir.Value | None, facts: Facts, so_far: Match | None = None
) -> Iterator[Match]:
    """Yield the ways in which a value matches an expression.

    An omitted operand (None) matches nothing; `so_far` is the match around the expression.
    """
    found = Match() if so_far is None else so_far
    if value is None:
        return
    if isinstance(expression, Value | Constant):
        known = found.values.get(expression.name)
        if known is None and isinstance(expression, Constant) is facts.is_constant(value):
            yield Match(found.nodes, {**found.values, expression.name: value})
        elif known is value:
            yield found
    elif isinstance(expression, Number):
        if _is_number(value, expression.number, facts):
            yield found
    elif isinstance(expression, Either):
        for option in expression.options:
            yield from matches(option, value, facts, found)
    elif isinstance(expression, Apply):
        yield from _applied(expression, value, facts, found)


def _applied(expression: Apply, value: ir.Value, facts: Facts, so_far: Match) -> Iterator[Match]:
    node = value.producer()
    if node is None or node.op_type != expression.op or node.domain or len(node.outputs) != 1:
        return
    if has_references(node):
        return
    check = _CHECKS.get(node.op_type)
    operands = list(node.inputs[: len(expression.args)])
    if check is not None and not check(node, expression, facts):
        return
    if check is None and len(node.inputs) != len(expression.args):
        return
    nodes = so_far.nodes if node in so_far.nodes else (*so_far.nodes, node)
    orders = [operands]
    if node.op_type in _COMMUTATIVE and operands[0] is not operands[1]:
        orders.append(operands[::-1])
    args = expression.args if check is None else expression.args[:1]
    for order in orders:
        yield from _each(args, order, facts, Match(nodes, so_far.values))


def _each(
    args: tuple[Expression, ...], operands: list[ir.Value | None], facts: Facts, found: Match
) -> Iterator[Match]:
    if not args:
        yield found
        return
    for first in matches(args[0], operands[0], facts, found):
        yield from _each(args[1:], operands[1:], facts, first)


def _is_number(value: ir.Value, wanted: float, facts: Facts) -> bool:
    number = _number(value, facts)
    if number is None:
        return False
    dtype = facts.dtype(value)
    coarse = dtype is not None and dtype.bitwidth <= _SIXTEEN
    near = _NEAR_IN_HALF if coarse else _NEAR
    return bool(np.isclose(number, wanted, rtol=near, atol=near * 1e-3))


def _number(value: ir.Value | None, facts: Facts) -> float | None:
    """Return the value of a scalar constant."""
    if value is None or not facts.is_constant(value):
        return None
    array = facts.tensor(value)
    if array.size != 1 or not (array.dtype.is_floating_point() or array.dtype.is_integer()):
        return None
    return float(np.asarray(array.numpy(), dtype=np.float64).reshape(()))


def _clip(node: ir.Node, expression: Apply, facts: Facts) -> bool:
    for slot, name in ((1, "min"), (2, "max")):
        wanted = expression.args[slot]
        assert isinstance(wanted, Number)
        given = setting(node, name, facts)
        if given is None or given.size != 1 or not np.isclose(float(given[0]), wanted.number):
            return False
    return True


def _mean(node: ir.Node, expression: Apply, facts: Facts) -> bool:
    """Match ReduceMean over the last axis with keepdims, the only form that fusions accept."""
    if not int_of(node, "keepdims", facts.opset, 1) or not node.inputs:
        return False
    axes, rank = integers(node, "axes", facts), facts.rank(node.inputs[0])
    return axes in ([-1], [-1 if rank is None else rank - 1])


_CHECKS: dict[str, Callable[[ir.Node, Apply, Facts], bool]] = {"Clip": _clip, "ReduceMean": _mean}
