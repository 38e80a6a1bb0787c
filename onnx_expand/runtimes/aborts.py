"""Refuse to run models on which onnxruntime would end the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir

from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.aborts import ABORTING, Attributes, abort_reason, number
from onnx_expand.graph.editing import label as name_of
from onnx_expand.graph.stored import nodes_of

__all__ = ["require_no_abort"]


def require_no_abort(model: ir.Model, label: str) -> None:
    """Refuse to run a model on which onnxruntime fails an assertion of the C++ library.

    Raises:
        UnsupportedError: An attribute of a node has a value that would end the process.
    """
    if not any(node.op_type in ABORTING for node in nodes_of(model)):
        return
    for node, attributes in _calls(model, model.graph.all_nodes(), {}, set()):
        problem = abort_reason(node, attributes)
        if problem:
            raise UnsupportedError(f"{label}: node '{name_of(node)}': {problem}; correct the node")


def _calls(
    model: ir.Model, nodes: Iterable[ir.Node], outer: Attributes, seen: set[Any]
) -> Iterator[tuple[ir.Node, Attributes]]:
    """Yield the nodes to judge, also those of functions, with the attributes of each call."""
    for node in nodes:
        own = {
            name: outer[a.ref_attr_name or ""] if a.is_ref() else a
            for name, a in node.attributes.items()
            if not a.is_ref() or a.ref_attr_name in outer
        }
        function = model.functions.get(node.op_identifier())
        if function is not None:
            defaults = {a.name: a for a in function.attributes.values() if a.value is not None}
            inner = {**defaults, **own}
            numbers = tuple((k, number(inner, k, 0.0)) for k in sorted(inner))
            if (key := (node.op_identifier(), numbers)) not in seen:
                seen.add(key)
                yield from _calls(model, function.all_nodes(), inner, seen)
        elif node.op_type in ABORTING:
            yield node, own
