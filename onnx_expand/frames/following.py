"""Evaluate nodes that only move elements on tensors with symbolic extents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_expand.frames.patchwork import Array, Box, Patchwork, replaced
from onnx_expand.frames.symbols import Size, UndecidedError, sizes_of
from onnx_expand.graph.attributes import float_of, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Handlers
from onnx_expand.graph.tensors import read_tensor

__all__ = ["follow"]


@dataclass(frozen=True)
class _Span:
    """The integers of [begin, end), as a tensor of this rank whose axes after the first are 1."""

    begin: Size
    end: Size
    rank: int = 1


_Known: TypeAlias = "Patchwork | _Span | Array"


def follow(nodes: Sequence[ir.Node], x: ir.Value, result: ir.Value, facts: Facts) -> Patchwork:
    """Evaluate nodes on a value whose extents may be symbolic.

    Args:
        nodes: The nodes, in graph order.
        x: The value; each of its extents is at least 1.
        result: The value to compute.
        facts: Facts about the model.

    Raises:
        UndecidedError: A node is not supported, or its result depends on the extents.
    """
    shape = sizes_of(x, facts, x)
    if shape is None:
        raise UndecidedError
    nothing = (Size(),) * len(shape)
    start = Patchwork(shape, (Box(nothing, shape, tuple(range(len(shape))), nothing),))
    walk = _Walk(facts, x, {x: start})
    for node in nodes:
        if all(facts.is_constant(out) for out in node.outputs):
            continue
        function = _STEPS.get(node.op_type) if node.domain == "" else None
        if function is None or len(node.outputs) != 1:
            raise UndecidedError
        walk.known[node.outputs[0]] = function(walk, node)
    found = walk.known[result]
    if not isinstance(found, Patchwork):
        raise UndecidedError
    return found


@dataclass(frozen=True)
class _Walk:
    facts: Facts
    x: ir.Value
    known: dict[ir.Value, _Known]

    def read(self, node: ir.Node, index: int) -> _Known:
        """Return what is known of an input of a node."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise UndecidedError
        if value in self.known:
            return self.known[value]
        if not self.facts.is_constant(value):
            raise UndecidedError
        array = read_tensor(self.facts.tensor(value))
        return array.astype(object) if array.dtype.kind in "iu" else array

    def integers(self, node: ir.Node, index: int) -> Array:
        """Return an input of integers or symbolic sums."""
        found = self.read(node, index)
        if not isinstance(found, np.ndarray) or found.dtype != object:
            raise UndecidedError
        return found

    def tensor(self, node: ir.Node, index: int = 0) -> Patchwork:
        """Return an input that is a patchwork."""
        found = self.read(node, index)
        if not isinstance(found, Patchwork):
            raise UndecidedError
        return found

    def has(self, node: ir.Node, index: int) -> bool:
        """Return whether a node has an input."""
        return index < len(node.inputs) and node.inputs[index] is not None


_STEPS: Handlers[Callable[[_Walk, ir.Node], _Known]] = Handlers("symbolic evaluation")


@_STEPS.register("Shape")
def _shape(walk: _Walk, node: ir.Node) -> _Known:
    value = node.inputs[0]
    found = walk.known.get(value) if value is not None else None
    shape: Sequence[Size] | None
    if isinstance(found, Patchwork):
        shape = found.shape
    elif isinstance(found, _Span):
        shape = (found.end - found.begin, *map(Size, (1,) * (found.rank - 1)))
    elif found is not None:
        shape = tuple(map(Size, found.shape))
    else:
        shape = None if value is None else sizes_of(value, walk.facts, walk.x)
    if shape is None:
        raise UndecidedError
    start = int_of(node, "start", walk.facts.opset)
    end = int_of(node, "end", walk.facts.opset, len(shape))
    return _objects(shape[start:end])


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


@_STEPS.register("Constant")
def _constant(walk: _Walk, node: ir.Node) -> _Known:
    array = read_tensor(walk.facts.tensor(node.outputs[0]))
    return array.astype(object) if array.dtype.kind in "iu" else array


@_STEPS.register("Gather")
def _gather(walk: _Walk, node: ir.Node) -> _Known:
    data, indices = walk.integers(node, 0), walk.integers(node, 1)
    return np.asarray(np.take(data, indices.astype(np.int64), int_of(node, "axis")), dtype=object)


@_STEPS.register("Add", "Sub", "Mul")
def _arithmetic(walk: _Walk, node: ir.Node) -> _Known:
    a, b = walk.integers(node, 0), walk.integers(node, 1)
    found = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[node.op_type](a, b)
    return np.asarray(found, dtype=object)


@_STEPS.register("Equal")
def _equal(walk: _Walk, node: ir.Node) -> _Known:
    a, b = np.broadcast_arrays(walk.integers(node, 0), walk.integers(node, 1))
    flat = [_are_equal(i, j) for i, j in zip(a.reshape(-1), b.reshape(-1), strict=True)]
    return np.array(flat).reshape(a.shape)


def _are_equal(a: Size | int, b: Size | int) -> bool:
    """Return whether two sizes are equal for all values of their symbols.

    Raises:
        UndecidedError: They may be equal for some values only.
    """
    rest = Size() + a - b
    return rest == 0 or (rest >= 0 and rest <= 0)


@_STEPS.register("Where")
def _where(walk: _Walk, node: ir.Node) -> _Known:
    chosen = walk.read(node, 0)
    if not isinstance(chosen, np.ndarray):
        raise UndecidedError
    found = np.where(chosen.astype(bool), walk.integers(node, 1), walk.integers(node, 2))
    return np.asarray(found, dtype=object)


@_STEPS.register("Range")
def _range(walk: _Walk, node: ir.Node) -> _Known:
    begin, end, step = (walk.integers(node, i).item() for i in range(3))
    if not _are_equal(step, 1) or not Size() + end >= begin:
        raise UndecidedError
    return _Span(Size() + begin, Size() + end)


@_STEPS.register("Identity", "CastLike")
def _same(walk: _Walk, node: ir.Node) -> _Known:
    x, y = node.inputs[0], node.outputs[0]
    found = walk.read(node, 0)
    is_list = not isinstance(found, Patchwork)
    if is_list or (x is not None and walk.facts.dtype(x) == walk.facts.dtype(y)):
        return found
    raise UndecidedError


@_STEPS.register("Cast")
def _cast(walk: _Walk, node: ir.Node) -> _Known:
    found, to = walk.read(node, 0), ir.DataType(int_of(node, "to"))
    x = node.inputs[0]
    same = x is not None and walk.facts.dtype(x) == to
    if same or (to is ir.DataType.INT64 and not isinstance(found, Patchwork)):
        if isinstance(found, np.ndarray) and found.dtype != object:
            raise UndecidedError
        return found
    raise UndecidedError


@_STEPS.register("Unsqueeze", "Squeeze", "Reshape")
def _reshape(walk: _Walk, node: ir.Node) -> _Known:
    found = walk.read(node, 0)
    if isinstance(found, Patchwork):
        raise UndecidedError
    if isinstance(found, _Span):
        if node.op_type == "Unsqueeze" and [*map(int, _axes(walk, node))] in ([1], [-1]):
            return replace(found, rank=found.rank + 1)
        shape = walk.integers(node, 1) if node.op_type == "Reshape" else np.zeros(0)
        if [*map(str, shape)] != ["-1", "1"] or found.rank > 2:
            raise UndecidedError
        return replace(found, rank=2)
    if node.op_type == "Reshape":
        return found.reshape([int(_number(n)) for n in walk.integers(node, 1)])
    axes = [int(_number(axis)) for axis in _axes(walk, node)]
    if node.op_type == "Squeeze":
        return np.squeeze(found, axis=tuple(axes) or None)
    return np.expand_dims(found, tuple(axes))


def _axes(walk: _Walk, node: ir.Node) -> Sequence[Any]:
    if walk.has(node, 1):
        return list(walk.integers(node, 1).reshape(-1))
    return ints_of(node, "axes")


def _number(value: Size | int) -> int:
    size = Size() + value
    if size.symbols:
        raise UndecidedError
    return size.number


@_STEPS.register("Concat")
def _concat(walk: _Walk, node: ir.Node) -> _Known:
    parts = [walk.read(node, i) for i in range(len(node.inputs))]
    axis = int_of(node, "axis")
    lists = [part for part in parts if isinstance(part, np.ndarray)]
    if len(lists) == len(parts):
        return np.concatenate(lists, axis)
    if any(isinstance(part, _Span) for part in parts):
        raise UndecidedError
    tensors = [
        Patchwork.of_constants(part, [Size(n) for n in part.shape])
        if isinstance(part, np.ndarray)
        else part
        for part in parts
    ]
    axis %= len(tensors[0].shape)  # type: ignore[union-attr]
    whole = Patchwork(tensors[0].shape, ())  # type: ignore[union-attr]
    at = Size()
    for part in tensors:
        assert isinstance(part, Patchwork)
        others = zip(part.shape, whole.shape, strict=True)
        if any(a != b for i, (a, b) in enumerate(others) if i != axis):
            raise UndecidedError
        whole, at = whole.under(part, axis, at), at + part.shape[axis]
    return replace(whole, shape=replaced(whole.shape, axis, at))


_FAR = 1 << 31  # exporters use several large values for an end beyond any extent


@_STEPS.register("Slice")
def _slice(walk: _Walk, node: ir.Node) -> _Known:
    found = walk.read(node, 0)
    begins, ends = (list(walk.integers(node, i)) for i in (1, 2))
    axes = [_number(a) for a in walk.integers(node, 3)] if walk.has(node, 3) else None
    steps = walk.integers(node, 4) if walk.has(node, 4) else _objects([1] * len(begins))
    if any(not _are_equal(step, 1) for step in steps):
        raise UndecidedError
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        axis = i if axes is None else axes[i]
        if isinstance(found, Patchwork):
            axis %= len(found.shape)
            found = found.cut(axis, *_range_of(begin, end, found.shape[axis]))
        elif isinstance(found, _Span) and axis == 0:
            first, last = _range_of(begin, end, found.end - found.begin)
            found = replace(found, begin=found.begin + first, end=found.begin + last)
        elif isinstance(found, np.ndarray) and found.ndim == 1:
            found = found[slice(_number(begin), _number(end))]
        else:
            raise UndecidedError
    return found


def _range_of(begin: Size | int, end: Size | int, size: Size) -> tuple[Size, Size]:
    """Return begin and end of the positions that a Slice selects."""

    def place(at: Size | int) -> Size:
        if isinstance(at, int) and at >= _FAR - 1:
            return size
        where = Size() + at
        where = where if where >= 0 else where + size
        where = where if where >= 0 else Size()
        return where if where <= size else size

    first, last = place(begin), place(end)
    return first, last if last >= first else first


@_STEPS.register("Transpose")
def _transpose(walk: _Walk, node: ir.Node) -> _Known:
    found = walk.tensor(node)
    return found.turned(ints_of(node, "perm") or tuple(range(len(found.shape)))[::-1])


@_STEPS.register("Expand")
def _expand(walk: _Walk, node: ir.Node) -> _Known:
    found, shape = walk.read(node, 0), [Size() + n for n in walk.integers(node, 1)]
    if not isinstance(found, np.ndarray) or found.dtype == object or found.ndim > len(shape):
        raise UndecidedError
    ends = shape[len(shape) - found.ndim :]
    if any(n != 1 and not _are_equal(end, n) for n, end in zip(found.shape, ends, strict=True)):
        raise UndecidedError
    return Patchwork.of_constants(found, shape)


@_STEPS.register("Pad")
def _pad(walk: _Walk, node: ir.Node) -> _Known:
    found, opset = walk.tensor(node), walk.facts.opset
    rank = len(found.shape)
    value: Any = float_of(node, "value", opset)
    if opset < _PAD_READS:
        pads: Sequence[Any] = ints_of(node, "pads")
    else:
        pads, value = list(walk.integers(node, 1)), 0.0
        given = walk.read(node, 2) if walk.has(node, 2) else np.zeros(1)
        if not isinstance(given, np.ndarray) or walk.has(node, 3):
            raise UndecidedError
        value = given.reshape(-1)[0]
    numbers = [_number(n) for n in pads]
    if text_of(node, "mode", opset) != "constant" or min(numbers) < 0:
        raise UndecidedError
    shape = [s + numbers[i] + numbers[rank + i] for i, s in enumerate(found.shape)]
    whole = Patchwork.of_constants(np.full((1,) * rank, value), shape)
    boxes = found.boxes
    for axis in range(rank):
        boxes = tuple(box.moved(axis, Size(numbers[axis])) for box in boxes)
    return replace(whole, boxes=whole.boxes + boxes)


_PAD_READS = 11


@_STEPS.register("ScatterND")
def _scatter(walk: _Walk, node: ir.Node) -> _Known:
    """Overwrite consecutive rows."""
    data, span, rows = walk.tensor(node), walk.read(node, 1), walk.tensor(node, 2)
    if text_of(node, "reduction", walk.facts.opset) not in {"none", ""}:
        raise UndecidedError
    if isinstance(span, np.ndarray):
        span = _span_of(span)
    if not isinstance(span, _Span) or span.rank != 2:
        raise UndecidedError
    wanted = (span.end - span.begin, *data.shape[1:])
    if any(a != b for a, b in zip(wanted, rows.shape, strict=True)):
        raise UndecidedError
    if not span.begin >= 0 or not span.end <= data.shape[0]:
        raise UndecidedError
    return data.under(rows, 0, span.begin)


def _span_of(indices: Array) -> _Span:
    """Return the span of a list of consecutive row indices."""
    numbers = [_number(n) for n in indices.reshape(-1)]
    if indices.ndim != 2 or indices.shape[1] != 1 or not numbers:
        raise UndecidedError
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise UndecidedError
    return _Span(Size(numbers[0]), Size(numbers[-1] + 1), 2)
