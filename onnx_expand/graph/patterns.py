"""Composite patterns: groups of nodes that together compute one non-linear function.

Exporters write GELU, layer normalization and similar functions as about a dozen elementary nodes,
which runtimes fuse into one. A fusion requires every node and constant of the pattern, so that
none of them may be changed: merging half of a GELU into the next weight saves one pass over the
tensor and costs five.

`PATTERNS` is the table. Tests compare it with the fusions of the installed onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.expressions import (
    Apply,
    Constant,
    Either,
    Expression,
    Value,
    apply,
    matches,
)
from onnx_expand.graph.facts import Facts

__all__ = ["PATTERNS", "Composite", "Composites", "Pattern"]


@dataclass(frozen=True)
class Pattern:
    """A function and its spellings as elementary nodes.

    Attributes:
        name: Its name in messages.
        spelling: The pattern of its spellings.
        fused: The spellings that onnxruntime fuses; None if there is no choice between spellings.
        since: The first opset in which it is one; before, nothing would fuse it.
    """

    name: str
    spelling: Expression
    fused: Expression | None = None
    since: int = 1


@dataclass(frozen=True)
class Composite:
    """Nodes of a graph that match a pattern.

    Attributes:
        pattern: The pattern.
        nodes: The nodes; the first computes the result.
        values: The values bound to the names of the pattern.
    """

    pattern: Pattern
    nodes: tuple[ir.Node, ...]
    values: Mapping[str, ir.Value]

    @property
    def refusal(self) -> Refusal:
        """The reason why its nodes are not rewritten."""
        message = f"the node is part of a {self.pattern.name}, which runtimes fuse into one"
        return Refusal(Reason.PATTERN, message, hint="fold with --policy always")


# -- The table --------------------------------------------------------------------------------

_X, _SCALE, _SHIFT, _FACTOR, _EPSILON = (
    Value("x"),
    *map(Constant, ("scale", "shift", "factor", "epsilon")),
)


def _gated(gate: Expression) -> Expression:
    """Half of x times (1 + gate)."""
    one, x = gate + 1, _X
    return Either(
        (
            *((x * 0.5) * one, x * (one * 0.5), (x * one) * 0.5),
            *((x / 2) * one, x * (one / 2), (x * one) / 2),
            x * (gate * 0.5 + 0.5),
        )
    )


def _erf_gelu() -> Expression:
    return _gated(apply("Erf", _X / math.sqrt(2) | _X * math.sqrt(0.5)))


def _tanh_gelu() -> Expression:
    x, outer, inner = _X, math.sqrt(2 / math.pi), 0.044715
    square = x * x | x**2
    cube = x**3 | square * x
    plus = x + (cube * inner | x * (square * inner) | (x * inner) * square)
    one = (x * inner) * x + 1 | square * inner + 1
    arguments = Either(
        (
            plus * outer,
            (x * outer) * one,
            x * (one * outer),
            x * (square * (outer * inner) + outer),
        )
    )
    return _gated(apply("Tanh", arguments))


def _fused_gelu() -> Expression:
    one = apply("Erf", _X / math.sqrt(2)) + 1
    return Either(((_X * 0.5) * one, (_X * one) * 0.5))


def _fused_tanh_gelu() -> Expression:
    x, outer, inner = _X, math.sqrt(2 / math.pi), 0.044715
    cubic = (x + x**3 * inner) * outer | (x * outer) * ((x * inner) * x + 1)
    return (x * 0.5) * (apply("Tanh", cubic) + 1)


def _spelled_relu6(x: Expression) -> Either:
    """The expression clipped to [0, 6] without a Clip, as tf2onnx writes it."""
    positive, least = apply("Max", x, 0) | apply("Relu", x), apply("Min", x, 6)
    return Either((apply("Min", positive, 6), apply("Max", least, 0), apply("Relu", least)))


def _relu6(x: Expression) -> Either:
    return apply("Clip", x, 0, 6) | _spelled_relu6(x)


def _hard_sigmoid() -> Expression:
    """The sum x + 3 clipped to [0, 6], divided by six; or the equal form clipped to [0, 1]."""
    six = _relu6(_X + 3)
    one = apply("Clip", _X * (1 / 6) + 0.5 | _X / 6 + 0.5, 0, 1)
    return Either((six / 6, six * (1 / 6), one))


def _hard_swish() -> Expression:
    x, six = _X, _relu6(_X + 3)
    sixth = Either(((x * six) / 6, (x * six) * (1 / 6), (x / 6) * six, (x * (1 / 6)) * six))
    return sixth | x * _hard_sigmoid()


def _deviation(centred: Expression) -> tuple[Expression, Expression]:
    """The root of the mean of squares plus epsilon, and its inverse."""
    squares = centred**2 | centred * centred
    variance = apply("ReduceMean", squares) + _EPSILON
    root = apply("Sqrt", variance) | variance**0.5
    return root, Either((apply("Reciprocal", root), 1 / root, variance**-0.5))


def _over_deviation(x: Expression, centred: Expression) -> Expression:
    """The quotient of x and the root of the mean of squares plus epsilon."""
    root, inverse = _deviation(centred)
    return Either((x / root, x * inverse))


def _over_root(x: Expression, centred: Expression) -> Expression:
    """The spelling of `_over_deviation` that is fused and takes the fewest nodes."""
    return x / apply("Sqrt", apply("ReduceMean", centred**2) + _EPSILON)


def _scaled(x: Expression, centred: Expression) -> Expression:
    """The quotient times the scale, with the scale in any place."""
    root, inverse = _deviation(centred)
    moved = Either((x * (inverse * _SCALE), (x * _SCALE) * inverse, (x * _SCALE) / root))
    return _cast(_over_deviation(x, centred)) * _SCALE | moved


def _cast(inner: Expression) -> Expression:
    """An expression, or a Cast of it: normalizations of float16 compute in float32."""
    return inner | apply("Cast", inner)


_CENTRED = _X - apply("ReduceMean", _X)


def _layer_norm() -> Expression:
    scaled = _scaled(_CENTRED, _CENTRED)
    factor = _deviation(_CENTRED)[1] * _SCALE  # Keras applies it to x and to the mean
    keras = _X * factor + (_SHIFT - apply("ReduceMean", _X) * factor)
    return Either((scaled + _SHIFT, keras, scaled))


def _fused_layer_norm() -> Expression:
    scaled = _cast(_over_root(_CENTRED, _CENTRED)) * _SCALE
    return Either((scaled + _SHIFT, scaled))


def _attention() -> Expression:
    """Softmax of scaled and masked scores, times values; the mask is one for scores to keep."""
    query, key, values, mask = map(Value, ("query", "key", "values", "mask"))
    scores = apply("MatMul", query, key) / _SCALE + (1 - mask) * _FACTOR
    return apply("MatMul", apply("Softmax", scores), values)


def _swish() -> Expression:
    return _X * apply("Sigmoid", _X * _FACTOR)


def _new_hard_swish() -> Expression:
    return _X * apply("HardSigmoid", _X)


PATTERNS = (
    Pattern("LayerNormalization", _layer_norm(), _fused_layer_norm()),
    Pattern("RMSNormalization", _scaled(_X, _X), _cast(_over_root(_X, _X)) * _SCALE),
    Pattern("LayerNormalization, no scale", _over_deviation(_CENTRED, _CENTRED), since=17),
    Pattern("RMSNormalization, no scale", _over_deviation(_X, _X), since=23),
    Pattern("Gelu", _erf_gelu(), _fused_gelu()),
    Pattern("Gelu (tanh)", _tanh_gelu(), _fused_tanh_gelu()),
    Pattern("Gelu (sigmoid)", _swish()),
    Pattern("HardSwish", _hard_swish(), _new_hard_swish()),
    Pattern("HardSigmoid", _hard_sigmoid()),
    Pattern("ReLU6", _spelled_relu6(_X)),  # a Clip is the operator
    Pattern("attention", _attention()),
)
"""The patterns; of two that end at one node the first that matches is taken."""


def _ends(expression: Expression) -> Iterator[str]:
    """Return the operators that an expression may end with."""
    if isinstance(expression, Either):
        for option in expression.options:
            yield from _ends(option)
    elif isinstance(expression, Apply):
        yield expression.op


_BY_END = {
    op: [p for p in PATTERNS if op in set(_ends(p.spelling))]
    for op in dict.fromkeys(op for p in PATTERNS for op in _ends(p.spelling))
}


# -- Matching ---------------------------------------------------------------------------------


class Composites:
    """The composites of one graph.

    Attributes:
        found: The composites, in reverse order of the graph.
    """

    def __init__(self, graph: ir.Graph, facts: Facts) -> None:
        self.found: list[Composite] = []
        self._of: dict[ir.Node, Composite] = {}
        for node in reversed(graph):
            if node in self._of or node.domain or len(node.outputs) != 1:
                continue
            composite = _composite(node, facts)
            if composite is not None and not any(n in self._of for n in composite.nodes):
                self.found.append(composite)
                self._of.update(dict.fromkeys(composite.nodes, composite))

    def of(self, node: ir.Node) -> Composite | None:
        """Return the composite that a node is part of."""
        return self._of.get(node)


def _composite(node: ir.Node, facts: Facts) -> Composite | None:
    for pattern in _BY_END.get(node.op_type, ()):
        if facts.opset < pattern.since:
            continue
        for match in matches(pattern.spelling, node.outputs[0], facts):
            if _is_closed(match.nodes, facts):
                return Composite(pattern, match.nodes, match.values)
    return None


def _is_closed(nodes: tuple[ir.Node, ...], facts: Facts) -> bool:
    """Return whether intermediate values of a match have no other consumers."""
    inside = set(nodes)
    return all(
        not node.outputs[0].is_graph_output()
        and all(reader in inside for reader in facts.readers(node.outputs[0]))
        for node in nodes[1:]
    )
