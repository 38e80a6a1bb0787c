"""Weights that a model stores in two versions, since the original has other consumers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnx_expand.graph.stored import stated_constant
from onnx_expand.graph.upstream import upstream
from onnx_expand.linear.terms.base import Map

__all__ = ["Copy", "WrittenMap", "copies_of"]


@dataclass(frozen=True)
class Copy:
    """A new constant beside a weight that it was computed from.

    Attributes:
        weight: The weight that stays for other consumers.
        result: The new constant.
        stored: Its size in bytes, by which the model grew.
    """

    weight: str
    result: str
    stored: int

    def as_dict(self) -> dict[str, Any]:
        """The copy as plain JSON types."""
        return {"weight": self.weight, "result": self.result, "bytes": self.stored}


@dataclass(frozen=True)
class WrittenMap:
    """Nodes that compute a map, and the initializers that its weights come from.

    Attributes:
        nodes: The nodes.
        sources: The initializers, each with the constant that the nodes read or compute from it.
    """

    nodes: tuple[ir.Node, ...]
    sources: frozenset[ir.Value]

    @classmethod
    def of(cls, term: Map, nodes: Sequence[ir.Node]) -> WrittenMap:
        """Record the sources of weights before the nodes that compute them may be removed."""
        weights = [link.weight for link in term.links if link.weight is not None]
        return cls(tuple(nodes), frozenset(_sources(weights)))


def _sources(values: Sequence[ir.Value]) -> Iterator[ir.Value]:
    """Yield the stored constants that values are computed from."""

    def read(node: ir.Node) -> Sequence[ir.Value | None]:
        return () if node.op_type in {"Shape", "Size"} else node.inputs

    for value in upstream(*values, through=read):
        producer = value.producer()
        if producer is None or producer.op_type == "Constant":
            yield value


def copies_of(written: Iterable[WrittenMap]) -> Iterator[Copy]:
    """Yield the copies among written maps, each once.

    The maps were inserted, and the replaced nodes removed.
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
    """Return whether the model still has a constant, as an initializer or a Constant node."""
    producer = value.producer()
    if producer is not None:
        return producer.graph is not None and bool(value.uses() or value.is_graph_output())
    graph = value.graph
    return graph is not None and graph.initializers.get(value.name or "") is value


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    return value.const_value if value.producer() is None else stated_constant(value)


def _elements(value: ir.Value) -> int:
    tensor = _tensor(value)
    return 0 if tensor is None else tensor.size


def _bytes(value: ir.Value) -> int:
    tensor = _tensor(value)
    return 0 if tensor is None else tensor.nbytes
