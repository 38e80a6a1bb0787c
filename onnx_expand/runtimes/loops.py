"""Find loops that take too long, or that may."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.stored import nodes_of

__all__ = ["may_be_endless", "require_end"]

_INFINITE = 1 << 1000  # larger products would not fit a float
_MOST = 50_000
"""Most iterations of nested loops, for which the reference needs seconds."""


def require_end(model: ir.Model, label: str) -> None:
    """Refuse to run a model whose loops take too many iterations for any input.

    A loop that may stop by its condition is run, for a limited time: its trip count is often the
    largest integer.

    Raises:
        UnsupportedError: Nested loops amount to too many iterations.
    """
    count = _iterations(model.graph, model, {})
    if count > _MOST:
        many = f"take {count:.3g} iterations, which is too long to run"
        raise UnsupportedError(
            f"{label}: its loops {many if count < _INFINITE else 'never end, for any input'}"
        )


def may_be_endless(model: ir.Model) -> bool:
    """Return whether a model has a loop whose number of iterations may be too large."""
    bounds = (_bound(node) for node in nodes_of(model) if node.op_type == "Loop")
    return any(bound is None or bound > _MOST for bound in bounds)


def _iterations(nodes: Iterable[ir.Node], model: ir.Model, known: dict[Any, int]) -> int:
    """Return the most iterations of a loop, multiplied by those of the loops around it."""
    most = 1
    for node in nodes:
        key = node.op_identifier()
        if key not in known and key in model.functions:
            known[key] = 1  # functions that call themselves are invalid
            known[key] = _iterations(model.functions[key], model, known)
        most = max(most, known.get(key, 1))
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                own = _count(node, body) if node.op_type == "Loop" else 1
                most = max(most, min(own * _iterations(body, model, known), _INFINITE))
    return most


def _count(node: ir.Node, body: ir.Graph) -> int:
    """Return the number of iterations of a loop if it is certain, else 1."""
    most = _bound(node)
    if most == 0:
        return 0  # the loops of its body do not run either
    if most is None or not _goes_on(node, body):
        return 1
    return max(1, most)


def _bound(node: ir.Node) -> int | None:
    """Return the most iterations of a loop, endless without a bound; None if it is computed."""
    if len(node.inputs) > 1 and _condition(node.inputs[1]) is False:
        return 0
    count = node.inputs[0] if node.inputs else None
    if count is None:
        return _INFINITE
    tensor = ir.convenience.get_const_tensor(count)
    if tensor is None or count.is_graph_input() or tensor.size != 1:
        return None
    return int(tensor.numpy().reshape(-1)[0])


def _goes_on(node: ir.Node, body: ir.Graph) -> bool:
    """Return whether the condition of a loop is always true."""
    first = node.inputs[1] if len(node.inputs) > 1 else None
    if len(body.inputs) < 2 or not body.outputs or (first is not None and not _condition(first)):
        return False
    going: ir.Value | None = body.outputs[0]
    while going is not None and (maker := going.producer()) is not None:
        if maker.op_type != "Identity":
            break
        going = maker.inputs[0]
    return going is body.inputs[1] or _condition(going) is True


def _condition(value: ir.Value | None) -> bool | None:
    """Return a constant condition; None if it is computed, or a caller may override it."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if value is None or tensor is None or value.is_graph_input() or tensor.size != 1:
        return None
    return bool(tensor.numpy().reshape(-1)[0])
