"""Convert a model to float64, so that its weights are exact and its arithmetic barely rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.tensors import read_tensor

__all__ = ["ROUNDED", "array_of", "to_double"]

ROUNDED = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""The types that the reference replaces by float64."""

# Attributes that state an element type. `stash_type` is left out: it is the precision inside an
# operator, and the reference implements only its default.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "softmax_precision"})


def to_double(model: ir.Model) -> dict[str, npt.NDArray[Any]]:
    """Rewrite a model in place so that it computes in float64.

    Initializers of the main graph are removed, so that the proto of the model is small.

    Returns:
        The initializers of the main graph by name, in float64 if their type is rounded.
    """
    bodies: list[Any] = [model.graph, *model.functions.values()]
    for body in bodies:
        for graph in [body, *body.subgraphs()]:
            _convert_values(graph)
        for node in body.all_nodes():
            _convert_attributes(node)
    weights = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None:
            weights[name] = array_of(value.const_value)
            value.const_value = None
        del model.graph.initializers[name]
    for graph in model.graph.subgraphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _tensor(value.const_value)
    return weights


def array_of(tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """Return the elements of a tensor, in float64 if its type is rounded."""
    array = read_tensor(tensor)
    return array.astype(np.float64) if tensor.dtype in ROUNDED else array


def _tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in ROUNDED:
        return tensor
    return ir.Tensor(array_of(tensor), name=tensor.name)


def _convert_values(graph: ir.Graph | ir.Function) -> None:
    for value in graph.inputs:
        _convert_type(value)
    for node in graph:
        for value in node.outputs:
            _convert_type(value)


def _convert_type(value: ir.Value) -> None:
    if isinstance(value.type, ir.TensorType) and value.dtype in ROUNDED:
        # A clone shares its type objects with the original.
        value.type = ir.TensorType(ir.DataType.DOUBLE)


def _convert_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            node.attributes[name] = ir.AttrTensor(name, _tensor(attribute.value))
        elif name in _TYPE_ATTRIBUTES and attribute.value in ROUNDED:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.DOUBLE)
        elif node.op_type == "Constant" and name in {"value_float", "value_floats"}:
            # The attribute is always stored as float32, but its value is used in float64.
            array = np.asarray(attribute.value, np.float32).astype(np.float64)
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        zero = ir.Tensor(np.zeros(1, np.float64))
        node.attributes["value"] = ir.AttrTensor("value", zero)
    elif node.op_type == "EyeLike" or node.op_type.startswith("Random"):
        node.attributes.setdefault("dtype", ir.AttrInt64("dtype", ir.DataType.DOUBLE))
