"""Track the source nodes that each node derives from while a model is rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Origin", "inherit", "origin_of", "take_origin", "trace"]

_KEY = "onnx_expand.origin"


@dataclass(frozen=True)
class Origin:
    """The source nodes that a node derives from.

    Attributes:
        names: The names of the source nodes, in order.
        unnamed: The number of source nodes without a name.
        is_new: Whether the node replaced others.
    """

    names: tuple[str, ...]
    unnamed: int = 0
    is_new: bool = False


def trace(node: ir.Node, origin: Origin) -> None:
    """Record a node's origin in its `meta`, which is not saved in files."""
    node.meta[_KEY] = origin


def origin_of(node: ir.Node) -> Origin | None:
    """Return a node's origin; None if origins are not tracked or it has no source node."""
    found = node.meta.get(_KEY)
    return found if isinstance(found, Origin) else None


def take_origin(node: ir.Node) -> Origin | None:
    """Return a node's origin and delete the record."""
    found = origin_of(node)
    node.meta.pop(_KEY, None)
    return found


def inherit(new: Sequence[ir.Node], old: Sequence[ir.Node], *, is_new: bool = True) -> None:
    """Give nodes the combined origins of the nodes that they replace.

    Args:
        new: The new nodes.
        old: The nodes that they replace.
        is_new: Whether the nodes are marked as not being nodes of the source.
    """
    known = [origin for origin in map(origin_of, old) if origin is not None]
    if not known:
        return
    names = tuple(dict.fromkeys(name for origin in known for name in origin.names))
    is_new = is_new or any(origin.is_new for origin in known)
    origin = Origin(names, sum(origin.unnamed for origin in known), is_new)
    for node in new:
        trace(node, origin)
