"""Hide nodes and constants that would crash ONNX's shape inference.

Two kinds of Slice fail an assertion of its C++ library: one of an axis of negative extent, which
convolutions and pads of invalid models can infer, and one of an empty axis with a negative step,
which is valid. A Slice is hidden until the extents that it slices are known to be neither. A list
of integers used as a shape determines its rank: a claimed length without bound exhausts the
memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

import onnx

from onnx_expand.graph.ops import Trait, op_of, ops_with

__all__ = ["HIDDEN", "Slices", "defuse", "is_endless"]

HIDDEN = "onnx_expand.hidden"
"""The domain of nodes that inference must not see."""

_LONGEST = 1 << 16  # the largest rank of a useful shape
_ENDLESS = 1 << 28  # a shape of this rank takes gigabytes, and longer lists of integers are rare
_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}


_STEPS = 8
_GROWING = ops_with(Trait.GROWS)
_RESHAPING = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}
_WINDOWED = {"AveragePool", "Conv", "MaxPool"}


class Slices:
    """The hidden Slices of a proto that inference is run on.

    Args:
        model: The proto; its Slices are hidden, until `show` restores them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._unsure: list[onnx.NodeProto] = []
        own = list(_slices(model.graph.node))
        # Slices of subgraphs and functions stay hidden: the extents that they slice are not known.
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
        # Values with the elements of another value.
        self._shaped = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type in _RESHAPING and node.input and node.output
        }

    def show(self, inferred: onnx.GraphProto) -> bool:
        """Restore Slices that inferred extents prove harmless; return whether there are any."""
        shown = 0
        wanted = {node.input[0] for node in self._graph.node if _is_hidden(node) and node.input}
        if not wanted:
            return False
        extents = _extents(inferred, wanted)
        # Values whose extents the next inference may refine: to anything, or to nothing negative.
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
        """Hide Slices of unknown extents again, which the next inference may determine."""
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
        """Return whether a node's outputs have no negative extents if its inputs have none."""
        if node.domain:
            return False
        return Trait.SOUND in op_of(node).traits or (
            node.op_type in _WINDOWED and self._is_padded(node)
        )

    def _is_padded(self, node: onnx.NodeProto) -> bool:
        """Return whether windows fit inputs of any extent.

        Their number is (extent + pads - reach) // stride + 1, which is never negative if pads and
        one stride together cover the reach of a window.
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
        """Return whether all elements of a value are known to be positive."""
        if not name:
            return True
        for _ in range(_STEPS):
            name = self._shaped.get(name, name)
        tensor = self._constants.get(name)
        return tensor is not None and bool((onnx.numpy_helper.to_array(tensor) > 0).all())


def is_endless(model: onnx.ModelProto) -> bool:
    """Return whether a list of integers, used as a shape, would exhaust the memory.

    onnxruntime runs the same inference, and nodes cannot be hidden from it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return defuse(copy, _ENDLESS)


def defuse(model: onnx.ModelProto, longest: int = _LONGEST) -> bool:
    """Remove claims and nodes of excessively long lists before inference runs on a model.

    A list of integers may have up to `longest` elements.

    Returns:
        Whether there were any.
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
    """Return whether the number of parts that a Split declares differs from its outputs."""
    told = (a.i for a in node.attribute if a.name == "num_outputs")
    return any(count != len(node.output) for count in told)


def _tensor_of(attribute: onnx.AttributeProto) -> onnx.TensorProto:
    """Return the tensor of a Constant node of integers."""
    if attribute.name in {"value_int", "value_ints"}:
        values = list(attribute.ints) or [attribute.i]
        return onnx.TensorProto(data_type=7, dims=[len(values)], int64_data=values)
    return attribute.t


def _says_long(tensor: onnx.TensorProto, longest: int) -> bool:
    """Return whether a tensor specifies an excessive length of a list."""
    if tensor.data_type not in _INTEGERS or list(tensor.dims) not in ([], [1]):
        return False
    try:
        return bool(onnx.numpy_helper.to_array(tensor).reshape(-1)[0] > longest)
    except (ValueError, IndexError, TypeError):
        return True  # unknown, so assume that it does


def _inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (g for g in (attribute.g, *attribute.graphs) if g.node)


def _extents(graph: onnx.GraphProto, names: Set[str]) -> dict[str, list[int | None]]:
    """Map values of known rank to their extents, None for an extent that is not static."""
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
    """Yield the nodes of the subgraphs of nodes."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.node
                yield from _inner(graph.node)
