"""What a model says of its values, kept apart from what follows from its nodes.

The types of a graph's inputs are a contract: runtimes refuse what does not keep it. All else is a
claim. Descriptions of inner values and of outputs, those within bodies and functions too, survive
edits that make them wrong, and runtimes only warn of that: a stale [1, 64, 7, 7] must not become
the kernel of a convolution. Equal names of extents are claims as well: no runtime compares what
they stand for.

Where inference has no answer, behind an op that ONNX does not know say, the claimed type and
number of axes are taken, never an extent, and only as long as no node contradicts them.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["Claims"]

_DEFAULT = {"", "ai.onnx"}
_WEIGHTED = {"Conv", "ConvTranspose"}
_WINDOWED = {"AveragePool", "LpPool", "MaxPool"}
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
        self._offered: list[tuple[onnx.GraphProto, onnx.ValueInfoProto]] = []
        self._are_ranks_wrong = False
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
        else:  # whoever calls it gives it what he likes
            for info in model.graph.input:
                _forget_shape(self._types[0].get(info.name))

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
        """State the claimed types of values about which inference, which gave a graph, is silent.

        Only those of nodes that will never have an answer: what follows of these comes first.

        Returns:
            Whether there were any.
        """
        before = len(self._offered)
        outer: set[str] = set()
        graphs = zip(_graphs(self._graph), _graphs(inferred), self._types, strict=True)
        for graph, known_graph, types in graphs:
            found = _known(known_graph)
            known = {name for name, kind in found.items() if _has_rank(kind)}
            told = {info.name for owner, info in self._offered if owner is graph}
            silent = [info.name for info in graph.input]
            outer |= known
            for node in graph.node:
                foreign = node.domain not in _DEFAULT
                if foreign or all(name in outer for name in node.input if name):
                    silent += node.output
            for name in silent:
                if name in types and name not in known and name not in told:
                    self._state(graph, name, types[name], found.get(name))
        return len(self._offered) > before

    def _state(
        self,
        graph: onnx.GraphProto,
        name: str,
        claimed: onnx.TypeProto,
        known: onnx.TypeProto | None,
    ) -> None:
        kind = onnx.TypeProto()
        kind.CopyFrom(claimed)
        which = kind.WhichOneof("value")
        if which is None or (known is not None and known.WhichOneof("value") not in {which, None}):
            return
        if which != "tensor_type" or self._are_ranks_wrong:
            _forget_shape(kind)
        else:
            for dim in kind.tensor_type.shape.dim:
                dim.Clear()
            if known is not None and known.tensor_type.elem_type:
                kind.tensor_type.elem_type = known.tensor_type.elem_type
        info = next((i for i in (*graph.input, *graph.output) if i.name == name), None)
        if info is None:
            info = graph.value_info.add(name=name)
        info.type.CopyFrom(kind)
        self._offered.append((graph, info))

    def withdraw(self, inferred: onnx.GraphProto) -> bool:
        """Take back all claimed ranks if a node contradicts one; whether that was so."""
        told = [info.type for _, info in self._offered if _has_rank(info.type)]
        if not told or not _contradicts(inferred):
            return False
        for kind in told:
            _forget_shape(kind)
        self._are_ranks_wrong = True
        return True


def _forget_defaults(graph: onnx.GraphProto) -> None:
    """Take out what callers may replace: its numbers, and extents, are one case of many."""
    inputs = {info.name for info in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    if len(kept) < len(graph.initializer):
        copies = onnx.GraphProto(initializer=kept)
        del graph.initializer[:]
        graph.initializer.extend(copies.initializer)


def _forget_shape(kind: onnx.TypeProto | None) -> None:
    """Take the shape from a type, or from that of its elements."""
    while kind is not None:
        which = kind.WhichOneof("value") or ""
        if which == "tensor_type":
            kind.tensor_type.ClearField("shape")
        kind = getattr(kind, which).elem_type if which in _NESTED else None


def _has_rank(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is not None and (which != "tensor_type" or kind.tensor_type.HasField("shape"))


def _known(graph: onnx.GraphProto) -> _Types:
    infos = (*graph.input, *graph.value_info, *graph.output)
    types = {info.name: info.type for info in infos}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types


def _contradicts(graph: onnx.GraphProto) -> bool:
    """Whether a node reads a value of a rank that its op does not take."""
    ranks: dict[str, int] = {}
    for inner in _graphs(graph):
        for name, kind in _known(inner).items():
            if kind.WhichOneof("value") == "tensor_type" and kind.tensor_type.HasField("shape"):
                ranks[name] = len(kind.tensor_type.shape.dim)
        for node in inner.node:
            if node.domain in _DEFAULT and any(
                name in ranks and ranks[name] != rank for name, rank in _demands(node, ranks)
            ):
                return True
    return False


def _demands(node: onnx.NodeProto, ranks: dict[str, int]) -> Iterator[tuple[str, int]]:
    """The ranks that a node's op demands of what it reads."""
    lists = {a.name: len(a.ints) for a in node.attribute if a.ints}
    reads = list(node.input)
    if node.op_type in _WEIGHTED and len(reads) > 1 and reads[1] in ranks:
        yield reads[0], ranks[reads[1]]
    elif node.op_type in _WINDOWED and "kernel_shape" in lists:
        yield reads[0], lists["kernel_shape"] + 2
    elif node.op_type == "Transpose" and "perm" in lists:
        yield reads[0], lists["perm"]
    elif node.op_type == "Gemm":
        yield from ((name, 2) for name in reads[:2])
    elif node.op_type == "Concat":
        known = [ranks[name] for name in reads if name in ranks]
        yield from ((name, known[0]) for name in reads if known)


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
