"""Names that have two meanings: runtimes differ in which of the two they take.

An initializer of a subgraph may have the name of a value outside of it, although ONNX forbids
that: onnxruntime reads the value outside, onnx-ir the initializer. A local function may have the
name of an operator of the runtime, which then runs the operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.model.outline import graphs

__all__ = ["refuse_ambiguous", "unite_initializers"]

_Outer = Mapping[str, onnx.TensorProto | None]
"""The values that a subgraph can read, with the tensors of those that nobody can override."""


def unite_initializers(model: onnx.ModelProto) -> None:
    """Remove initializers of subgraphs that repeat a visible one, name and numbers, in place."""
    for graph, outer in _subgraphs(model):
        kept = [tensor for tensor in graph.initializer if outer.get(tensor.name) != tensor]
        if len(kept) < len(graph.initializer):
            copies = onnx.GraphProto(initializer=kept)
            del graph.initializer[:]
            graph.initializer.extend(copies.initializer)


def refuse_ambiguous(model: onnx.ModelProto, label: str) -> None:
    """Refuse names that mean one thing to ONNX and another to some runtime.

    Args:
        model: The model; initializers of its subgraphs that repeat visible ones were removed.
        label: The model's name in messages.

    Raises:
        ModelError: An initializer of a subgraph hides a value outside of it.
        UnsupportedError: A function that is called has the name of an operator.
    """
    for graph, outer in _subgraphs(model):
        hidden = [tensor.name for tensor in graph.initializer if tensor.name in outer]
        if hidden:
            raise ModelError(
                f"{label}: not a valid ONNX model: the initializer '{hidden[0]}' of the subgraph "
                f"'{graph.name}' hides another value of that name outside of it, which some "
                "runtimes read instead; rename one of them"
            )
    called = {
        (node.domain, node.op_type)
        for nodes in (*(g.node for g in graphs(model)), *(f.node for f in model.functions))
        for node in nodes
    }
    for function in model.functions:
        domain, name = function.domain, function.name
        if (domain, name) in called and _is_operator(domain, name):
            owner = domain if domain.startswith("com.") else "ONNX"
            raise UnsupportedError(
                f"{label}: its function '{name}' has the name of an operator of {owner}, which "
                "some runtimes run instead; give it a domain of its own"
            )


def _is_operator(domain: str, name: str) -> bool:
    """Return whether a name belongs to an operator, as all of onnxruntime's own domain may."""
    domain = "" if domain == "ai.onnx" else domain
    return domain == "com.microsoft" or bool(onnx.defs.has(name, domain))


def _subgraphs(model: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto, _Outer]]:
    """Yield all subgraphs of the main graph and of functions, each with what it can read."""
    yield from _within(model.graph.node, _own(model.graph))
    for function in model.functions:
        yield from _within(function.node, dict.fromkeys(function.input))


def _own(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto | None]:
    names: dict[str, onnx.TensorProto | None] = {t.name: t for t in graph.initializer}
    names |= {sparse.values.name: None for sparse in graph.sparse_initializer}
    return names | dict.fromkeys(info.name for info in graph.input)


def _within(
    nodes: Iterable[onnx.NodeProto], outer: _Outer
) -> Iterator[tuple[onnx.GraphProto, _Outer]]:
    visible = dict(outer)
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph, visible
                yield from _within(graph.node, visible | _own(graph))
        visible |= dict.fromkeys(node.output)
