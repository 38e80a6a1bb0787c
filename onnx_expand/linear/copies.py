"""Weights that a model stores in two versions, since the one that was there has other readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnx_expand.linear.terms import Map

__all__ = ["Copy", "copies_of"]


@dataclass(frozen=True)
class Copy:
    """A new constant beside a weight that it was made from.

    Attributes:
        weight: The weight that stays, since something else reads it.
        result: The new constant.
        stored: Its bytes, by which the model grew.
    """

    weight: str
    result: str
    stored: int

    def as_dict(self) -> dict[str, Any]:
        """The copy as plain JSON types."""
        return {"weight": self.weight, "result": self.result, "bytes": self.stored}


def copies_of(written: Iterable[tuple[Map, Sequence[ir.Node]]]) -> Iterator[Copy]:
    """The copies among what was written, each once.

    Args:
        written: Maps, each with the nodes that compute it, once these are in place and those that
            they replace are gone.
    """
    seen: set[ir.Value] = set()
    for term, nodes in written:
        own = {v for link in term.links for v in (link.weight, link.bias) if v is not None}
        weights = [link.weight for link in term.links if link.weight is not None]
        stay = [weight for weight in weights if _is_stored(weight)]
        read = {v for node in nodes for v in node.inputs if v is not None}
        new = [v for v in read - own - seen if v.producer() is None and v.const_value is not None]
        if not stay or not new:
            continue
        largest = max(new, key=lambda value: (_bytes(value), value.name or ""))
        weight = max(stay, key=_bytes)
        seen.add(largest)
        yield Copy(weight.name or "", largest.name or "", _bytes(largest))


def _is_stored(value: ir.Value) -> bool:
    """Whether the model has a constant still: an initializer, or what a node computes."""
    producer = value.producer()
    if producer is not None:
        return producer.graph is not None and bool(value.uses() or value.is_graph_output())
    graph = value.graph
    return graph is not None and graph.initializers.get(value.name or "") is value


def _bytes(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes
