"""Replace inputs and outputs that numpy cannot represent.

numpy and onnxruntime cannot exchange bfloat16, float8 and 4-bit values, sequences or optional
values. A model with such inputs or outputs is wrapped: a Cast, SequenceConstruct or Optional
creates the input from plain tensors, and a Cast makes the output plain. Both models of a
comparison are wrapped alike, so that their differences remain.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

__all__ = ["with_plain_ports"]

_ARRAYS = {
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.INT8,
    ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8,
    ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
}  # fmt: skip
_ODD = {d for d in ir.DataType if d.is_floating_point() or d.is_integer()} - _ARRAYS
_ELEMENTS = 2  # elements of a constructed sequence


def with_plain_ports(model: ir.Model) -> ir.Model:
    """Return the model, or a copy whose inputs and outputs are tensors that numpy can represent.

    A sequence input `q` becomes `q[0]` and `q[1]`; other names stay the same. Inputs that cannot
    be created from tensors of known rank stay unchanged.
    """
    odd = [v for v in (*model.graph.inputs, *model.graph.outputs) if not _is_plain(v)]
    if not odd:
        return model
    copy = model.clone()
    graph = copy.graph
    names = [value.name for value in graph.outputs]
    inputs: list[ir.Value] = []
    makers: list[ir.Node] = []
    for value in graph.inputs:
        if _is_plain(value) or value.is_initializer():
            inputs.append(value)
            continue
        maker = _maker(value)
        if maker is None:
            inputs.append(value)
            continue
        convenience.replace_all_uses_with(value, maker.outputs[0], replace_graph_outputs=True)
        inputs += [given for given in maker.inputs if given is not None]
        makers.append(maker)
    graph.inputs[:] = inputs
    for maker in reversed(makers):
        if len(graph):
            graph.insert_before(graph[0], maker)
        else:
            graph.append(maker)
    for place, (value, name) in enumerate(zip(graph.outputs, names, strict=True)):
        same = next((given for given in graph.inputs if given.name == name), None)
        if same is not None:
            graph.outputs[place] = same  # an input that is returned unchanged
        elif isinstance(value.type, ir.TensorType) and not _is_plain(value):
            graph.outputs[place] = _cast_output(graph, value, name or "")
    return copy


def _is_plain(value: ir.Value) -> bool:
    if value.type is None:
        return True
    return isinstance(value.type, ir.TensorType) and value.dtype not in _ODD


def _maker(value: ir.Value) -> ir.Node | None:
    """Return the node that creates an input from new inputs, or None if there is none."""
    name, kind = value.name or "", value.type
    made = [ir.Value(name=f"{name} as given", type=kind, shape=value.shape)]
    if isinstance(kind, ir.TensorType):
        given = _input(name, _plain_of(kind.dtype), value.shape)
        to = ir.AttrInt64("to", int(kind.dtype))
        return ir.Node("", "Cast", [given], [to], outputs=made)
    if value.shape is None or not isinstance(kind, ir.SequenceType | ir.OptionalType):
        return None
    if not isinstance(kind.elem_type, ir.TensorType) or kind.elem_type.dtype in _ODD:
        return None
    if isinstance(kind, ir.OptionalType):
        given = _input(name, kind.elem_type.dtype, value.shape)
        return ir.Node("", "Optional", [given], outputs=made)
    parts = [_input(f"{name}[{i}]", kind.elem_type.dtype, value.shape) for i in range(_ELEMENTS)]
    return ir.Node("", "SequenceConstruct", parts, outputs=made)


def _cast_output(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    if value.name == name:
        value.name = f"{name} as computed"
    dtype = _plain_of(value.dtype)
    out = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
    graph.append(ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], outputs=[out]))
    return out


def _input(name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)


def _plain_of(dtype: ir.DataType | None) -> ir.DataType:
    """Return a numpy type that can represent every value of a given type."""
    if dtype is not None and dtype.is_integer():
        return ir.DataType.INT8 if dtype.is_signed() else ir.DataType.UINT8
    return ir.DataType.FLOAT
