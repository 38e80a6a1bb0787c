"""Read node attributes, with the defaults of the operators' schemas.

A default is the value that the schema at the model's opset declares, in its type: an omitted
epsilon is the float32 nearest to 1e-5, as is an explicit one.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import onnx
import onnx_ir as ir

__all__ = [
    "NEWEST",
    "default_of",
    "defaults_of",
    "flag_of",
    "float_of",
    "has_references",
    "int_of",
    "ints_of",
    "schema_of",
    "text_of",
]

NEWEST = onnx.defs.onnx_opset_version()
"""The newest operator set that the installed onnx knows."""


Default: TypeAlias = float | int | str | list[float | int | str]


def has_references(node: ir.Node) -> bool:
    """Return whether an attribute of a node is one of the function around it, set by each call."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


@functools.cache
def schema_of(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return an operator's schema in an opset; opsets later than the newest known count as that.

    Returns:
        The schema, or None if the operator does not exist.
    """
    try:
        return onnx.defs.get_schema(op_type, min(opset, NEWEST), "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def default_of(op_type: str, name: str, opset: int) -> Default | None:
    """Return the default of an attribute in an opset; None if there is none."""
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
    """Return a float attribute of a node.

    Args:
        node: A node of a default operator.
        name: The attribute.
        opset: The opset of the default domain; optional if the default is the same in all opsets.
        missing: The value if neither the node nor the schema defines one.

    Raises:
        TypeError: The node has an attribute of that name with another type.
    """
    default = default_of(node.op_type, name, opset)
    return node.attributes.get_float(name, missing if default is None else float(default))  # type: ignore[arg-type]


def int_of(node: ir.Node, name: str, opset: int = NEWEST, missing: int = 0) -> int:
    """Return an integer attribute of a node; see `float_of`."""
    default = default_of(node.op_type, name, opset)
    return node.attributes.get_int(name, missing if default is None else int(default))  # type: ignore[arg-type]


def flag_of(node: ir.Node, name: str, opset: int = NEWEST) -> int:
    """Return an integer attribute that is a flag as 0 or 1: any value but 0 counts as 1."""
    return int(int_of(node, name, opset) != 0)


def text_of(node: ir.Node, name: str, opset: int = NEWEST, missing: str = "") -> str:
    """Return a string attribute of a node; see `float_of`."""
    default = default_of(node.op_type, name, opset)
    return node.attributes.get_string(name, missing if default is None else str(default))


def ints_of(node: ir.Node, name: str) -> tuple[int, ...]:
    """Return an attribute of several integers; empty if the node does not have it."""
    return tuple(node.attributes.get_ints(name, ()))


def defaults_of(op_type: str, opset: int) -> dict[str, Default]:
    """Return the attributes of an operator that have a default, by name."""
    schema = schema_of(op_type, opset)
    names = () if schema is None else schema.attributes
    found = {name: default_of(op_type, name, opset) for name in names}
    return {name: value for name, value in found.items() if value is not None}
