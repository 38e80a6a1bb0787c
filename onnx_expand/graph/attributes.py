"""Attributes of nodes, with the defaults of their operators' schemas.

A default is what the schema at the model's operator set says, as it says it: an epsilon that is
not written is the float32 nearest to 1e-5, like one that is.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import onnx
import onnx_ir as ir

__all__ = ["NEWEST", "defaults_of", "float_of", "int_of", "ints_of", "schema_of", "text_of"]

NEWEST = onnx.defs.onnx_opset_version()
"""The newest operator set that the installed onnx knows."""


Default: TypeAlias = float | int | str | list[float | int | str]


@functools.cache
def schema_of(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """The schema of a default operator; that of the newest known operator set for later ones.

    Args:
        op_type: The operator.
        opset: The version of the default operators.

    Returns:
        The schema, None where the operator does not exist.
    """
    try:
        return onnx.defs.get_schema(op_type, min(opset, NEWEST), "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _default(op_type: str, name: str, opset: int) -> Default | None:
    schema = schema_of(op_type, opset)
    if schema is None or name not in schema.attributes:
        return None
    default = schema.attributes[name].default_value
    if not default.type:
        return None
    value = onnx.helper.get_attribute_value(default)
    if isinstance(value, list):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value.decode() if isinstance(value, bytes) else value


def float_of(node: ir.Node, name: str, opset: int = NEWEST, missing: float = 0.0) -> float:
    """A float attribute of a node.

    Args:
        node: A node of a default operator.
        name: The attribute.
        opset: The version of the default operators; may be left out where the default is the same
            in all of them.
        missing: What it is where neither the node nor the schema says.

    Raises:
        TypeError: The node has an attribute of that name and of another type.
    """
    default = _default(node.op_type, name, opset)
    return node.attributes.get_float(name, missing if default is None else float(default))  # type: ignore[arg-type]


def int_of(node: ir.Node, name: str, opset: int = NEWEST, missing: int = 0) -> int:
    """An integer attribute of a node; see `float_of`."""
    default = _default(node.op_type, name, opset)
    return node.attributes.get_int(name, missing if default is None else int(default))  # type: ignore[arg-type]


def text_of(node: ir.Node, name: str, opset: int = NEWEST, missing: str = "") -> str:
    """A text attribute of a node; see `float_of`."""
    default = _default(node.op_type, name, opset)
    return node.attributes.get_string(name, missing if default is None else str(default))


def ints_of(node: ir.Node, name: str) -> tuple[int, ...]:
    """An attribute of several integers, empty where the node does not say."""
    return tuple(node.attributes.get_ints(name, ()))


def defaults_of(op_type: str, opset: int) -> dict[str, Default]:
    """The attributes of an operator that have a default, by name."""
    schema = schema_of(op_type, opset)
    names = () if schema is None else schema.attributes
    found = {name: _default(op_type, name, opset) for name in names}
    return {name: value for name, value in found.items() if value is not None}
