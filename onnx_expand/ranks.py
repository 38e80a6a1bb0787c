"""Numbers of axes that follow backwards: from what the ops that read a value demand of it.

Inference goes with the nodes, and ends at ops that ONNX does not know, at the state of a loop and
at the inputs of a function. A convolution behind such a value proves how many axes it has, also
through ops that leave that number as it is: with any other the model does not run.

What the nodes of an inner graph demand is proved within it only: it may not be run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping

import onnx

from onnx_expand.hazards import HIDDEN
from onnx_expand.ops import Trait, ops_with

__all__ = ["prove_ranks"]

_KEEPING, _BROADCASTING = ops_with(Trait.KEEPS_RANK), ops_with(Trait.BROADCASTS)
_DOMAINS = {"", HIDDEN}
_WEIGHTED = {"Conv", "ConvTranspose"}
_WINDOWED = {"AveragePool", "LpPool", "MaxPool"}


def prove_ranks(graph: onnx.GraphProto, known: Mapping[str, int]) -> dict[str, int]:
    """The ranks of values of a graph that its nodes prove.

    Args:
        graph: The graph; the graphs within its nodes are not looked at.
        known: Ranks that are known, those of values from outside included.

    Returns:
        The ranks of further values; none where nodes contradict each other.
    """
    classes: dict[str, str] = {}

    def find(name: str) -> str:
        while classes.setdefault(name, name) != name:
            classes[name] = name = classes[classes[name]]
        return name

    for node in graph.node:
        for one, other in _alike(node):
            classes[find(one)] = find(other)
    ranks: dict[str, int] = {}
    for node in graph.node:
        for name in (*node.input, *node.output):
            find(name)
    found = [(name, rank) for name, rank in known.items() if name in classes]
    found += [pair for node in graph.node for pair in _demands(node, known)]
    mixed = [node for node in graph.node if _is(node, _BROADCASTING) and all(node.input)]
    while found:
        for name, rank in found:
            if ranks.setdefault(find(name), rank) != rank:
                return {}
        found = [pair for node in mixed for pair in _largest(node, find, ranks)]
    classes.pop("", None)
    proved = {name: ranks[find(name)] for name in list(classes) if find(name) in ranks}
    return {name: rank for name, rank in proved.items() if name not in known}


def _is(node: onnx.NodeProto, ops: Container[str]) -> bool:
    return node.domain in _DOMAINS and node.op_type in ops


def _alike(node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Pairs of values around a node that have as many axes."""
    ends: list[str] = []
    reduces = node.domain in _DOMAINS and node.op_type.startswith("Reduce")
    if _is(node, _KEEPING) or (reduces and _ints(node, "keepdims", [1]) == [1]):
        ends = [*node.input[:1], *node.output[:1]]
    elif _is(node, {"Concat"}):
        ends = [*node.input, *node.output]
    elif _is(node, {"Split"}):
        ends = [*node.input[:1], *node.output]
    ends = [name for name in ends if name]
    yield from itertools.pairwise(ends)


def _demands(node: onnx.NodeProto, known: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The ranks that a node's op demands of what it reads."""
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
    """What a broadcast proves: the output has the largest rank of the inputs."""
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
