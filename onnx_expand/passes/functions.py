"""Local functions: their bodies as graphs of their own.

A body has no initializers; its constants are Constant nodes. It is folded like any graph, with the
weights that it holds itself. Those that callers hand over are not its own: a call has to be
inlined before they can be merged.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnx_expand.errors import ModelError, Reason, Refusal
from onnx_expand.lift import LINEAR_OPS
from onnx_expand.ops import op_of
from onnx_expand.passes.report import Break
from onnx_expand.shapes import BODY

__all__ = ["as_constants", "body_of", "calls_with_weights", "inline_functions"]


def inline_functions(model: ir.Model) -> None:
    """Put the bodies of all local functions in the place of their calls.

    Raises:
        ModelError: Functions call each other in a circle.
    """
    try:
        InlinePass()(model)
    except Exception as error:  # the pass checks for circles, and says so in its own words
        cause = error.__cause__ or error
        raise ModelError(f"local functions cannot be inlined: {cause}") from error


def body_of(function: ir.Function, model: ir.Model) -> ir.Model:
    """A function's body as a model, so that whatever treats models treats it too."""
    body = ir.Model(function.graph, ir_version=model.ir_version)
    body.meta[BODY] = True
    return body


def as_constants(graph: ir.Graph) -> None:
    """Write the initializers of a graph that may have none as Constant nodes."""
    first = next(iter(graph), None)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        assert tensor is not None
        node = ir.node("Constant", [], {"value": tensor}, name=name)
        out = node.outputs[0]
        del graph.initializers[name]
        value.replace_all_uses_with(out)
        out.name, out.type, out.shape = name, value.type, value.shape
        if first is None:
            graph.append(node)
        else:
            graph.insert_before(first, node)


def calls_with_weights(graph: ir.Graph, model: ir.Model) -> Iterator[Break]:
    """Calls that hand constants to the linear nodes of a function."""
    for node in graph:
        function = model.functions.get(node.op_identifier())
        if function is None:
            continue
        given = {
            inner
            for inner, value in zip(function.inputs, node.inputs, strict=False)
            if value is not None and value.const_value is not None
        }
        weighted = (n for n in function.graph if n.op_type in LINEAR_OPS and 1 in op_of(n).weights)
        if any(len(n.inputs) > 1 and n.inputs[1] in given for n in weighted):
            message = f"the weights of the function '{node.op_type}' come from its callers"
            hint = "fold with --inline, or inline the functions of the model first"
            yield Break((node,), Refusal(Reason.DYNAMIC, message, hint=hint))
