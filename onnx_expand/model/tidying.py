"""Repair models that runtimes accept although they break ONNX's rules.

Identical duplicates of initializers and metadata entries are removed, as are empty names after the
last output of a node, and nodes are sorted topologically. Contradictory entries stay as they are
and are refused later.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import onnx

from onnx_expand.model.outline import graphs

__all__ = ["tidy"]


def tidy(model: onnx.ModelProto) -> None:
    """Remove duplicates from a proto and sort its nodes, in place."""
    _drop_repeats(model.metadata_props, "key")
    for graph in graphs(model):
        _drop_repeats(graph.initializer, "name")
    for nodes in (*(graph.node for graph in graphs(model)), *(f.node for f in model.functions)):
        for node in nodes:
            while len(node.output) > 1 and not node.output[-1]:
                del node.output[-1]  # the same as an output that is not listed, as onnx-ir has it
    _sort(model.graph)


def _drop_repeats(entries: Any, key: str) -> None:
    first: dict[str, Any] = {}
    repeats = []
    for index, entry in enumerate(entries):
        if first.setdefault(getattr(entry, key), entry) is entry:
            continue
        if entry == first[getattr(entry, key)]:
            repeats.append(index)
    for index in reversed(repeats):
        del entries[index]


def _sort(graph: onnx.GraphProto) -> None:
    """Sort nodes topologically if they are not yet sorted."""
    made = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    reads = [{made[n] for n in _read(node) if n in made} for node in graph.node]
    if all(max(before, default=-1) < index for index, before in enumerate(reads)):
        return
    readers: list[list[int]] = [[] for _ in reads]
    for index, before in enumerate(reads):
        for other in before:
            readers[other].append(index)
    missing = [len(before) for before in reads]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) == len(reads):  # otherwise the graph has a cycle
        copies = onnx.GraphProto(node=[graph.node[index] for index in order])
        del graph.node[:]
        graph.node.extend(copies.node)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node and its subgraphs read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (info.name for info in graph.output)
            for inner in graph.node:
                yield from _read(inner)
