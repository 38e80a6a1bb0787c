"""Read stored weights and their sizes; list what a model contains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.tensors import read_tensor

__all__ = [
    "nodes_of",
    "read_external",
    "stated_constant",
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


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of a model, those of its subgraphs and functions included."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of one graph."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def stated_constant(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor that a Constant node holds; None for a value of another kind."""
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain or len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.name in {"value_string", "value_strings", "sparse_value"}:
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor()  # onnx-ir's own way would give the attribute's tensor a name
    return ir.convenience.get_const_tensor(value)


def stored_bytes(graph: ir.Graph) -> int:
    """Return the bytes of the constants that a graph stores."""
    held = [value.const_value for value in graph.initializers.values()]
    held += [stated_constant(node.outputs[0]) for node in graph if node.op_type == "Constant"]
    return sum(tensor.nbytes for tensor in held if tensor is not None)
