"""What ONNX's shape inference must not see, since it would end the process.

A Slice of an axis of negative extent, which convolutions and pads of models that could not run
lead to, and one of an empty axis in steps backwards, which is valid, fail an assertion of its C++
library: a Slice is hidden until the extents that it cuts are known not to be of that kind. And a
list of numbers that says a shape gives that shape as many axes as it is long: where a model claims
that it is longer than any, the memory ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

import onnx

from onnx_expand.graph.ops import Trait, op_of, ops_with

__all__ = ["HIDDEN", "Slices", "defuse", "is_endless"]

HIDDEN = "onnx_expand.hidden"
"""The domain of nodes that inference must not see."""

_LONGEST = 1 << 16  # no shape has more axes
_ENDLESS = 1 << 28  # as axes of a shape these take gigabytes; as a list of numbers they are rare
_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}


_STEPS = 8
_GROWING = ops_with(Trait.GROWS)
_RESHAPING = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}
_WINDOWED = {"AveragePool", "Conv", "MaxPool"}


class Slices:
    """The hidden Slices of a proto that inference is run on.

    Args:
        model: The proto; its Slices are hidden here, and shown by `show`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._unsure: list[onnx.NodeProto] = []
        own = list(_slices(model.graph.node))
        # Those of inner graphs and functions stay hidden: what they cut is not known beforehand.
        inner = list(_slices(_inner(model.graph.node)))
        for function in model.functions:
            found = [*_slices(function.node), *_slices(_inner(function.node))]
            if found:
                function.opset_import.add(domain=HIDDEN, version=1)
            inner += found
        for node in (*own, *inner):
            node.domain = HIDDEN
        if own or inner:
            model.opset_import.add(domain=HIDDEN, version=1)
        self._constants = {t.name: t for t in model.graph.initializer}
        self._constants |= {
            node.output[0]: _tensor_of(node.attribute[0])
            for node in model.graph.node
            if node.op_type == "Constant" and node.output and len(node.attribute) == 1
        }
        # Values that hold the numbers of another one.
        self._shaped = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type in _RESHAPING and node.input and node.output
        }

    def show(self, inferred: onnx.GraphProto) -> bool:
        """Show the Slices that are harmless by what was inferred so far; whether there are any."""
        shown = 0
        wanted = {node.input[0] for node in self._graph.node if _is_hidden(node) and node.input}
        if not wanted:
            return False
        extents = _extents(inferred, wanted)
        # Values of which the next inference knows more: that may be anything, or nothing negative.
        open_, fresh = set[str](), set[str]()
        for node in self._graph.node:
            reads, hidden = set(node.input), _is_hidden(node)
            if hidden and self._may_show(node, extents, open_, fresh):
                node.domain = ""
                shown += 1
                if None in extents.get(node.input[0] if node.input else "", [None]):
                    self._unsure.append(node)
                fresh.update(node.output)
            elif reads & open_ or (hidden and reads & fresh):
                open_.update(node.output)
            elif reads & fresh:
                (fresh if self._is_safe(node) else open_).update(node.output)
        return shown > 0

    def hide(self) -> None:
        """Hide those that cut extents which were not known: they may be, the next time."""
        for node in self._unsure:
            node.domain = HIDDEN
        self._unsure.clear()

    def _may_show(
        self,
        node: onnx.NodeProto,
        extents: dict[str, list[int | None]],
        open_: set[str],
        fresh: set[str],
    ) -> bool:
        data = node.input[0] if node.input else ""
        if data in open_:
            return False
        forwards = len(node.input) < 5 or self._is_positive(node.input[4])
        if data in fresh:
            return forwards
        known = [extent for extent in extents.get(data, ()) if extent is not None]
        return all(extent > 0 or (extent == 0 and forwards) for extent in known)

    def _is_safe(self, node: onnx.NodeProto) -> bool:
        """Whether a node's outputs have no negative extents where its inputs have none."""
        if node.domain:
            return False
        return Trait.SOUND in op_of(node).traits or (
            node.op_type in _WINDOWED and self._is_padded(node)
        )

    def _is_padded(self, node: onnx.NodeProto) -> bool:
        """Whether windows fit in whatever they slide over.

        There are (extent + pads - reach) // stride + 1 of them: none at the least, and never
        fewer, where the pads and one stride together hold the reach of a window.
        """
        given = {attribute.name: attribute for attribute in node.attribute}
        if "auto_pad" in given and given["auto_pad"].s not in {b"", b"NOTSET"}:
            return given["auto_pad"].s.startswith(b"SAME")
        kernel = list(given["kernel_shape"].ints) if "kernel_shape" in given else []
        if not kernel and len(node.input) > 1 and node.input[1] in self._constants:
            kernel = list(self._constants[node.input[1]].dims)[2:]
        rank = len(kernel)
        pads = list(given["pads"].ints) if "pads" in given else [0] * (2 * rank)
        strides, steps = (
            list(given[name].ints) if name in given else [1] * rank
            for name in ("strides", "dilations")
        )
        if not rank or (len(pads), len(strides), len(steps)) != (2 * rank, rank, rank):
            return False
        return all(
            pads[axis] + pads[axis + rank] + strides[axis] > steps[axis] * (kernel[axis] - 1) >= 0
            for axis in range(rank)
        )

    def _is_positive(self, name: str) -> bool:
        """Whether a value holds positive numbers, as far as is known."""
        if not name:
            return True
        for _ in range(_STEPS):
            name = self._shaped.get(name, name)
        tensor = self._constants.get(name)
        return tensor is not None and bool((onnx.numpy_helper.to_array(tensor) > 0).all())


def is_endless(model: onnx.ModelProto) -> bool:
    """Whether a model claims or makes a list that, as a shape, would take all memory.

    onnxruntime infers shapes as ONNX does, and nothing can be hidden from it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return defuse(copy, _ENDLESS)


def defuse(model: onnx.ModelProto, longest: int = _LONGEST) -> bool:
    """Take from a model that inference is run on what claims or makes lists without end.

    Args:
        model: The model.
        longest: How long a list of integers may be.

    Returns:
        Whether there was any.
    """
    nodes = [*model.graph.node, *_inner(model.graph.node)]
    for function in model.functions:
        nodes += [*function.node, *_inner(function.node)]
    graphs = [model.graph, *_inner_graphs(nodes)]
    found = False
    for graph in graphs:
        for info in (*graph.input, *graph.value_info, *graph.output):
            kind = info.type.tensor_type
            is_long = any(dim.dim_value > longest for dim in kind.shape.dim)
            if is_long and kind.elem_type in _INTEGERS and len(kind.shape.dim) == 1:
                kind.ClearField("shape")
                found = True
    constants = {t.name: t for graph in graphs for t in graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.output and len(node.attribute) == 1:
            constants[node.output[0]] = _tensor_of(node.attribute[0])
    long = {name for name, tensor in constants.items() if _says_long(tensor, longest)}
    makers = [n for n in nodes if n.op_type in _GROWING and long & set(n.input)]
    makers += [n for n in nodes if n.op_type == "Split" and _splits_otherwise(n)]
    for node in makers:
        node.domain = HIDDEN
    if makers:
        model.opset_import.add(domain=HIDDEN, version=1)
        for function in model.functions:
            function.opset_import.add(domain=HIDDEN, version=1)
    return found or bool(makers)


def _splits_otherwise(node: onnx.NodeProto) -> bool:
    """Whether a Split says that it makes another number of parts than it has outputs."""
    told = (a.i for a in node.attribute if a.name == "num_outputs")
    return any(count != len(node.output) for count in told)


def _tensor_of(attribute: onnx.AttributeProto) -> onnx.TensorProto:
    """What a Constant node holds, where that is integers."""
    if attribute.name in {"value_int", "value_ints"}:
        values = list(attribute.ints) or [attribute.i]
        return onnx.TensorProto(data_type=7, dims=[len(values)], int64_data=values)
    return attribute.t


def _says_long(tensor: onnx.TensorProto, longest: int) -> bool:
    """Whether a tensor is a number that is the length of a list without end."""
    if tensor.data_type not in _INTEGERS or list(tensor.dims) not in ([], [1]):
        return False
    try:
        return bool(onnx.numpy_helper.to_array(tensor).reshape(-1)[0] > longest)
    except (ValueError, IndexError, TypeError):
        return True  # who knows


def _inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (g for g in (attribute.g, *attribute.graphs) if g.node)


def _extents(graph: onnx.GraphProto, names: Set[str]) -> dict[str, list[int | None]]:
    """The extents of those values that have a known rank, None for one that is not static."""
    found: dict[str, list[int | None]] = {
        t.name: list(t.dims) for t in graph.initializer if t.name in names
    }
    for info in (*graph.input, *graph.value_info, *graph.output):
        if info.name not in names:
            continue
        shape = info.type.tensor_type.shape
        if info.type.tensor_type.HasField("shape"):
            found[info.name] = [
                d.dim_value if d.HasField("dim_value") else None for d in shape.dim
            ]
    return found


def _is_hidden(node: onnx.NodeProto) -> bool:
    return node.domain == HIDDEN and node.op_type == "Slice"


def _slices(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    return (node for node in nodes if node.op_type == "Slice" and node.domain in {"", "ai.onnx"})


def _inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes of the graphs within nodes."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.node
                yield from _inner(graph.node)
