"""Shrink a failing model as long as it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import helper

__all__ = ["shrink"]

Test = Callable[[onnx.ModelProto], bool]


def shrink(model: onnx.ModelProto, fails: Test, attempts: int = 400) -> onnx.ModelProto:
    """Return the smallest failing model that was found.

    Args:
        model: A failing model.
        fails: Returns whether a model fails.
        attempts: The maximum number of tried models.
    """
    smaller = True
    while smaller and attempts > 0:
        smaller = False
        for candidate in _candidates(model):
            attempts -= 1
            if attempts <= 0:
                break
            if _weight(candidate) < _weight(model) and _fails(candidate, fails):
                model, smaller = candidate, True
                break
    return model


def _fails(model: onnx.ModelProto, fails: Test) -> bool:
    try:
        onnx.checker.check_model(model)
        return fails(model)
    except Exception:  # an invalid candidate does not count
        return False


def _weight(model: onnx.ModelProto) -> int:
    return len(model.SerializeToString())


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def _candidates(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield smaller models, those with the largest reduction first."""
    for index in range(len(model.graph.output)):
        if len(model.graph.output) > 1:
            other = _copy(model)
            del other.graph.output[index]
            yield _pruned(other)
    for index in reversed(range(len(model.graph.node))):
        yield from _cut_after(model, index)
    for index in range(len(model.graph.node)):
        yield from _cut_before(model, index)
    for index in range(len(model.graph.node)):
        yield from _bypassed(model, index)
    if model.graph.value_info:
        other = _copy(model)
        del other.graph.value_info[:]
        yield other
    for path in _bodies(model.graph):
        for index in range(len(_follow(model.graph, path).node)):
            yield from _bypassed(model, index, path)


def _cut_after(model: onnx.ModelProto, index: int) -> Iterator[onnx.ModelProto]:
    """Make a node's output the only graph output."""
    for value in _typed(model):
        if value.name in model.graph.node[index].output:
            other = _copy(model)
            del other.graph.output[:]
            other.graph.output.append(value)
            yield _pruned(other)


def _cut_before(model: onnx.ModelProto, index: int) -> Iterator[onnx.ModelProto]:
    """Make a node's output a graph input."""
    for value in _typed(model):
        if value.name in model.graph.node[index].output:
            other = _copy(model)
            node = other.graph.node[index]
            if len(node.output) > 1 or any(o.name == value.name for o in other.graph.output):
                continue
            del other.graph.node[index]
            other.graph.input.append(value)
            yield _pruned(other)


def _bypassed(
    model: onnx.ModelProto, index: int, path: tuple[tuple[int, int], ...] = ()
) -> Iterator[onnx.ModelProto]:
    """Replace a node's output by its input."""
    for slot in range(len(_follow(model.graph, path).node[index].input)):
        other = _copy(model)
        graph = _follow(other.graph, path)
        node = graph.node[index]
        if not node.input[slot] or len(node.output) != 1:
            continue
        source, target = node.input[slot], node.output[0]
        if any(value.name == target for value in graph.output):
            node.CopyFrom(helper.make_node("Identity", [source], [target], name=node.name))
        else:
            del graph.node[index]
            _renamed(graph, target, source)
        yield _pruned(other)


def _renamed(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _renamed(attribute.g, old, new)


def _bodies(graph: onnx.GraphProto) -> Iterator[tuple[tuple[int, int], ...]]:
    for i, node in enumerate(graph.node):
        for j, attribute in enumerate(node.attribute):
            if attribute.HasField("g"):
                yield ((i, j),)
                for rest in _bodies(attribute.g):
                    yield ((i, j), *rest)


def _follow(graph: onnx.GraphProto, path: tuple[tuple[int, int], ...]) -> onnx.GraphProto:
    for node, attribute in path:
        graph = graph.node[node].attribute[attribute].g
    return graph


def _typed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inferred types of the values between inputs and outputs."""
    return list(onnx.shape_inference.infer_shapes(model).graph.value_info)


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove everything that no output needs."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _reads(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    fields: list[Any] = [graph.initializer, graph.input, graph.value_info]
    for field in fields:
        rest = [entry for entry in field if entry.name in needed]
        del field[:]
        field.extend(rest)
    return model


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {value.name for value in attribute.g.output}
            for inner in attribute.g.node:
                found |= _reads(inner)
    return found
