"""Infer shapes and types of a model's values by ONNX's shape inference.

Inference starts from the graph inputs; the types that the model declares for other values are
claims. It stops where an extent is computed by more than a few ops. The results of such
computations are often constant, and inference proceeds further once they are filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.graph.backward import declare_proved, declared_types, types_of
from onnx_expand.graph.claims import MADE_UP, Claims, describe
from onnx_expand.graph.einsums import spell_einsums
from onnx_expand.graph.guards import Slices, defuse
from onnx_expand.graph.ops import op_of
from onnx_expand.graph.products import Names, expanded, reshaped
from onnx_expand.graph.promises import state_promised
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.model import is_external, untyped

__all__ = ["BODY", "Dim", "Inference", "default_opset"]

BODY = "onnx_expand.body"
"""Says of a model that its graph is the body of a function, whose inputs promise nothing."""

Dim = int | str | None
"""An extent: static, known by a name, or unknown."""

# Weights above this size do not help shape inference, and would be copied for it.
_SMALL = 1024
# Below this size in bytes, copying all weights costs less than removing them.
_CHEAP = 1 << 25

_DTYPES = frozenset(map(int, ir.DataType))  # a Cast may name any number

# How many rounds of claims fill the gaps of inference.
_OFFERS = 8
_RESHAPING = {"Expand": expanded, "Reshape": reshaped}
_Extents = Callable[["ir.Value | None"], "tuple[Hashable, ...] | None"]
_Described = list[tuple[onnx.GraphProto, onnx.ValueInfoProto]]
_Pairs = Iterator[tuple[ir.Graph, onnx.GraphProto]]


def default_opset(imports: Mapping[str, int]) -> int:
    """Return the opset of the default domain, in either spelling; 0 if it is not imported."""
    return imports.get("", imports.get("ai.onnx", 0))


class Inference:
    """Shape inference on one model, which is not changed.

    Args:
        model: The model.
        one_sample: Assume 1 for a symbolic batch, the first axis of an input.
        usual: Assume this for every other extent of an input that is not static.
        shapes: The extents of inputs, by name.
        is_body: Whether the graph is the body of a function, whose inputs are no contract.

    Attributes:
        dims: The extents of each value whose rank is known. Each extent of an input that is not
            static has a unique name.
        dtypes: The types of values.
        names: The names of extents, some of which are renamed here.
        is_told: Whether `prove` found anything.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        one_sample: bool = False,
        usual: int | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        is_body: bool = False,
    ) -> None:
        self.dims: dict[ir.Value, tuple[Dim, ...]] = {}
        self.dtypes: dict[ir.Value, ir.DataType] = {}
        self._model = model
        self._proto, weights = _without_weights(model)
        if shapes is not None:
            _set_shapes(self._proto.graph, shapes)
        if one_sample:
            _set_batch(self._proto.graph)
        if usual is not None:
            _set_extents(self._proto.graph, usual)
        self._claims = Claims(self._proto, is_body=is_body)
        state_promised(self._proto)
        self.names = Names(self._claims.names, self._claims.spelled)
        self.is_told = False
        self._last: onnx.ModelProto | None = None
        self._offers = 0
        for graph, info in weights:
            graph.value_info.append(info)
        defuse(self._proto)
        self._slices = Slices(self._proto)
        self._filled: set[tuple[ir.Node, int]] = set()
        self._stated: dict[ir.Node, list[int | str | None]] = {}

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

    def run(self, *, proves: bool = True) -> None:
        """Run inference until it finds nothing new.

        Nodes tell what their inputs are only if `proves`.
        """
        inferred = self._infer()
        while inferred is not None and self._learn(inferred, proves=proves):
            inferred = self._infer()
        self._last = inferred
        described_model = self._proto if inferred is None else inferred
        for graph, described in _pairs(self._model.graph, described_model.graph):
            types = declared_types(described)
            for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
                kind = types.get(value.name or "")
                if kind is None:
                    continue
                if kind.elem_type in _DTYPES:
                    self.dtypes[value] = ir.DataType(kind.elem_type)
                if kind.HasField("shape"):
                    self.dims[value] = tuple(map(_dim, kind.shape.dim))

    def prove(self) -> bool:
        """Let nodes tell what their inputs are; return whether that was new.

        What needs no such proof is known even if these nodes are gone.
        """
        told = self._last is not None and self._prove(self._proto.graph, self._last.graph, {})
        self.is_told |= told
        return told

    def _learn(self, inferred: onnx.ModelProto, *, proves: bool) -> bool:
        """Correct and add facts for the next inference; return whether there are any."""
        if spell_einsums(self._proto, inferred) or self._slices.show(inferred.graph):
            return True
        self._offers += 1
        if self._offers > _OFFERS:
            return False
        offered = self._claims.offer(inferred.graph)
        return (proves and self._prove(self._proto.graph, inferred.graph, {})) or offered

    def _prove(
        self, graph: onnx.GraphProto, inferred: onnx.GraphProto, outer: dict[str, int]
    ) -> bool:
        """Declare proved types in a graph and its subgraphs; return whether any are new."""
        types = types_of(inferred)
        known = outer | {
            name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")
        }
        found = declare_proved(graph, inferred, types, known)
        for node, same in zip(graph.node, inferred.node, strict=True):
            for one, other in zip(node.attribute, same.attribute, strict=True):
                if one.HasField("g"):
                    found |= self._prove(one.g, other.g, known)
        return found

    def fill_in(self, constant: Callable[[ir.Value], npt.NDArray[np.generic] | None]) -> bool:
        """Give inference the constants that determine shapes which it does not know.

        Args:
            constant: Returns the constant that a value evaluates to, or None.

        Returns:
            Whether there were any new ones.
        """
        before = len(self._filled)
        for graph, described in _pairs(self._model.graph, self._proto.graph):
            for node, proto in zip(graph, described.node, strict=True):
                deciding = op_of(node).deciding
                if not deciding or self._is_known(node):
                    continue
                for index in deciding:
                    value = node.inputs[index] if index < len(node.inputs) else None
                    if value is None or (node, index) in self._filled:
                        continue
                    # Inference sees the constants of a graph itself, but not those around it.
                    array = None if _is_stated(value, graph) else constant(value)
                    if array is not None and array.size <= _SMALL:
                        self._filled.add((node, index))
                        proto.input[index] = name = f"{len(self._filled)}:{value.name}"
                        described.initializer.append(onnx.numpy_helper.from_array(array, name))
        self._slices.hide()
        return len(self._filled) > before

    def resolve(self, extents: _Extents, extents_in: _Extents) -> bool:
        """State what follows for Reshapes and Expands although some extents are not static.

        Args:
            extents: Returns the extents of a value, with placeholders for dynamic ones.
            extents_in: Returns the extents that the elements of a value specify.

        Returns:
            Whether there were any new ones.
        """
        found = False
        for graph, described in _pairs(self._model.graph, self._proto.graph):
            stated: dict[str, onnx.TypeProto] = {}
            for node in graph:
                rule = _RESHAPING.get(node.op_type) if not node.domain else None
                if rule is None:
                    continue
                out = node.outputs[0]
                if len(node.inputs) < 2 or self._is_known(node) or out.is_graph_output():
                    continue
                dims = rule(extents(node.inputs[0]), extents_in(node.inputs[1]))
                dtype = self.dtypes.get(out)
                if dims is None or dtype is None:
                    continue
                named = [None if _is_made_up(d) else self.names.of(d) for d in dims]
                if self._stated.get(node) == named:
                    continue
                self._stated[node], found = named, True
                stated[out.name or ""] = onnx.helper.make_tensor_type_proto(int(dtype), named)
            describe(described, stated)
        return found

    def _is_known(self, node: ir.Node) -> bool:
        shapes = (self.dims.get(out) for out in node.outputs)
        return all(dims is not None and all(isinstance(d, int) for d in dims) for dims in shapes)


def _is_stated(value: ir.Value, graph: ir.Graph) -> bool:
    """Return whether a graph itself states a value, or nothing computes it."""
    producer = value.producer()
    if producer is None:
        return value.graph is graph or not value.is_initializer()
    return producer.graph is graph and producer.op_type == "Constant"


def _is_made_up(dim: Hashable) -> bool:
    return isinstance(dim, str) and dim.startswith(MADE_UP)


def _pairs(graph: ir.Graph, described: onnx.GraphProto) -> _Pairs:
    """Yield a graph and its proto, then those of its subgraphs."""
    yield graph, described
    for node, same in zip(graph, described.node, strict=True):
        for attribute in same.attribute:
            if attribute.HasField("g"):
                yield from _pairs(node.attributes[attribute.name].as_graph(), attribute.g)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _without_weights(model: ir.Model) -> tuple[onnx.ModelProto, _Described]:
    """Return the model without large initializers, and the types of these."""
    values = [v for graph in model.graphs() for v in graph.initializers.values()]
    tensors = [value.const_value for value in values if value.const_value is not None]
    # Inference cannot read external data.
    elsewhere = any(is_external(tensor) for tensor in tensors)
    if not elsewhere and sum(t.nbytes for t in tensors if t.size > _SMALL) <= _CHEAP:
        with untyped(values):
            return ir.serde.serialize_model(model), []
    twin = model.clone()
    large: list[tuple[ir.Graph, onnx.ValueInfoProto]] = []
    for graph in twin.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None:
                continue
            if tensor.size > _SMALL:
                extents = [d for d in tensor.shape if isinstance(d, int)]
                info = onnx.helper.make_tensor_value_info(name, int(tensor.dtype), extents)
                large.append((graph, info))
                value.const_value = None
                del graph.initializers[name]
            elif is_external(tensor):
                value.const_value = ir.Tensor(read_tensor(tensor), tensor.dtype, name=tensor.name)
    proto = ir.serde.serialize_model(twin)
    described = dict(_pairs(twin.graph, proto.graph))
    return proto, [(described[graph], info) for graph, info in large]


def _set_batch(graph: onnx.GraphProto) -> None:
    """Set the first axis of every input to one if it is symbolic."""
    batches = set()
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            batches.add(dims[0].dim_param)
            dims[0].dim_value = 1
    batches.discard("")
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in batches:
                dim.dim_value = 1


def _set_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Set the extents of inputs."""
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size


def _set_extents(graph: onnx.GraphProto, size: int) -> None:
    """Set every extent of an input that is not static to one size."""
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = size
