"""Backward inference: ranks, channels and types that consumers require of a value.

Forward inference stops at ops that ONNX does not define, at loop states and at the inputs of
functions. A convolution that consumes such a value proves its rank, also through ops that preserve
the rank, as well as its channels and type: with any other the model would not run.

Requirements of nodes in a subgraph hold only within it, because it may not be executed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import onnx

from onnx_expand.graph.guards import HIDDEN
from onnx_expand.graph.ops import Trait, ops_with
from onnx_expand.graph.union_find import UnionFind

__all__ = ["prove_channels", "prove_ranks", "prove_types"]

_KEEPING, _BROADCASTING = ops_with(Trait.KEEPS_RANK), ops_with(Trait.BROADCASTS)
_DOMAINS = {"", HIDDEN}
_WEIGHTED = {"Conv", "ConvTranspose"}
_WINDOWED = {"AveragePool", "LpPool", "MaxPool"}
_NORMALIZING = {"BatchNormalization", "InstanceNormalization"}
_ARITHMETIC = {"Add", "Div", "Mul", "Sub"}
_PROVING = _WEIGHTED | _NORMALIZING | {"Gemm"}
_ONE_TYPE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Ops that preserve the rank but not the type.
_CONVERTING = {"Cast", "DequantizeLinear", "QuantizeLinear"}

_Extents = Callable[[str], Sequence[int | None]]


def prove_ranks(graph: onnx.GraphProto, known: Mapping[str, int]) -> dict[str, int]:
    """Infer the ranks of values that the nodes of their graph prove.

    Args:
        graph: The graph; its subgraphs are not examined.
        known: The known ranks, including those of values from outer graphs.

    Returns:
        The ranks of further values; empty if nodes contradict each other.
    """
    find = UnionFind[str]()
    for node in graph.node:
        for one, other in _alike(node, known):
            find.join(one, other)
    ranks: dict[str, int] = {}
    for node in graph.node:
        for name in (*node.input, *node.output):
            find(name)
    inside = set(find.members)
    found = [(name, rank) for name, rank in known.items() if name in inside]
    found += [pair for node in graph.node for pair in _demands(node, known)]
    mixed = [node for node in graph.node if _is(node, _BROADCASTING) and all(node.input)]
    for name, rank in found:
        if ranks.setdefault(find(name), rank) != rank:
            return {}
    before, backwards = -1, False
    while before < len(ranks):  # a pass down the graph, then a pass up
        before = len(ranks) if backwards else before
        for node in reversed(mixed) if backwards else mixed:
            for name, rank in _largest(node, find, ranks):
                if ranks.setdefault(find(name), rank) != rank:
                    return {}
        backwards = not backwards
    proved = {name: ranks[find(name)] for name in find.members if name and find(name) in ranks}
    return {name: rank for name, rank in proved.items() if name not in known}


def prove_channels(graph: onnx.GraphProto, known: _Extents) -> Iterator[tuple[str, int, int]]:
    """Infer extents that weights require of their inputs.

    Args:
        graph: The graph; the graphs within its nodes are not looked at.
        known: Returns the extents of a value, None for a dynamic one; empty if unknown.

    Yields:
        A value, an axis of it, and its extent.
    """
    for node in graph.node:
        reads = list(node.input)
        if _is(node, {"MatMul"}) and len(reads) > 1:
            yield from _multiplied(reads[0], reads[1], known)
        elif _is(node, {"Transpose"}) and (order := _ints(node, "perm", [])):
            pairs = zip(order, known(node.output[0]), strict=False)
            yield from ((reads[0], axis, size) for axis, size in pairs if size is not None)
        elif _is(node, _ARITHMETIC) and len(reads) > 1:
            yield from _stepped(reads[0], reads[1], known(node.output[0]), known)
            yield from _stepped(reads[1], reads[0], known(node.output[0]), known)
        weight = known(reads[1]) if len(reads) > 1 and node.op_type in _PROVING else []
        if not weight or None in weight[:2]:
            continue
        sizes = [size for size in weight[:2] if size is not None]
        if _is(node, {"Conv"}) and len(sizes) > 1:
            yield reads[0], 1, sizes[1] * _ints(node, "group", [1])[0]
        elif _is(node, {"ConvTranspose"}) or (
            _is(node, _NORMALIZING) and len(weight) == 1 and _ints(node, "spatial", [1]) == [1]
        ):
            yield reads[0], 1, sizes[0]
        elif _is(node, {"Gemm"}) and len(sizes) > 1:
            axis = 0 if _ints(node, "transA", [0])[0] else 1
            yield reads[0], axis, sizes[1 if _ints(node, "transB", [0])[0] else 0]


def _multiplied(left: str, right: str, known: _Extents) -> Iterator[tuple[str, int, int]]:
    """Yield the extents that each operand of a product requires of the other."""
    rows, columns = known(right), known(left)
    if rows and (size := rows[-2:][0]) is not None:
        yield left, -1, size
    if columns and (size := columns[-1]) is not None:
        yield right, -1 if len(rows) == 1 else -2, size


def _stepped(
    name: str, other: str, after: Sequence[int | None], known: _Extents
) -> Iterator[tuple[str, int, int]]:
    """Yield the extents of an operand that the result has, since the other one has 1 there."""
    own, beside = known(name), known(other)
    if None not in own:
        return
    for axis in range(-min(len(own), len(after)), 0):
        single = -axis > len(beside) or beside[axis] == 1
        if beside and single and own[axis] is None and (size := after[axis]) is not None:
            yield name, axis, size


def prove_types(graph: onnx.GraphProto, known: Mapping[str, int]) -> dict[str, int]:
    """Infer the types of values that are combined with values of known type, such as weights.

    Subgraphs are not examined; an unknown type is 0.
    """
    find = UnionFind[str]()
    for node in graph.node:
        for one, other in itertools.pairwise(_of_one_type(node)):
            find.join(one, other)
    types: dict[str, int] = {}
    for name in find.members:
        if known.get(name):
            types.setdefault(find(name), known[name])
    names = (name for name in find.members if not known.get(name))
    return {name: types[find(name)] for name in names if find(name) in types}


def _of_one_type(node: onnx.NodeProto) -> list[str]:
    """Yield inputs and outputs of a node that share one element type."""
    ends: list[str] = []
    if _is(node, _ONE_TYPE | _BROADCASTING - {"Pow", "Where"}):
        ends = [*node.input, *node.output]
    elif _is(node, _KEEPING - _CONVERTING):
        ends = [*node.input[:1], *node.output[:1]]
    return [name for name in ends if name]


def _is(node: onnx.NodeProto, ops: Container[str]) -> bool:
    return node.domain in _DOMAINS and node.op_type in ops


def _alike(node: onnx.NodeProto, known: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield pairs of inputs and outputs of a node with equal ranks."""
    ends: list[str] = []
    reduces = node.domain in _DOMAINS and node.op_type.startswith("Reduce")
    if _is(node, _KEEPING) or (reduces and _ints(node, "keepdims", [1]) == [1]):
        ends = [*node.input[:1], *node.output[:1]]
    elif _is(node, {"Concat"}):
        ends = [*node.input, *node.output]
    elif _is(node, {"Split"}):
        ends = [*node.input[:1], *node.output]
    elif _is(node, {"MatMul"}):  # product with a matrix
        ends = [name for name in node.input if known.get(name) != 2]
        ends = [*ends, *node.output] if len(ends) == 1 else []
    ends = [name for name in ends if name]
    yield from itertools.pairwise(ends)


def _demands(node: onnx.NodeProto, known: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the ranks that a node's op requires of its inputs."""
    reads = list(node.input)
    if _is(node, _WEIGHTED) and len(reads) > 1 and reads[1] in known:
        yield reads[0], known[reads[1]]
    elif _is(node, _WINDOWED) and (windows := _ints(node, "kernel_shape", [])):
        yield reads[0], len(windows) + 2
    elif _is(node, {"Transpose"}) and (order := _ints(node, "perm", [])):
        yield reads[0], len(order)
    elif _is(node, {"DepthToSpace", "SpaceToDepth"}):
        yield reads[0], 4
    elif _is(node, {"Gemm"}):
        yield from ((name, 2) for name in (*reads[:2], *node.output))


def _largest(
    node: onnx.NodeProto, find: Callable[[str], str], ranks: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    """Infer ranks from a broadcast, whose output has the largest rank of its inputs."""
    inputs, out = [find(name) for name in node.input], find(node.output[0])
    unknown = {name for name in inputs if name not in ranks}
    given = max((ranks[name] for name in inputs if name in ranks), default=0)
    if not unknown and out not in ranks:
        yield out, given
    elif len(unknown) == 1 and ranks.get(out, 0) > given:
        yield unknown.pop(), ranks[out]


def _ints(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    for attribute in node.attribute:
        if attribute.name == name:
            return list(attribute.ints) or [attribute.i]
    return default
