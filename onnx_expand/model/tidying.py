"""What runtimes take although ONNX's rules forbid it, and what means nothing: put in order.

A weight or an entry that is there twice, word for word, is there once; nodes go behind those that
they read. Whatever contradicts itself stays as it is, to be refused.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import onnx

from onnx_expand.model.outline import graphs

__all__ = ["tidy"]


def tidy(model: onnx.ModelProto) -> None:
    """Put a proto in order, in place."""
    _drop_repeats(model.metadata_props, "key")
    for graph in graphs(model):
        _drop_repeats(graph.initializer, "name")
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
    """Put nodes behind those that they read, and leave them in place where they are already."""
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
    if len(order) == len(reads):  # else they go in a circle
        copies = onnx.GraphProto(node=[graph.node[index] for index in order])
        del graph.node[:]
        graph.node.extend(copies.node)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, and the graphs within it."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (info.name for info in graph.output)
            for inner in graph.node:
                yield from _read(inner)
