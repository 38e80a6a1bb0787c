"""Weights that a model stores in two versions, since the one that was there has other readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnx_expand.graph.stored import stated_constant
from onnx_expand.graph.upstream import upstream
from onnx_expand.linear.terms import Map

__all__ = ["Copy", "Made", "copies_of"]


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


@dataclass(frozen=True)
class Made:
    """Nodes that compute a map, and the initializers that its weights come from.

    Attributes:
        nodes: The nodes.
        sources: The initializers, each with what is read of it, or made of it.
    """

    nodes: tuple[ir.Node, ...]
    sources: frozenset[ir.Value]

    @classmethod
    def of(cls, term: Map, nodes: Sequence[ir.Node]) -> Made:
        """What is to be known later, when the nodes that compute weights may be gone."""
        weights = [link.weight for link in term.links if link.weight is not None]
        return cls(tuple(nodes), frozenset(_sources(weights)))


def _sources(values: Sequence[ir.Value]) -> Iterator[ir.Value]:
    """The stored constants that some are computed from."""

    def read(node: ir.Node) -> Sequence[ir.Value | None]:
        return () if node.op_type in {"Shape", "Size"} else node.inputs

    for value in upstream(*values, through=read):
        producer = value.producer()
        if producer is None or producer.op_type == "Constant":
            yield value


def copies_of(written: Iterable[Made]) -> Iterator[Copy]:
    """The copies among what was written, each once.

    Args:
        written: What was made, once it is in place and what it replaces is gone.
    """
    seen: set[ir.Value] = set()
    for made in written:
        read = {v for node in made.nodes for v in node.inputs if v is not None}
        stay = [v for v in made.sources - read if _is_stored(v)]
        new = [v for v in read - made.sources - seen if v.producer() is None and _bytes(v)]
        if not stay or not new:
            continue
        weight = max(stay, key=lambda value: (_bytes(value), value.name or ""))
        result = max(new, key=lambda value: (_bytes(value), value.name or ""))
        if weight.name and _elements(weight) * 2 >= _elements(result):
            seen.add(result)
            yield Copy(weight.name, result.name or "", _bytes(result))


def _is_stored(value: ir.Value) -> bool:
    """Whether the model has a constant still: an initializer, or what a Constant node holds."""
    producer = value.producer()
    if producer is not None:
        return producer.graph is not None and bool(value.uses() or value.is_graph_output())
    graph = value.graph
    return graph is not None and graph.initializers.get(value.name or "") is value


def _elements(value: ir.Value) -> int:
    tensor = value.const_value if value.producer() is None else stated_constant(value)
    return 0 if tensor is None else tensor.size


def _bytes(value: ir.Value) -> int:
    tensor = value.const_value if value.producer() is None else stated_constant(value)
    return 0 if tensor is None else tensor.nbytes
