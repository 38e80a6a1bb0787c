"""Initializers that are also graph inputs, which a caller of the model may replace.

Before IR version 4 every initializer had to be a graph input, and exporters of that time listed
all weights there. Only the user knows whether a caller replaces any; if none does, they can become
constants.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["assume_constant"]

_PLAIN_INITIALIZERS = 4  # the first IR version in which an initializer need not be a graph input


def assume_constant(model: ir.Model) -> tuple[str, ...]:
    """Remove the initializers of the main graph from its inputs; return their names.

    The IR version is raised to 4 if it is lower, as the result requires.
    """
    graph = model.graph
    taken = [value for value in graph.inputs if value.is_initializer()]
    for value in taken:
        graph.inputs.remove(value)
    if taken and model.ir_version < _PLAIN_INITIALIZERS:
        model.ir_version = _PLAIN_INITIALIZERS
    return tuple(value.name or "" for value in taken)
