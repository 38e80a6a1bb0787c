"""Loops of which it is known that they would not end within anyone's patience."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnx_expand.errors import UnsupportedError

__all__ = ["require_end"]

_MOST = 50_000
"""Turns of all loops within each other; the reference takes seconds for so many."""


def require_end(model: ir.Model, label: str) -> None:
    """Refuse to run a model whose loops turn too often, whatever its inputs.

    A loop that may stop by itself is run: its count is often the largest number there is.

    Args:
        model: The model.
        label: How messages name it.

    Raises:
        UnsupportedError: Some loops come to more turns than anyone would wait for.
    """
    bodies = [model.graph, *model.functions.values()]
    turns = max(_turns(body) for body in bodies)
    if turns > _MOST:
        raise UnsupportedError(
            f"{label}: its loops come to {turns:.3g} turns, which takes too long to run"
        )


def _turns(nodes: Iterable[ir.Node]) -> int:
    """The most turns that one of the loops makes, with those around it."""
    most = 1
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                own = _count(node, body) if node.op_type == "Loop" else 1
                most = max(most, own * _turns(body))
    return most


def _count(node: ir.Node, body: ir.Graph) -> int:
    """How often a loop turns if that is certain, 1 if it is not."""
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
