"""Shapes and types that a model does not state, by ONNX's own inference.

That inference gives up where an extent is computed by more than a few ops. What such computations
come to is often a constant all the same; with the constants filled in, inference gets further.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.hazards import Slices, defuse

__all__ = ["Dim", "Inference"]

Dim = int | str | None
"""An extent: static, known by a name, or unknown."""

# Weights above this size tell shape inference nothing, and would be copied for it.
_SMALL = 1024
# Below this many bytes a copy of all weights costs less than taking them out.
_CHEAP = 1 << 25

# Inputs whose numbers decide the shape of the output.
_DECIDING = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
}

_MADE_UP = "unk__"
_Extents = Callable[["ir.Value | None"], "tuple[Hashable, ...] | None"]
_Pairs = Iterator[tuple[ir.Graph, onnx.GraphProto]]


class Inference:
    """Shape inference on one model, which stays as it is.

    Args:
        model: The model.
        one_sample: Take a symbolic batch, the first axis of an input, as one.

    Attributes:
        dims: The extents of each value whose rank is known.
        dtypes: The types of values.
    """

    def __init__(self, model: ir.Model, *, one_sample: bool = False) -> None:
        self.dims: dict[ir.Value, tuple[Dim, ...]] = {}
        self.dtypes: dict[ir.Value, ir.DataType] = {}
        self._model = model
        self._proto = _without_weights(model)
        if one_sample:
            _set_batch(self._proto.graph)
        defuse(self._proto)
        self._slices = Slices(self._proto)
        self._filled: set[tuple[ir.Node, int]] = set()

    def _infer(self) -> onnx.ModelProto | None:
        try:
            return onnx.shape_inference.infer_shapes(
                self._proto, strict_mode=False, data_prop=True
            )
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            RuntimeError,
            ValueError,
        ):
            return None

    def run(self) -> None:
        """Infer what can be inferred."""
        inferred = self._infer()
        while inferred is not None and self._slices.show(inferred.graph):
            inferred = self._infer()
        if inferred is None:
            return  # what the model states itself remains
        for graph, described in _pairs(self._model.graph, inferred.graph):
            described_values = (*described.input, *described.value_info, *described.output)
            types = {v.name: v.type.tensor_type for v in described_values}
            for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
                kind = types.get(value.name or "")
                if kind is None:
                    continue
                if kind.elem_type:
                    self.dtypes[value] = ir.DataType(kind.elem_type)
                if kind.HasField("shape"):
                    self.dims[value] = tuple(map(_dim, kind.shape.dim))

    def fill_in(self, constant: Callable[[ir.Value], npt.NDArray[np.generic] | None]) -> bool:
        """Give inference the numbers that decide shapes it does not know.

        Args:
            constant: The constant that a value comes to, None if it is none.

        Returns:
            Whether there were any new ones.
        """
        before = len(self._filled)
        for graph, described in _pairs(self._model.graph, self._proto.graph):
            for node, proto in zip(graph, described.node, strict=True):
                if node.domain or node.op_type not in _DECIDING or self._is_known(node):
                    continue
                for index in _DECIDING[node.op_type]:
                    value = node.inputs[index] if index < len(node.inputs) else None
                    producer = None if value is None else value.producer()
                    if value is None or producer is None or (node, index) in self._filled:
                        continue
                    array = None if producer.op_type == "Constant" else constant(value)
                    if array is not None and array.size <= _SMALL:
                        self._filled.add((node, index))
                        proto.input[index] = name = f"{len(self._filled)}:{value.name}"
                        described.initializer.append(onnx.numpy_helper.from_array(array, name))
        self._slices.hide()
        return len(self._filled) > before

    def resolve(self, extents: _Extents, extents_in: _Extents) -> bool:
        """State the -1 of Reshapes that follow although other extents are not static.

        Args:
            extents: The extents of a value, with stand-ins for those that are not static.
            extents_in: Those that the numbers of a value are.

        Returns:
            Whether there were any new ones.
        """
        before = len(self._filled)
        for graph, described in _pairs(self._model.graph, self._proto.graph):
            for node in graph:
                if node.op_type != "Reshape" or node.domain or (node, -1) in self._filled:
                    continue
                out = node.outputs[0]
                if len(node.inputs) < 2 or self._is_known(node) or out.is_graph_output():
                    continue
                dims = _reshaped(extents(node.inputs[0]), extents_in(node.inputs[1]))
                if dims is None:
                    continue
                self._filled.add((node, -1))
                _state(described, out, self.dtypes.get(out), dims)
        return len(self._filled) > before

    def _is_known(self, node: ir.Node) -> bool:
        shapes = (self.dims.get(out) for out in node.outputs)
        return all(dims is not None and all(isinstance(d, int) for d in dims) for dims in shapes)


def _reshaped(
    data: tuple[Hashable, ...] | None, wanted: tuple[Hashable, ...] | None
) -> tuple[Hashable, ...] | None:
    """The extents that a Reshape with one -1 leads to, if what is not static is on both sides."""
    if data is None or wanted is None or wanted.count(-1) != 1 or 0 in (*data, *wanted):
        return None
    rest = [extent for extent in wanted if extent != -1]
    left, right = (Counter(e for e in side if not isinstance(e, int)) for side in (data, rest))
    total, given = (math.prod(e for e in side if isinstance(e, int)) for side in (data, rest))
    if left != right or total % given:
        return None
    return tuple(total // given if extent == -1 else extent for extent in wanted)


def _state(
    graph: onnx.GraphProto,
    value: ir.Value,
    dtype: ir.DataType | None,
    dims: tuple[Hashable, ...],
) -> None:
    """Let a graph say the extents of a value; names that inference made up mean nothing to it."""
    if dtype is None:
        return
    named = [
        d if isinstance(d, int) or (isinstance(d, str) and not d.startswith(_MADE_UP)) else None
        for d in dims
    ]
    name = value.name or ""
    for info in [info for info in graph.value_info if info.name == name]:
        graph.value_info.remove(info)
    graph.value_info.append(onnx.helper.make_tensor_value_info(name, int(dtype), named))


def _pairs(graph: ir.Graph, described: onnx.GraphProto) -> _Pairs:
    """A graph and its proto, then those within its nodes."""
    yield graph, described
    for node, same in zip(graph, described.node, strict=True):
        for attribute in same.attribute:
            if attribute.HasField("g"):
                yield from _pairs(node.attributes[attribute.name].as_graph(), attribute.g)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto in which large initializers are inputs: their numbers tell nothing."""
    values = [v for graph in model.graphs() for v in graph.initializers.values()]
    tensors = [value.const_value for value in values if value.const_value is not None]
    # What lies in another file is not there for inference.
    elsewhere = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    if not elsewhere and sum(t.nbytes for t in tensors if t.size > _SMALL) <= _CHEAP:
        return ir.serde.serialize_model(model)
    twin = model.clone()
    for graph in twin.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None:
                continue
            if tensor.size > _SMALL:
                extents = [d for d in tensor.shape if isinstance(d, int)]
                value.shape, value.dtype = ir.Shape(extents), tensor.dtype
                value.const_value = None
                del graph.initializers[name]
                if not value.is_graph_input():
                    graph.inputs.append(value)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name)
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
