"""Traverse the graphs and tensors of a proto, and copy it without tensor data.

Such a copy, an outline, is small for weights of any size, so that ONNX's checker and other
analyses of the structure cost little memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = [
    "PAYLOADS",
    "graphs",
    "graphs_in",
    "inner_graphs",
    "is_repeated",
    "is_small",
    "outline",
    "tensors",
    "without_data",
]

PAYLOADS = frozenset(
    {
        *("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"),
        "string_data",
    }
)
"""The fields of a tensor that hold its numbers."""

_SMALL = 256  # elements; an outline keeps the data of tensors up to this size


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the main graph and all subgraphs, including those of functions and training."""
    yield from inner_graphs(model.graph)
    for function in model.functions:
        yield from graphs_in(function.node)
    for training in model.training_info:
        yield from inner_graphs(training.initialization)
        yield from inner_graphs(training.algorithm)


def inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all its subgraphs."""
    yield graph
    yield from graphs_in(graph.node)


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield all dense tensors, each with its name for messages."""
    for graph in graphs(model):
        for tensor in graph.initializer:
            yield f"initializer '{tensor.name}'", tensor
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            yield f"the values of the sparse initializer '{name}'", sparse.values
            yield f"the indices of the sparse initializer '{name}'", sparse.indices
        yield from _of_attributes(graph.node)
    for function in model.functions:
        yield from _of_attributes(function.node)
        for attribute in function.attribute_proto:
            yield from _held_by(attribute, f"function '{function.name}'")


def graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the graphs within nodes, and all their subgraphs."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from inner_graphs(attribute.g)
            for inner in attribute.graphs:
                yield from inner_graphs(inner)


def _of_attributes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            name = node.name or (node.output[0] if node.output else node.op_type)
            yield from _held_by(attribute, f"node '{name}'")


def _held_by(attribute: onnx.AttributeProto, owner: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    what = f"the attribute '{attribute.name}' of {owner}"
    if attribute.HasField("t"):
        yield what, attribute.t
    for tensor in attribute.tensors:
        yield what, tensor
    sparse = list(attribute.sparse_tensors)
    if attribute.HasField("sparse_tensor"):
        sparse.append(attribute.sparse_tensor)
    for held in sparse:
        yield what, held.values
        yield what, held.indices


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with empty tensors in place of large ones, and everything else unchanged."""
    copy = onnx.ModelProto()
    _copy_fields(model, copy, {"graph"})
    _copy_fields(model.graph, copy.graph, {"initializer"})
    for tensor in model.graph.initializer:
        if is_small(tensor):
            copy.graph.initializer.add().CopyFrom(tensor)
        else:
            _copy_fields(tensor, copy.graph.initializer.add(), PAYLOADS | {"dims"})
            copy.graph.initializer[-1].dims.append(0)
    for _, tensor in tensors(copy):
        if not is_small(tensor):
            _empty(tensor)
    return copy


def is_small(tensor: onnx.TensorProto) -> bool:
    """Return whether an outline keeps the data of a tensor."""
    return math.prod(tensor.dims) <= _SMALL


def without_data(model: onnx.ModelProto) -> None:
    """Replace the external tensors of an outline by empty tensors without external data."""
    for _, tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _empty(tensor)
            tensor.ClearField("data_location")
            del tensor.external_data[:]


def _empty(tensor: onnx.TensorProto) -> None:
    for field in PAYLOADS:
        tensor.ClearField(field)
    tensor.dims[:] = [0]


def is_repeated(field: Any) -> bool:
    """Return whether a field of a message is repeated."""
    newer = getattr(field, "is_repeated", None)  # older protobuf only has the label
    return field.label == FieldDescriptor.LABEL_REPEATED if newer is None else bool(newer)


def _copy_fields(source: Message, target: Message, left_out: Set[str]) -> None:
    """Copy the fields of a message except for some."""
    for field in source.DESCRIPTOR.fields:
        if field.name in left_out:
            continue
        value = getattr(source, field.name)
        if is_repeated(field):
            getattr(target, field.name).MergeFrom(value)
        elif source.HasField(field.name):
            if field.message_type is not None:
                getattr(target, field.name).CopyFrom(value)
            else:
                setattr(target, field.name, value)
