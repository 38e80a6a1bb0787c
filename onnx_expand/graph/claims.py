"""Separate the types that a model claims for its values from those that its nodes prove.

The types of graph inputs are a contract: runtimes refuse inputs that violate it. All other types
are claims. The value_info of inner values and of outputs, also in bodies and functions, survives
edits that make it wrong, and runtimes only warn of that: a stale [1, 64, 7, 7] must not become the
kernel of a convolution. Equal names of extents are claims as well: no runtime compares the extents
behind them.

A claimed element type is used where inference has no answer, for example after an op that ONNX
does not define, because runtimes refuse models in which it is wrong. Claimed shapes are not used.
"""

from __future__ import annotations

import onnx

from onnx_expand.model.outline import graphs_in, inner_graphs

__all__ = ["MADE_UP", "Claims", "describe"]

MADE_UP = "unk__"
"""Prefix of the dimension names that ONNX's shape inference makes up."""

_DEFAULT = {"", "ai.onnx"}
_NESTED = {"optional_type", "sequence_type"}
_Types = dict[str, onnx.TypeProto]


class Claims:
    """The claims of a proto, which are removed from it.

    Args:
        model: The proto. Its inputs keep their types, with a unique name for each extent that is
            not static.
        is_body: Whether the main graph is the body of a function or node, whose inputs are no
            contract.

    Attributes:
        names: The names of the extents of inputs.
        spelled: The model's names of extents, by the names that replace them.
    """

    def __init__(self, model: onnx.ModelProto, *, is_body: bool) -> None:
        self.names: set[str] = set()
        self.spelled: dict[str, str] = {}
        self._graph = model.graph
        self._types: list[_Types] = []
        for graph in inner_graphs(model.graph):
            is_free = graph is not model.graph or is_body
            claimed = [*graph.value_info, *graph.output, *(graph.input if is_free else ())]
            types: _Types = {}
            for info in claimed:
                types.setdefault(info.name, onnx.TypeProto()).CopyFrom(info.type)
                info.ClearField("type")
            del graph.value_info[:]
            self._types.append(types)
            _forget_defaults(graph)
        for function in model.functions:
            del function.value_info[:]
            for graph in graphs_in(function.node):
                del graph.value_info[:]
        if not is_body:
            self._rename(model.graph)

    def _rename(self, graph: onnx.GraphProto) -> None:
        """Give each extent of an input that is not static a unique name."""
        for info in graph.input:
            if info.type.WhichOneof("value") != "tensor_type":
                _forget_shape(info.type)
                continue
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                if dim.HasField("dim_value") and dim.dim_value < 0:
                    dim.Clear()  # old exporters wrote -1
                if dim.dim_param and dim.dim_param in self.names:
                    self.spelled[f"{dim.dim_param}@{info.name}.{axis}"] = dim.dim_param
                    dim.dim_param = f"{dim.dim_param}@{info.name}.{axis}"
                self.names.add(dim.dim_param)

    def offer(self, inferred: onnx.GraphProto) -> bool:
        """Declare the claimed types, without shapes, of values that inference cannot type.

        Only outputs of nodes that inference can never type are declared; the rest may follow from
        these.

        Returns:
            Whether any type was declared.
        """
        offered, outer = False, set[str]()
        graphs = zip(inner_graphs(self._graph), inner_graphs(inferred), self._types, strict=True)
        for graph, known_graph, types in graphs:
            infos = (*known_graph.input, *known_graph.value_info, *known_graph.output)
            known = {info.name for info in infos if _has_type(info.type)}
            outer |= known | {tensor.name for tensor in known_graph.initializer}
            silent = [info.name for info in graph.input]
            for node in graph.node:
                foreign = node.domain not in _DEFAULT
                if foreign or all(name in outer for name in node.input if name):
                    silent += node.output
            asked = [name for name in silent if name in types and name not in known]
            stated = {name: types.pop(name) for name in dict.fromkeys(asked)}
            for claimed in stated.values():
                _forget_shape(claimed)
            stated = {name: claimed for name, claimed in stated.items() if _has_type(claimed)}
            describe(graph, stated)
            offered |= bool(stated)
        return offered


def describe(graph: onnx.GraphProto, kinds: _Types) -> None:
    """Replace the types that a graph declares for some of its values, by name."""
    if not kinds:
        return
    infos: dict[str, onnx.ValueInfoProto] = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        infos.setdefault(info.name, info)
    for name, kind in kinds.items():
        info = infos[name] if name in infos else graph.value_info.add(name=name)
        info.type.CopyFrom(kind)


def _forget_defaults(graph: onnx.GraphProto) -> None:
    """Remove initializers that callers may override; their values and extents are defaults."""
    inputs = {info.name for info in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    if len(kept) < len(graph.initializer):
        copies = onnx.GraphProto(initializer=kept)
        del graph.initializer[:]
        graph.initializer.extend(copies.initializer)


def _forget_shape(given: onnx.TypeProto) -> None:
    """Remove the shape from a type, or from the type of its elements."""
    kind: onnx.TypeProto | None = given
    while kind is not None:
        which = kind.WhichOneof("value") or ""
        if which == "tensor_type":
            kind.tensor_type.ClearField("shape")
        kind = getattr(kind, which).elem_type if which in _NESTED else None


def _has_type(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is not None and (which != "tensor_type" or bool(kind.tensor_type.elem_type))
