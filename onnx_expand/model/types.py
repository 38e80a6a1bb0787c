"""Types of values that onnx-ir does not represent: maps (as of ZipMap) and opaque values."""

from __future__ import annotations

import onnx

from onnx_expand.model.outline import graphs

__all__ = ["drop_types", "is_odd"]


def is_odd(info: onnx.ValueInfoProto) -> bool:
    """Return whether the type of a value holds a map or an opaque value."""
    kind, field = info.type, info.type.WhichOneof("value")
    while field in {"sequence_type", "optional_type"}:
        kind = getattr(kind, field).elem_type
        field = kind.WhichOneof("value")
    return field in {"map_type", "opaque_type"}


def drop_types(proto: onnx.ModelProto) -> bool:
    """Remove the types that onnx-ir cannot read, in place; return whether there are any.

    The types of inputs and outputs become unknown, and the value_info of other values is removed.
    `fidelity.remember` records all of them if it is given the original.
    """
    found = False
    for graph in graphs(proto):
        for info in filter(is_odd, (*graph.input, *graph.output)):
            info.ClearField("type")
            found = True
    holders: list[onnx.GraphProto | onnx.FunctionProto] = [*graphs(proto), *proto.functions]
    for holder in holders:
        for index in reversed(range(len(holder.value_info))):
            if is_odd(holder.value_info[index]):
                del holder.value_info[index]
                found = True
    return found
