"""Represent sparse initializers in onnx-ir, which would leave their values undefined.

They become ordinary initializers, densified when their values are first needed; those that remain
when the model is written are stored as they were read.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError

__all__ = ["Sparse", "hold"]

_LARGEST = 1 << 26  # elements of a sparse initializer that is densified


class Sparse(ir.LazyTensor):
    """A sparse initializer as a tensor."""

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        def dense() -> ir.TensorProtocol:
            return ir.tensor(_dense(proto), dtype=dtype)

        dtype = ir.DataType(proto.values.data_type)
        super().__init__(dense, dtype, ir.Shape(proto.dims), name=proto.values.name)


def _dense(proto: onnx.SparseTensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    values = onnx.numpy_helper.to_array(proto.values)
    indices = onnx.numpy_helper.to_array(proto.indices)
    array = np.zeros(tuple(proto.dims), values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = values
    else:
        array[tuple(indices.T)] = values
    return array


def hold(graph: ir.Graph, proto: onnx.GraphProto) -> frozenset[str]:
    """Turn the sparse initializers that have consumers into initializers; return their names.

    Raises:
        UnsupportedError: One is too large to be densified.
    """
    sparse = {tensor.values.name: tensor for tensor in proto.sparse_initializer}
    if not sparse:
        return frozenset()
    found: dict[str, ir.Value] = {}
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        for index, value in enumerate(node.inputs):
            if value is None or value.name not in sparse or value.producer() is not None:
                continue
            if value.is_graph_input() or value.is_initializer():
                continue
            first = found.setdefault(value.name, value)
            if first is not value:
                node.replace_input_with(index, first)
    for name, value in found.items():
        if math.prod(sparse[name].dims) > _LARGEST:
            raise UnsupportedError(
                f"the sparse initializer '{name}' of shape {list(sparse[name].dims)} is too large "
                "to be written out in full, which onnx-expand does"
            )
        value.const_value = tensor = Sparse(sparse[name])
        value.dtype, value.shape = tensor.dtype, tensor.shape
        graph.register_initializer(value)
    return frozenset(found)
