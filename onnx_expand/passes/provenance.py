"""The provenance of nodes: which source nodes each node of a folded model replaces.

A new node carries the metadata `onnx_expand.folded_from`, which netron and other viewers show: a
JSON list of the names of the nodes that it replaces. A list longer than `_LONGEST` characters is
truncated and ends with the number of nodes that it does not name, which bounds the growth of the
file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import onnx_ir as ir

from onnx_expand.documents import parse_json
from onnx_expand.errors import UsageError
from onnx_expand.graph.editing import label
from onnx_expand.graph.origins import Origin, take_origin, trace

__all__ = ["FOLDED_FROM", "begin", "finish", "folded_from"]

FOLDED_FROM = "onnx_expand.folded_from"
"""The metadata key of a node."""

_LONGEST = 400


def folded_from(node: ir.Node) -> tuple[tuple[str, ...], int] | None:
    """Return the nodes that a node was folded from: their names, and how many are not named.

    None if the metadata are missing or not in the format that fold writes.
    """
    text = node.metadata_props.get(FOLDED_FROM)
    if text is None:
        return None
    try:
        listed = parse_json(text)
    except (ValueError, UsageError):
        return None
    if not isinstance(listed, list) or not listed:
        return None
    unnamed = listed.pop() if type(listed[-1]) is int else 0
    if unnamed < 0 or not all(isinstance(name, str) for name in listed):
        return None
    return tuple(listed), unnamed


def begin(model: ir.Model) -> None:
    """Start tracking the origin of every node."""
    for node in _nodes(model):
        names, unnamed = folded_from(node) or ((label(node),), 0)
        trace(node, Origin(names, unnamed))


def finish(model: ir.Model, *, state: bool) -> None:
    """Stop tracking, and write the origin of new nodes into their metadata if `state` is set."""
    for node in _nodes(model):
        origin = take_origin(node)
        if origin is None or not origin.is_new:
            continue
        node.metadata_props.pop(FOLDED_FROM, None)
        if state and (origin.names != (label(node),) or origin.unnamed):
            node.metadata_props[FOLDED_FROM] = _text(origin)


def _text(origin: Origin) -> str:
    """Return the list as written, with as many names as fit."""
    room = _LONGEST - len("[, 999999999]")
    listed: list[str | int] = []
    for name in origin.names:
        room -= len(json.dumps(name)) + len(", ")
        if room < 0:
            break
        listed.append(name)
    unnamed = len(origin.names) - len(listed) + origin.unnamed
    return json.dumps([*listed, unnamed] if unnamed else listed)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield from graph.all_nodes()
