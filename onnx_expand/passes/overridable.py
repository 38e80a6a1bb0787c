"""Initializers that are graph inputs, which a caller of the model may replace.

Before IR version 4 every initializer had to be an input, whether anyone would replace it or not,
and exporters of that time wrote all weights so. Only the user knows; who says that nobody does
makes them constants.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["assume_constant"]

_PLAIN_INITIALIZERS = 4  # the IR version since which an initializer need not be an input


def assume_constant(model: ir.Model) -> tuple[str, ...]:
    """Take the initializers of the main graph out of its inputs; the names of those.

    The IR version becomes at least 4, as the result needs.
    """
    graph = model.graph
    taken = [value for value in graph.inputs if value.is_initializer()]
    for value in taken:
        graph.inputs.remove(value)
    if taken and model.ir_version < _PLAIN_INITIALIZERS:
        model.ir_version = _PLAIN_INITIALIZERS
    return tuple(value.name or "" for value in taken)
