"""What a model says of its values, kept apart from what follows from its nodes.

The types of a graph's inputs are a contract: runtimes refuse what does not keep it. All else is a
claim. Descriptions of inner values and of outputs, those within bodies and functions too, survive
edits that make them wrong, and runtimes only warn of that: a stale [1, 64, 7, 7] must not become
the kernel of a convolution. Equal names of extents are claims as well: no runtime compares what
they stand for.

A claimed type of numbers is taken where inference has no answer, behind an op that ONNX does not
know say: a runtime refuses a model where it is wrong. Shapes are not.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["MADE_UP", "Claims", "describe"]

MADE_UP = "unk__"
"""Prefix of the dimension names that ONNX's shape inference makes up."""

_DEFAULT = {"", "ai.onnx"}
_NESTED = {"optional_type", "sequence_type"}
_Types = dict[str, onnx.TypeProto]


class Claims:
    """The claims of a proto, which are taken out of it.

    Args:
        model: The proto. Its inputs keep their types, with a name of its own for each extent that
            is not static.
        is_body: The main graph is the body of a function or of a node: its inputs are no contract.

    Attributes:
        spelled: The names that the model has for extents, by those that replace them.
    """

    def __init__(self, model: onnx.ModelProto, *, is_body: bool) -> None:
        self.spelled: dict[str, str] = {}
        self._graph = model.graph
        self._types: list[_Types] = []
        for graph in _graphs(model.graph):
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
            for graph in (g for node in function.node for g in _held_by(node)):
                for inner in _graphs(graph):
                    del inner.value_info[:]
        if not is_body:
            self._rename(model.graph)

    def _rename(self, graph: onnx.GraphProto) -> None:
        """Give each extent of an input that is not static a name of its own."""
        names: set[str] = set()
        for info in graph.input:
            if info.type.WhichOneof("value") != "tensor_type":
                _forget_shape(info.type)
                continue
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                if dim.HasField("dim_value") and dim.dim_value < 0:
                    dim.Clear()  # old exporters wrote -1
                if dim.dim_param and dim.dim_param in names:
                    self.spelled[f"{dim.dim_param}@{info.name}.{axis}"] = dim.dim_param
                    dim.dim_param = f"{dim.dim_param}@{info.name}.{axis}"
                names.add(dim.dim_param)

    def offer(self, inferred: onnx.GraphProto) -> bool:
        """State the claimed types, without shapes, of values about which inference is silent.

        Only those of nodes that will never have an answer: what follows of these comes first.

        Args:
            inferred: The graph that inference gave.

        Returns:
            Whether there were any.
        """
        offered, outer = False, set[str]()
        graphs = zip(_graphs(self._graph), _graphs(inferred), self._types, strict=True)
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
    """Let a graph say the types of some of its values, by name, instead of what it says."""
    if not kinds:
        return
    infos: dict[str, onnx.ValueInfoProto] = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        infos.setdefault(info.name, info)
    for name, kind in kinds.items():
        info = infos[name] if name in infos else graph.value_info.add(name=name)
        info.type.CopyFrom(kind)


def _forget_defaults(graph: onnx.GraphProto) -> None:
    """Take out what callers may replace: its numbers, and extents, are one case of many."""
    inputs = {info.name for info in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    if len(kept) < len(graph.initializer):
        copies = onnx.GraphProto(initializer=kept)
        del graph.initializer[:]
        graph.initializer.extend(copies.initializer)


def _forget_shape(given: onnx.TypeProto) -> None:
    """Take the shape from a type, or from that of its elements."""
    kind: onnx.TypeProto | None = given
    while kind is not None:
        which = kind.WhichOneof("value") or ""
        if which == "tensor_type":
            kind.tensor_type.ClearField("shape")
        kind = getattr(kind, which).elem_type if which in _NESTED else None


def _has_type(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is not None and (which != "tensor_type" or bool(kind.tensor_type.elem_type))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those within its nodes."""
    yield graph
    for node in graph.node:
        for inner in _held_by(node):
            yield from _graphs(inner)


def _held_by(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
