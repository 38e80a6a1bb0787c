"""Refuse to run models whose loops are known to take too long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnx_expand.errors import UnsupportedError

__all__ = ["require_end"]

_INFINITE = 1 << 1000  # larger products would not fit a float
_MOST = 50_000
"""Most iterations of nested loops, for which the reference needs seconds."""


def require_end(model: ir.Model, label: str) -> None:
    """Refuse to run a model whose loops take too many iterations for any input.

    A loop that may stop by its condition is run: its trip count is often the largest integer.

    Raises:
        UnsupportedError: Nested loops amount to too many iterations.
    """
    count = _iterations(model.graph, model, {})
    if count > _MOST:
        raise UnsupportedError(
            f"{label}: its loops take {count:.3g} iterations, which is too long to run"
        )


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
    count = node.inputs[0] if node.inputs else None
    tensor = None if count is None else ir.convenience.get_const_tensor(count)
    if count is None or tensor is None or count.is_graph_input() or tensor.size != 1:
        return 1
    if len(body.inputs) < 2 or not body.outputs:
        return 1
    going: ir.Value | None = body.outputs[0]
    while going is not None and (maker := going.producer()) is not None:
        if maker.op_type != "Identity":
            break
        going = maker.inputs[0]
    if going is not body.inputs[1] and not _is_true(going):
        return 1
    return max(1, int(tensor.numpy().reshape(-1)[0]))


def _is_true(value: ir.Value | None) -> bool:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.size == 1 and bool(tensor.numpy().reshape(-1)[0])
