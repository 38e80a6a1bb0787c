"""Snapshots of a model's content, compared before and after a pass to set `modified` reliably."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnx_expand.graph.tensors import read_tensor, same_bytes

__all__ = ["Snapshot"]


@dataclass(frozen=True)
class _Tensor:
    """A tensor, whose content is compared only if the object was replaced."""

    tensor: ir.TensorProtocol

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Tensor):
            return NotImplemented
        a, b = self.tensor, other.tensor
        if a is b:
            return True
        same = (a.dtype, a.shape, a.name) == (b.dtype, b.shape, b.name)
        if same and a.dtype == ir.DataType.STRING:
            return bool((read_tensor(a) == read_tensor(b)).all())
        return same and same_bytes(a, b)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Snapshot:
    """The content of a model as its file would store it, with tensors by reference.

    Attributes:
        content: Nested tuples, in the order of the file.
    """

    content: tuple[Any, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Snapshot:
        """Record the current content of a model."""
        fields = (
            *(model.ir_version, model.producer_name, model.producer_version, model.domain),
            *(model.model_version, model.doc_string, _mapping(model.metadata_props)),
            _mapping(model.opset_imports),
        )
        functions = tuple(map(_function, model.functions.values()))
        return cls((*fields, functions, tuple(_graph(model.graph))))


def _function(function: ir.Function) -> tuple[Any, ...]:
    return (
        *(function.identifier(), function.doc_string, _mapping(function.metadata_props)),
        _mapping(function.opset_imports),
        tuple(map(_attribute, function.attributes.values())),
        tuple(_graph(function.graph)),
    )


def _graph(graph: ir.Graph) -> Iterator[tuple[Any, ...]]:
    yield (graph.name, graph.doc_string, _mapping(graph.metadata_props))
    yield tuple(map(_value, graph.inputs))
    yield tuple(map(_value, graph.outputs))
    for value in graph.initializers.values():
        yield (*_value(value), None if value.const_value is None else _Tensor(value.const_value))
    for node in graph:
        yield (
            *(node.domain, node.op_type, node.overload, node.name, node.doc_string),
            _mapping(node.metadata_props),
            tuple(None if value is None else value.name for value in node.inputs),
            tuple(map(_value, node.outputs)),
            tuple(map(_attribute, node.attributes.values())),
        )


def _value(value: ir.Value) -> tuple[Any, ...]:
    shape, kind = value.shape, value.type
    return (
        value.name,
        (kind.dtype, kind.denotation) if type(kind) is ir.TensorType else str(kind),
        None if shape is None else tuple(d if isinstance(d, int) else str(d) for d in shape),
        value.doc_string,
        _mapping(value.metadata_props),
    )


def _attribute(attribute: ir.Attr) -> tuple[Any, ...]:
    kind, value = attribute.type, attribute.value
    stated: Any
    if attribute.is_ref():
        stated = attribute.ref_attr_name
    elif kind == ir.AttributeType.GRAPH:
        stated = tuple(_graph(value))
    elif kind == ir.AttributeType.GRAPHS:
        stated = tuple(tuple(_graph(graph)) for graph in value)
    elif kind == ir.AttributeType.TENSOR:
        stated = _Tensor(value)
    elif kind == ir.AttributeType.TENSORS:
        stated = tuple(map(_Tensor, value))
    else:
        stated = repr(value)  # repr makes NaN equal to itself
    return (attribute.name, kind, attribute.doc_string, stated)


def _mapping(given: Any) -> tuple[tuple[Any, Any], ...]:
    return tuple(given.items())
