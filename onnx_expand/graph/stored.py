"""Read stored weights and their sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.tensors import read_tensor

__all__ = [
    "read_external",
    "stored_bytes",
    "values_of",
]


_BLOCK = 1 << 24  # bytes per read


def read_external(tensor: ir.ExternalTensor) -> npt.NDArray[np.float64]:
    """Read a large external tensor without mapping its file into memory as well."""
    shape, dtype = tensor.shape.numpy(), np.dtype(tensor.dtype.numpy())
    size = int(np.prod(shape))
    if tensor.dtype.bitwidth < 8:
        return np.asarray(read_tensor(tensor), dtype=np.float64)
    array = np.empty(size, dtype=np.float64)
    step = _BLOCK // dtype.itemsize
    with open(tensor.path, "rb") as stream:
        stream.seek(tensor.offset or 0)
        for start in range(0, size, step):
            count = min(step, size - start)
            block = np.frombuffer(stream.read(count * dtype.itemsize), dtype=dtype)
            array[start : start + count] = block
    return array.reshape(shape)


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of one graph."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def stored_bytes(model: ir.Model) -> int:
    """Return the bytes of the constants that a model stores."""
    total = 0
    for graph in model.graphs():
        stored = [value.const_value for value in graph.initializers.values()]
        stored += [
            attribute.value
            for node in graph
            if node.op_type == "Constant"
            for attribute in node.attributes.values()
            if attribute.type == ir.AttributeType.TENSOR
        ]
        total += sum(tensor.nbytes for tensor in stored if tensor is not None)
    return total
