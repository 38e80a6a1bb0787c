"""Which nodes of the source a node stands for, kept beside it while a model is rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Origin", "inherit", "origin_of", "take_origin", "trace"]

_KEY = "onnx_expand.origin"


@dataclass(frozen=True)
class Origin:
    """What a node came from.

    Attributes:
        names: The names of nodes of the source, in order.
        unnamed: How many nodes there are besides.
        is_new: Whether the node took the place of others.
    """

    names: tuple[str, ...]
    unnamed: int = 0
    is_new: bool = False


def trace(node: ir.Node, origin: Origin) -> None:
    """Keep beside a node where it comes from; a file does not hold it."""
    node.meta[_KEY] = origin


def origin_of(node: ir.Node) -> Origin | None:
    """Where a node comes from; None where nobody keeps track, or no node of the source is it."""
    found = node.meta.get(_KEY)
    return found if isinstance(found, Origin) else None


def take_origin(node: ir.Node) -> Origin | None:
    """`origin_of`, which is forgotten then."""
    found = origin_of(node)
    node.meta.pop(_KEY, None)
    return found


def inherit(new: Sequence[ir.Node], old: Sequence[ir.Node], *, is_new: bool = True) -> None:
    """Let nodes come from where others came from whose place they take.

    Args:
        new: The nodes.
        old: The others.
        is_new: Whether the nodes are to be told from those of the source.
    """
    known = [origin for origin in map(origin_of, old) if origin is not None]
    if not known:
        return
    names = tuple(dict.fromkeys(name for origin in known for name in origin.names))
    is_new = is_new or any(origin.is_new for origin in known)
    origin = Origin(names, sum(origin.unnamed for origin in known), is_new)
    for node in new:
        trace(node, origin)
