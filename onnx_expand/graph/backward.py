"""Write the types that nodes require of their inputs into a graph, for forward inference."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnx_expand.graph.claims import MADE_UP, describe
from onnx_expand.graph.ranks import prove_channels, prove_ranks, prove_types

__all__ = ["declare_proved", "declared_types", "types_of"]

_Tensor = onnx.TypeProto.Tensor


def declare_proved(
    graph: onnx.GraphProto,
    inferred: onnx.GraphProto,
    types: Mapping[str, _Tensor],
    ranks: Mapping[str, int],
) -> bool:
    """Add the ranks, channels and types that nodes prove to their graph.

    Args:
        graph: The graph.
        inferred: The graph after forward inference.
        types: The known types of its values.
        ranks: The known ranks, also of values from outer graphs.

    Returns:
        Whether any of them was unknown before.
    """
    proof = _Proof(graph, types)
    proof.add_types(inferred)
    proof.add_ranks(inferred, ranks)
    proof.add_channels(inferred)
    found = proof.found()
    describe(graph, {name: onnx.TypeProto(tensor_type=kind) for name, kind in found.items()})
    return bool(found)


class _Proof:
    """The types of a graph's own values, extended by those that its nodes prove."""

    def __init__(self, graph: onnx.GraphProto, types: Mapping[str, _Tensor]) -> None:
        self._types = types
        self._made = {name for node in graph.node for name in node.output}
        self._own = self._made | {info.name for info in graph.input}
        self._new: dict[str, _Tensor] = {}

    def _of(self, name: str) -> _Tensor | None:
        """Return the type of a value to extend; None for a value of an outer graph."""
        if name not in self._own:
            return None
        if name not in self._new:
            self._new[name] = _Tensor()
            self._new[name].CopyFrom(self._types.get(name, _Tensor()))
        return self._new[name]

    def add_types(self, inferred: onnx.GraphProto) -> None:
        known = {name: kind.elem_type for name, kind in self._types.items()}
        if all(known.get(name) for name in (*known, *self._made) if name):
            return
        for name, dtype in prove_types(inferred, known).items():
            kind = self._of(name)
            if kind is not None and not kind.elem_type:
                kind.elem_type = dtype

    def add_ranks(self, inferred: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
        if all(name in ranks for name in (*self._types, *self._made) if name):
            return
        for name, rank in prove_ranks(inferred, ranks).items():
            kind = self._of(name)
            if kind is not None and not kind.HasField("shape"):
                kind.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(rank))

    def add_channels(self, inferred: onnx.GraphProto) -> None:
        for name, axis, size in prove_channels(inferred, self._extents):
            known = self._types.get(name) if name not in self._new else self._new[name]
            rank = 0 if known is None else len(known.shape.dim)
            if known is None or not -rank <= axis < rank:
                continue
            if not known.shape.dim[axis].HasField("dim_value") and (kind := self._of(name)):
                kind.shape.dim[axis].dim_value = size

    def _extents(self, name: str) -> list[int | None]:
        """Return the extents of a value as inferred, None for dynamic ones; empty if unknown."""
        kind = self._types.get(name)
        if kind is None:
            return []
        return [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]

    def found(self) -> dict[str, _Tensor]:
        """Return the new types, without the dimension names that inference invented."""
        found = {
            name: kind
            for name, kind in self._new.items()
            if kind.elem_type and kind != self._types.get(name)
        }
        for kind in found.values():
            for dim in kind.shape.dim:
                if dim.dim_param.startswith(MADE_UP):
                    dim.ClearField("dim_param")
        return found


def declared_types(graph: onnx.GraphProto) -> dict[str, _Tensor]:
    """Return the types that a graph declares for its values."""
    infos = (*graph.input, *graph.value_info, *graph.output)
    types: dict[str, _Tensor] = {}
    for info in infos:  # a value that is input and output may declare its shape only once
        if info.name not in types or info.type.tensor_type.HasField("shape"):
            types[info.name] = info.type.tensor_type
    return types


def types_of(graph: onnx.GraphProto) -> dict[str, _Tensor]:
    """Return the types that a graph declares for its values, and those of its weights."""
    types = declared_types(graph)
    made: dict[tuple[int, ...], _Tensor] = {}
    for tensor in graph.initializer:
        key = (tensor.data_type, *tensor.dims)
        if key not in made:
            made[key] = onnx.helper.make_tensor_type_proto(key[0], key[1:]).tensor_type
        types.setdefault(tensor.name, made[key])
    return types
