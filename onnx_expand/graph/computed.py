"""Evaluate constants, and follow symbolic extents through nodes that move or combine them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.budget import Budget
from onnx_expand.graph.constants import evaluate
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.graph.products import combined, differ
from onnx_expand.graph.stored import stated_constant
from onnx_expand.graph.tensors import read_tensor

__all__ = ["Computed"]

# Numbers up to this one represent extents that are not static.
_UNKNOWN = -(1 << 62)
_ELEMENTWISE = {"Add", "Div", "Equal", "Max", "Min", "Mod", "Mul", "Neg", "Sub", "Where"}
_FEW = 16  # no tensor has more axes


class Computed:
    """Evaluates nodes, each once.

    Args:
        opset: The version of the default domain.
        budget: The budget for evaluation.
        extents: Returns the extents of a value, with an identifier for each dynamic extent.
        dtype: Returns the type of a value.
    """

    def __init__(
        self,
        opset: int,
        budget: Budget,
        extents: Callable[[ir.Value | None], tuple[Hashable, ...] | None],
        dtype: Callable[[ir.Value], ir.DataType | None],
    ) -> None:
        self._opset, self._budget = opset, budget
        self._extents, self._dtype = extents, dtype
        self._known: dict[ir.Value, ir.TensorProtocol | None] = {}
        self._partial: dict[ir.Value, npt.NDArray[Any]] = {}
        self._unknowns: dict[Hashable, int] = {}
        self._marked: dict[int, Hashable] = {}

    def retry(self) -> None:
        """Forget which values are not constant, since more shapes are known now."""
        self._known = {v: tensor for v, tensor in self._known.items() if tensor is not None}
        self._partial.clear()

    def has_extents(self, value: ir.Value) -> bool:
        """Return whether some elements of a value are extents that are not static."""
        return value in self._partial

    def extents_in(self, value: ir.Value) -> tuple[Hashable, ...] | None:
        """Return the elements of a tensor of extents; None if they are not known."""
        constant = self._constant(value)
        array = self._partial.get(value) if constant is None else constant
        if array is None or array.ndim != 1 or array.dtype.kind not in "iu":
            return None
        return tuple(self._marked.get(int(number), int(number)) for number in array)

    def constant(self, value: ir.Value) -> ir.TensorProtocol | None:
        """Return the tensor of a constant that callers cannot override; else None."""
        if value.is_graph_input():
            return None
        if value.is_initializer() and value.const_value is not None:
            return value.const_value
        return self._computed(value)

    def _constant(self, value: ir.Value) -> npt.NDArray[Any] | None:
        tensor = self.constant(value)
        return None if tensor is None else read_tensor(tensor)

    def _computed(self, value: ir.Value) -> ir.TensorProtocol | None:
        """Return the tensor that nodes compute from constants; None for other values."""
        pending = [value]
        while pending:
            current = pending[-1]
            missing = self._missing(current)
            if missing:
                pending += missing
                continue
            if current not in self._known:
                self._evaluate(current)
            pending.pop()
        return self._known[value]

    def _missing(self, value: ir.Value) -> list[ir.Value]:
        """Return the inputs of a value's node that must be evaluated first."""
        node = value.producer()
        if value in self._known or node is None or not _is_pure(node):
            return []
        if node.op_type in {"Shape", "Size"}:
            return []
        inputs = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        return [
            v
            for v in inputs
            if v is not None and v not in self._known and v.producer() is not None
        ]

    def _evaluate(self, value: ir.Value) -> None:
        self._known[value] = None
        node = value.producer()
        if node is None or value.is_graph_input():
            return
        if node.op_type == "Constant" and node.domain == "":
            self._known[value] = stated_constant(value)
            return
        if self._evaluate_extents(node):
            return
        arrays = self._operands(node) if _is_pure(node) else None
        if arrays is None:
            return
        results = evaluate(node, arrays, self._opset, self._budget)
        if results is None:
            return
        for output, array in zip((out for out in node.outputs if out.name), results, strict=True):
            self._known[output] = ir.Tensor(np.asarray(array), name=output.name)

    def _evaluate_extents(self, node: ir.Node) -> bool:
        """Follow extents through a node that moves or combines them; return whether it is done."""
        if node.domain or not node.outputs:
            return False
        if node.op_type == "Shape":
            extents = self._extents(node.inputs[0])
            if extents is None or all(isinstance(e, int) for e in extents):
                return False
            marks = [self._mark(extent) for extent in extents]
            start = int_of(node, "start", self._opset)
            end = int_of(node, "end", self._opset, len(extents))
            self._note(node.outputs[0], np.array(marks[start:end], np.int64))
            return True
        if not any(v in self._partial for v in node.inputs):
            return False
        combines = node.op_type in _ELEMENTWISE and self._opset >= 7
        if not combines and Trait.MOVES not in op_of(node).traits:
            return False
        arrays = [None if v is None else self._partial_array(v) for v in node.inputs]
        if combines:
            self._combine(node, arrays)
            return True
        if any(a is None for a, v in zip(arrays, node.inputs, strict=True) if v is not None):
            return True
        if node.op_type != "Concat" and any(v in self._partial for v in node.inputs[1:]):
            return True  # extents that say where to move elements are not followed
        results = evaluate(node, arrays, self._opset, self._budget)
        outputs = [out for out in node.outputs if out.name]
        for output, array in zip(outputs, results or (), strict=False):
            self._note(output, np.asarray(array))
        return True

    def _partial_array(self, value: ir.Value) -> npt.NDArray[Any] | None:
        return self._partial[value] if value in self._partial else self._constant(value)

    def _note(self, value: ir.Value, array: npt.NDArray[Any]) -> None:
        if array.dtype != np.int64:
            return
        if np.any(array <= _UNKNOWN):
            self._known[value], self._partial[value] = None, array
        else:
            self._known[value] = ir.Tensor(array, name=value.name)

    def _mark(self, extent: Hashable) -> int:
        """Return the number that represents an extent while nodes move it."""
        if isinstance(extent, int):
            return extent
        mark = self._unknowns.setdefault(extent, _UNKNOWN - len(self._unknowns))
        self._marked[mark] = extent
        return mark

    def _combine(self, node: ir.Node, arrays: Sequence[npt.NDArray[Any] | None]) -> None:
        """Follow extents through arithmetic on integers, element by element."""
        known = [a for a in arrays if a is not None and a.dtype.kind in "bi" and a.size <= _FEW]
        if len(known) < len(arrays) or any(a.dtype == np.int32 for a in known):
            return
        operands = np.broadcast_arrays(*known)
        found = np.zeros(operands[0].shape, np.int64)
        for index in np.ndindex(found.shape):
            keys = tuple(self._marked.get(int(a[index]), int(a[index])) for a in operands)
            if node.op_type == "Where":
                found[index] = self._mark(keys[1] if keys[0] else keys[2])
            elif node.op_type != "Equal":
                found[index] = self._mark(combined(node.op_type, keys))
            elif not differ(*keys):
                return
        if node.op_type == "Equal":  # all elements differ
            self._known[node.outputs[0]] = ir.Tensor(found.astype(np.bool_))
        else:
            self._note(node.outputs[0], found)

    def _operands(self, node: ir.Node) -> list[npt.NDArray[Any] | None] | None:
        """Return the constants that a node reads; None if one of its inputs is not constant."""
        if node.op_type in {"Shape", "Size"}:
            extents = self._extents(node.inputs[0])
            shape = [e for e in extents or () if isinstance(e, int)]
            if extents is None or len(shape) < len(extents):
                return None
            # Only the extents matter; a broadcast view of one element takes no memory.
            return [np.broadcast_to(np.zeros(()), shape)]
        arrays: list[npt.NDArray[Any] | None] = []
        for index, value in enumerate(node.inputs):
            if value is not None and node.op_type == "CastLike" and index == 1:
                dtype = self._dtype(value)
                if dtype is None:
                    return None
                arrays.append(np.zeros((), dtype.numpy()))
            elif value is None:
                arrays.append(None)
            elif value.producer() is None:
                is_fixed = value.const_value is not None and not value.is_graph_input()
                if value.const_value is None or not is_fixed:
                    return None
                arrays.append(read_tensor(value.const_value))
            else:
                tensor = self._known.get(value)
                if tensor is None:
                    return None
                arrays.append(read_tensor(tensor))
        return arrays


def _is_pure(node: ir.Node) -> bool:
    return Trait.PURE in op_of(node).traits
