"""What is known about the values of a model before it runs: shapes and constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.constants import PURE_OPS, evaluate, is_safe_size
from onnx_expand.errors import Reason, Refusal, RefusedError

__all__ = ["Facts", "Shape"]

Shape = tuple[int | None, ...]

# Weights above this size tell shape inference nothing, and would be copied for it.
_SMALL = 1024
# Below this many bytes a copy of all weights costs less than taking them out.
_CHEAP = 1 << 25


class Facts:
    """Shapes, constants and opset of one model.

    The model is not changed by asking: inferred shapes are kept here.

    Args:
        model: The model that questions will be about. Values that a pass adds later carry their
            shapes themselves.
        one_sample: Take a symbolic batch, the first axis of an input, as one.
    """

    def __init__(self, model: ir.Model, *, one_sample: bool = False) -> None:
        self.opset = model.graph.opset_imports.get("", 0)
        self._inferred, self._dtypes = _infer(model, one_sample=one_sample)
        self._known: dict[ir.Value, ir.TensorProtocol | None] = {}

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The extents of a value, None for one that is not static; None if the rank is unknown."""
        if value is None:
            return None
        if value.const_value is not None:
            return _dims(value.const_value)
        own, inferred = _plain(value.shape), self._inferred.get(value)
        if own is None or inferred is None or len(own) != len(inferred):
            return own if own is not None else inferred
        return tuple(a if a is not None else b for a, b in zip(own, inferred, strict=True))

    def transfer(self, old: ir.Value, new: ir.Value) -> None:
        """Let a value that takes another's place keep what is known about it."""
        if old in self._inferred:
            self._inferred[new] = self._inferred[old]
        if old in self._dtypes:
            self._dtypes[new] = self._dtypes[old]

    def note_rank(self, value: ir.Value, rank: int) -> None:
        """Remember the rank that an op's definition gives to a value of unknown shape."""
        if self.shape(value) is None:
            self._inferred[value] = (None,) * rank

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The type of a value's numbers, if known."""
        return value.dtype if value.dtype is not None else self._dtypes.get(value)

    def rank(self, value: ir.Value | None) -> int | None:
        """The number of axes of a value, if known."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def tensor(self, value: ir.Value) -> ir.TensorProtocol:
        """The constant that a value is.

        Raises:
            RefusedError: It is computed while the model runs, or a caller may replace it.
        """
        if value.is_initializer() and value.const_value is not None:
            if value.is_graph_input():
                raise RefusedError(
                    Refusal(
                        Reason.OVERRIDABLE,
                        f"'{value.name}' is also a graph input, so that a caller may replace it",
                        hint="remove it from the graph's inputs",
                    )
                )
            return value.const_value
        tensor = None if value.is_graph_input() else self._computed(value)
        if tensor is None:
            raise RefusedError(
                Refusal(Reason.DYNAMIC, f"'{value.name}' is computed while the model runs")
            )
        return tensor

    def _computed(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The constant that nodes compute, None if what they compute is none."""
        pending = [value]
        while pending:
            current = pending[-1]
            missing = self._missing(current)
            if missing:
                pending += missing
                continue
            if current not in self._known:
                self._evaluate(current)
            pending.pop()
        return self._known[value]

    def _missing(self, value: ir.Value) -> list[ir.Value]:
        """Inputs of a value's node that have to be looked at first."""
        node = value.producer()
        if value in self._known or node is None or not _is_pure(node):
            return []
        if node.op_type in {"Shape", "Size"}:
            return []
        inputs = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        return [
            v
            for v in inputs
            if v is not None and v not in self._known and v.producer() is not None
        ]

    def _evaluate(self, value: ir.Value) -> None:
        self._known[value] = None
        node = value.producer()
        if node is None or value.is_graph_input():
            return
        if node.op_type == "Constant" and node.domain == "":
            self._known[value] = _constant_node(value)
            return
        arrays = self._operands(node) if _is_pure(node) else None
        if arrays is None or not is_safe_size(node, self.shape(value), arrays):
            return
        results = evaluate(node, arrays, self.opset)
        if results is None:
            return
        for output, array in zip((out for out in node.outputs if out.name), results, strict=True):
            self._known[output] = ir.Tensor(np.asarray(array), name=output.name)

    def _operands(self, node: ir.Node) -> list[npt.NDArray[Any] | None] | None:
        """The constants that a node reads, None if one of its inputs is none."""
        if node.op_type in {"Shape", "Size"}:
            shape = self.shape(node.inputs[0])
            static = shape is not None and None not in shape
            # Only the extents matter: a view of one number has them without the memory.
            return [np.broadcast_to(np.zeros(()), shape)] if static else None  # type: ignore[arg-type]
        arrays: list[npt.NDArray[Any] | None] = []
        for index, value in enumerate(node.inputs):
            if value is not None and node.op_type == "CastLike" and index == 1:
                dtype = self.dtype(value)
                if dtype is None:
                    return None
                arrays.append(np.zeros((), dtype.numpy()))
            elif value is None:
                arrays.append(None)
            elif value.producer() is None:
                is_fixed = value.const_value is not None and not value.is_graph_input()
                if value.const_value is None or not is_fixed:
                    return None
                arrays.append(value.const_value.numpy())
            else:
                tensor = self._known.get(value)
                if tensor is None:
                    return None
                arrays.append(tensor.numpy())
        return arrays

    def dims(self, value: ir.Value) -> tuple[int, ...]:
        """The shape of the constant that a value is.

        Raises:
            RefusedError: As `tensor`.
        """
        return _dims(self.tensor(value))

    def readers(self, value: ir.Value) -> list[ir.Node]:
        """The nodes that read a value's numbers, one entry for each use.

        A Shape whose result is static does not, nor a CastLike that takes the type only.
        """
        return [use.node for use in value.uses() if not self.is_fixed(use.node)]

    def is_fixed(self, node: ir.Node) -> bool:
        """Whether a node computes a constant although what it reads is none."""
        if node.domain or node.op_type not in {"Shape", "Size", "CastLike"}:
            return False
        return self.is_constant(node.outputs[0])

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether `tensor` has an answer."""
        if value is None:
            return False
        try:
            self.tensor(value)
        except RefusedError:
            return False
        return True

    def array(self, value: ir.Value) -> npt.NDArray[np.float64]:
        """The constant that a value is, in float64.

        Raises:
            RefusedError: It is no constant, or holds NaN or infinity.
        """
        array = np.asarray(self.tensor(value).numpy(), dtype=np.float64)
        if not np.all(np.isfinite(array)):
            raise RefusedError(Refusal(Reason.NON_FINITE, f"'{value.name}' holds NaN or infinity"))
        return array


def _is_pure(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in PURE_OPS


def _constant_node(value: ir.Value) -> ir.TensorProtocol | None:
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain or len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.name in {"value_string", "value_strings", "sparse_value"}:
        return None
    return ir.convenience.get_const_tensor(value)


def _dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(d for d in tensor.shape if isinstance(d, int))


def _plain(shape: ir.Shape | None) -> Shape | None:
    if shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in shape)


def _infer(
    model: ir.Model, *, one_sample: bool
) -> tuple[dict[ir.Value, Shape], dict[ir.Value, ir.DataType]]:
    """The shapes and types that ONNX's own inference adds to those written in the model."""
    proto = _without_weights(model)
    if one_sample:
        _set_batch(proto.graph)
    shapes: dict[ir.Value, Shape] = {}
    dtypes: dict[ir.Value, ir.DataType] = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return shapes, dtypes  # what the model states itself remains
    pending: list[tuple[ir.Graph, onnx.GraphProto]] = [(model.graph, inferred.graph)]
    while pending:
        graph, described = pending.pop()
        described_values = (*described.input, *described.value_info, *described.output)
        types = {v.name: v.type.tensor_type for v in described_values}
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
            kind = types.get(value.name or "")
            if kind is None:
                continue
            if kind.elem_type:
                dtypes[value] = ir.DataType(kind.elem_type)
            if kind.HasField("shape"):
                dims = kind.shape.dim
                shapes[value] = tuple(
                    d.dim_value if d.HasField("dim_value") else None for d in dims
                )
        for node, same in zip(graph, described.node, strict=True):
            for attribute in same.attribute:
                if attribute.HasField("g"):
                    pending.append((node.attributes[attribute.name].as_graph(), attribute.g))
    return shapes, dtypes


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto in which large initializers are inputs: their numbers tell nothing."""
    graphs = list(model.graphs())
    weights = [
        tensor.nbytes
        for graph in graphs
        for tensor in (value.const_value for value in graph.initializers.values())
        if tensor is not None and tensor.size > _SMALL
    ]
    if sum(weights) <= _CHEAP:
        return ir.serde.serialize_model(model)
    twin = model.clone()
    for graph in twin.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None and tensor.size > _SMALL:
                value.shape, value.dtype = ir.Shape(_dims(tensor)), tensor.dtype
                value.const_value = None
                del graph.initializers[name]
                if not value.is_graph_input():
                    graph.inputs.append(value)
    return ir.serde.serialize_model(twin)


def _set_batch(graph: onnx.GraphProto) -> None:
    """Let the first axis of every input, where it is symbolic, be one sample."""
    batches = set()
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            batches.add(dims[0].dim_param)
            dims[0].dim_value = 1
    batches.discard("")
    for value in (*graph.input, *graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in batches:
                dim.dim_value = 1
