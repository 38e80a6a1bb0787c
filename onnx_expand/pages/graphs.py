"""Graphs as data for drawing: nodes with their inputs, weights and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnx_expand.cost import node_counts
from onnx_expand.documents import table
from onnx_expand.graph.editing import label

__all__ = ["Drawing", "draw"]

_LONGEST = 480  # characters of an equation


@dataclass(frozen=True)
class Drawing:
    """One graph as plain data.

    Attributes:
        title: Its title on the page.
        nodes: A mapping for each node, in order.
        inputs: The names of the graph inputs that are not initializers.
        outputs: The names of the graph outputs.
    """

    title: str
    nodes: tuple[Mapping[str, Any], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    _by_name: dict[str, ir.Node] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the drawing as plain JSON types."""
        return table(self)

    def equation(self, names: Iterable[str]) -> str:
        """Return what some nodes compute as an expression in their names.

        A chain is `c(b(a(x)))`; branches meet in `+` and `[ , ]`.
        """
        nodes = [self._by_name[name] for name in names if name in self._by_name]
        inside = set(nodes)
        read = {v for node in nodes for v in node.inputs if v is not None}
        ends = [out for node in nodes for out in node.outputs if out not in read]
        texts = [f"{out.name} = {_expression(out, inside, {})}" for out in ends[:2]]
        text = "; ".join(texts)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def draw(model: ir.Model, title: str) -> Drawing:
    """Return the main graph of a model as data for drawing.

    Initializers are drawn as part of the nodes that read them.
    """
    counts = node_counts(model)
    graph = model.graph
    nodes = []
    for place, node in enumerate(graph):
        name = label(node)
        first = node.outputs[0].name if node.outputs else ""
        parameters, macs = counts.get(first or "", (0, None))
        nodes.append(
            {
                "id": place,
                "name": name,
                "op": node.op_type if not node.domain else f"{node.domain}.{node.op_type}",
                "reads": [v.name for v in node.inputs if v is not None and not _is_weight(v)],
                "writes": [v.name for v in node.outputs if v.name],
                "weights": [_shape(v) for v in node.inputs if v is not None and _is_weight(v)],
                "attributes": _attributes(node),
                "parameters": parameters,
                "macs": macs,
            }
        )
    inputs = tuple(v.name or "" for v in graph.inputs if not v.is_initializer())
    outputs = tuple(v.name or "" for v in graph.outputs)
    return Drawing(title, tuple(nodes), inputs, outputs, {label(node): node for node in graph})


def _is_weight(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _shape(value: ir.Value) -> str:
    shape = "" if value.shape is None else "x".join(map(str, value.shape))
    return f"{value.name} [{shape}]"


def _attributes(node: ir.Node) -> str:
    """Return the numeric and string attributes of a node in one line."""
    plain = (int, float, str, list, tuple)
    found = [
        f"{name}={attribute.value}"
        for name, attribute in node.attributes.items()
        if isinstance(attribute, ir.Attr) and isinstance(attribute.value, plain)
    ]
    text = ", ".join(found)
    return text if len(text) < 200 else f"{text[:197]}..."


def _expression(value: ir.Value, inside: set[ir.Node], known: dict[ir.Value, str]) -> str:
    """Return the expression of a value; iterative, since chains may exceed the recursion limit."""
    pending = [value]
    while pending:
        current = pending[-1]
        if current in known:
            pending.pop()
            continue
        node = current.producer()
        if node is None or node not in inside:
            known[current] = current.name or "x"
            pending.pop()
            continue
        args = [v for v in node.inputs if v is not None and not _is_weight(v)]
        missing = [v for v in args if v not in known]
        if missing:
            pending += missing
            continue
        known[current] = _applied(node, [known[v] for v in args])
        pending.pop()
    return known[value]


def _applied(node: ir.Node, args: list[str]) -> str:
    if sum(map(len, args)) > _LONGEST:
        args = ["..."]
    if node.op_type in {"Add", "Sum"} and len(args) > 1:
        return f"({' + '.join(args)})"
    if node.op_type == "Sub" and len(args) > 1:
        return f"({args[0]} - {args[1]})"
    if node.op_type == "Concat":
        return f"[{', '.join(args)}]"
    return f"{label(node)}({', '.join(args)})"
