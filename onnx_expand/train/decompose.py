"""Express operators without a translation in terms of those that have one."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir
from onnx import inliner

from onnx_expand.errors import UnsupportedError
from onnx_expand.train.registry import find

__all__ = ["decompose", "inner_nodes", "missing"]

# Larger weights do not affect type inference, and copying them would be expensive.
_SMALL = 1024
_DEPTH = 8


def missing(model: ir.Model) -> list[ir.Node]:
    """Return the nodes of the main graph that have no translation.

    A local function takes precedence over an operator of the same name.
    """
    opsets = model.graph.opset_imports
    return [
        node
        for node in model.graph
        if node.op_identifier() in model.functions
        or (
            node.op_type != "Constant"
            and find(node.domain, node.op_type, opsets.get(node.domain, 1)) is None
        )
    ]


def inner_nodes(nodes: Iterable[ir.Node]) -> str:
    """Describe nodes for an error message."""
    return ", ".join(_describe(node) for node in nodes)


def decompose(model: ir.Model) -> ir.Model:
    """Replace operators without a translation by their function bodies.

    The bodies are those of local functions and of ONNX's schemas. Large initializers become graph
    inputs of the same names.

    Args:
        model: A private copy, which is not modified.

    Returns:
        The model.

    Raises:
        UnsupportedError: Operators remain that have neither a translation nor a body; the message
            lists them all.
    """
    for depth in range(_DEPTH):
        lacking = missing(model)
        if not lacking:
            return model
        proto = ir.serde.serialize_model(model if depth else _without_weights(model))
        ids = sorted({(node.domain, node.op_type) for node in lacking})
        try:
            inlined = _inline(proto, ids)
        except RuntimeError:  # the schema's body needs a type that is unknown
            break
        result = ir.serde.deserialize_model(inlined)
        if len(result.graph) == len(model.graph) and len(missing(result)) == len(lacking):
            break
        model = result
    lacking = missing(model)
    if not lacking:
        return model
    raise UnsupportedError(
        f"training has no translation for {len(lacking)} "
        f"node{'s' if len(lacking) > 1 else ''}: {inner_nodes(lacking)}"
    )


def _inline(proto: onnx.ModelProto, ids: list[tuple[str, str]]) -> onnx.ModelProto:
    local = inliner.inline_local_functions(proto)
    _fill_defaults(local, set(ids))
    return inliner.inline_selected_functions(
        local, ids, exclude=False, inline_schema_functions=True
    )


def _fill_defaults(proto: onnx.ModelProto, ids: set[tuple[str, str]]) -> None:
    """Write out default attributes, which the inliner does not apply in function bodies."""
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    for node in proto.graph.node:
        if (node.domain, node.op_type) not in ids or not onnx.defs.has(node.op_type, node.domain):
            continue
        version = opsets.get(node.domain, 1)
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        given = {attribute.name for attribute in node.attribute}
        for name, attribute in schema.attributes.items():
            if name not in given and attribute.default_value.name:
                node.attribute.append(attribute.default_value)


def _describe(node: ir.Node) -> str:
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    domain = f"{node.domain}." if node.domain else ""
    return f"'{name}' ({domain}{node.op_type})"


def _without_weights(model: ir.Model) -> ir.Model:
    """Return a copy in which initializers are graph inputs with types but without values."""
    twin = model.clone()
    for name, value in list(twin.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.size > _SMALL:
            value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
            value.const_value = None
            del twin.graph.initializers[name]
            if not value.is_graph_input():
                twin.graph.inputs.append(value)
    return twin
