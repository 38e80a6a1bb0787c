"""Walk from values back to what they are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx_ir as ir

__all__ = ["upstream"]


def _inputs(node: ir.Node) -> Iterable[ir.Value | None]:
    return node.inputs


def upstream(
    *values: ir.Value | None, through: Callable[[ir.Node], Iterable[ir.Value | None]] = _inputs
) -> Iterator[ir.Value]:
    """Yield values and all that they are computed from, each once.

    By default all that a node reads is followed; `through` returns other values for a node.
    """
    pending, seen = list(values), set[ir.Value]()
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        yield value
        node = value.producer()
        if node is not None:
            pending += through(node)
