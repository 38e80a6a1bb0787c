"""Local functions: fold their bodies as graphs, or inline them.

A body has no initializers; its constants are Constant nodes. It is folded like any graph with the
weights that it contains. Weights passed by callers count too if there is only one call: that call
is inlined if linear nodes around its weights could merge. A function with several calls stays a
function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnx_expand.errors import ModelError, Reason, Refusal
from onnx_expand.graph.ops import op_of
from onnx_expand.graph.shapes import BODY
from onnx_expand.lift import LINEAR_OPS
from onnx_expand.passes.report import Kept

__all__ = [
    "as_constants",
    "body_of",
    "calls_with_weights",
    "inline_functions",
    "inline_single_calls",
]


def inline_functions(model: ir.Model) -> None:
    """Inline the calls of all local functions.

    Raises:
        ModelError: Functions call each other recursively.
    """
    try:
        InlinePass()(model)
    except Exception as error:  # the pass detects recursion, with messages of its own
        cause = error.__cause__ or error
        raise ModelError(f"local functions cannot be inlined: {cause}") from error


def inline_single_calls(model: ir.Model) -> bool:
    """Inline functions that are called once, where the call keeps linear nodes apart.

    These nodes may lie in the body, with weights that the call passes, or on the two sides of the
    call.

    Returns:
        Whether any call was inlined.
    """
    count = len(model.functions)
    for _ in range(count):  # a body may contain the only call of another function
        calls = _single_calls(model)
        chosen = {n.op_identifier() for n in calls if _is_alike(n, model) and _joins(n, model)}
        if not chosen:
            break
        try:
            InlinePass(criteria=lambda f, chosen=chosen: f.identifier() in chosen)(model)  # type: ignore[misc]
        except ir.passes.InvariantError:
            break  # recursive functions, which no runtime accepts
    return len(model.functions) < count


def _single_calls(model: ir.Model) -> list[ir.Node]:
    """Return the calls of functions that the used part of the model calls once."""
    counts: Counter[ir.OperatorIdentifier] = Counter()
    found: dict[ir.OperatorIdentifier, ir.Node] = {}
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for node in (n for g in (graph, *graph.subgraphs()) for n in g):
            name = node.op_identifier()
            if name in model.functions:
                counts[name] += 1
                if name not in found:
                    found[name] = node
                    pending.append(model.functions[name].graph)
    return [node for name, node in found.items() if counts[name] == 1]


def _is_alike(call: ir.Node, model: ir.Model) -> bool:
    """Return whether a function imports the same opset versions as the model."""
    versions = model.functions[call.op_identifier()].opset_imports
    own = model.opset_imports
    return all(own.get(domain, version) == version for domain, version in versions.items())


def _joins(
    call: ir.Node,
    model: ir.Model,
    known: Collection[ir.Value] = (),
    seen: set[ir.OperatorIdentifier] | None = None,
) -> bool:
    """Return whether linear nodes would meet if a call were inlined.

    Args:
        call: The call.
        model: The model that defines the functions.
        known: Values around the call that are constant, besides the stored ones.
        seen: Functions visited so far.
    """
    seen = set() if seen is None else seen
    seen.add(call.op_identifier())
    function = model.functions[call.op_identifier()]
    given = {
        inner
        for inner, value in zip(function.inputs, call.inputs, strict=False)
        if value is not None and (value in known or _is_stored(value))
    }
    linear = {node for node in function.graph if _is_linear(node, given)}
    for node in linear:
        near: list[ir.Node | None] = [use.node for out in node.outputs for use in out.uses()]
        near += [v.producer() for v in node.inputs if v is not None]
        if not given.isdisjoint(node.inputs) and not linear.isdisjoint(near):
            return True
    for inner, value in zip(function.inputs, call.inputs, strict=False):
        maker = None if value is None else value.producer()
        users = linear.intersection(use.node for use in inner.uses())
        if users and maker is not None and _is_linear(maker, known):
            return True
    for inner, value in zip(function.outputs, call.outputs, strict=False):
        users = {use.node for use in value.uses() if _is_linear(use.node, known)}
        if users and inner.producer() in linear:
            return True
    calls = (n for n in function.graph if n.op_identifier() in model.functions)
    return any(
        _joins(node, model, given, seen) for node in calls if node.op_identifier() not in seen
    )


def _is_linear(node: ir.Node, known: Collection[ir.Value]) -> bool:
    """Return whether a node may be linear in one input, judging by its constants."""
    if node.domain or node.op_type not in LINEAR_OPS:
        return False
    stored = [v is not None and (v in known or _is_stored(v)) for v in node.inputs]
    if node.op_type in _OF_TWO:
        return any(stored[:2])
    return not op_of(node).weights or any(stored[1:2])


_OF_TWO = {"Add", "Div", "MatMul", "Mul", "Sub", "Sum"}


def _is_stored(value: ir.Value) -> bool:
    """Return whether a value is a constant that no caller of the model may replace."""
    maker = value.producer()
    if maker is not None:
        return maker.op_type == "Constant" and maker.domain == ""
    return value.const_value is not None and not value.is_graph_input()


def body_of(function: ir.Function, model: ir.Model) -> ir.Model:
    """Return a function's body as a model, for code that processes models."""
    body = ir.Model(function.graph, ir_version=model.ir_version)
    body.meta[BODY] = True
    return body


def as_constants(graph: ir.Graph) -> None:
    """Replace the initializers of a function body, which may have none, by Constant nodes."""
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


def calls_with_weights(graph: ir.Graph, model: ir.Model) -> Iterator[Kept]:
    """Yield the reason of each call that passes constants to linear nodes of its function."""
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
            yield Kept.of([node], Refusal(Reason.DYNAMIC, message, hint=hint))
