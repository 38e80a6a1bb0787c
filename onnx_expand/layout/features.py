"""Reshapes between images and features that can work in either axis order.

Another axis order reorders the features, which dense layers absorb in their weights:

    Reshape(transpose(x, q)) W = Reshape(x) W'         rows of W reordered
    transpose(Reshape(x W + b), q) = Reshape(x W' + b')    columns of W and b reordered

Elementwise nodes may lie between the Reshape and the layers, and a Concat with other features.
Networks of tf2onnx transpose images before their dense layers, whose rows follow the order
[H, W, C].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import flag_of, int_of
from onnx_expand.graph.facts import Facts

__all__ = ["Features", "Operand", "features_before", "features_behind"]

SMALL = 1 << 12
"""A constant of at most this many elements may be stored in two orders."""


@dataclass(frozen=True)
class Operand:
    """A constant operand whose elements lie along the features.

    Attributes:
        node: The node that reads it.
        index: The index of the input.
        axis: The axis of the features.
        first: The place of the first of them on it.
    """

    node: ir.Node
    index: int
    axis: int
    first: int = 0


@dataclass(frozen=True)
class Features:
    """The constants and values that change if features are reordered.

    Attributes:
        places: The former index of each feature.
        operands: The constants to reorder.
        values: The values whose features are reordered.
    """

    places: npt.NDArray[np.int64]
    operands: tuple[Operand, ...]
    values: tuple[ir.Value, ...]


def features_behind(
    node: ir.Node, order: Sequence[int], facts: Facts, is_elementwise: Callable[[ir.Node], bool]
) -> Features | None:
    """Return the features into which a turned value is reshaped, if only dense layers read them.

    The node is a Reshape or a Flatten; `order` is the axis order of its input.
    """
    walk = _begun(node.outputs[0], node.inputs[0], order, facts, is_elementwise)
    return walk.found() if walk is not None and walk.forward() else None


def features_before(
    node: ir.Node, order: Sequence[int], facts: Facts, is_elementwise: Callable[[ir.Node], bool]
) -> Features | None:
    """Return the features that are reshaped into a turned value, if dense layers compute them.

    The node is a Reshape; `order` is the axis order of its output.
    """
    walk = _begun(node.inputs[0], node.outputs[0], order, facts, is_elementwise)
    return walk.found() if walk is not None and walk.backward(node) else None


def _begun(
    start: ir.Value | None,
    image: ir.Value | None,
    order: Sequence[int],
    facts: Facts,
    is_elementwise: Callable[[ir.Node], bool],
) -> _Walk | None:
    """Return a walk from a value whose features are the last axes of an image, if they are."""
    shape, extents = facts.shape(start), facts.extents(image)
    if start is None or shape is None or extents is None:
        return None
    places = _places(shape[-1:], extents, order)
    return None if places is None else _Walk(start, places, facts, is_elementwise)


def _places(
    count: Sequence[int | None], extents: Sequence[Hashable], order: Sequence[int]
) -> npt.NDArray[np.int64] | None:
    """Return the former index of each feature if the axes of the image are permuted.

    The last extents are those of the features; the order must not move the other axes.
    """
    for first in range(len(order)):
        own = [extent for extent in extents[first:] if isinstance(extent, int)]
        if len(own) < len(extents) - first or math.prod(own) != (*count, None)[0]:
            continue
        if tuple(order[:first]) == tuple(range(first)) and 0 not in own:
            reordered = [axis - first for axis in order[first:]]
            return np.arange(math.prod(own)).reshape(own).transpose(reordered).reshape(-1)
    return None


class _Walk:
    """Collects the values between a Reshape and the dense layers.

    Args:
        start: The input or output of the Reshape that has features.
        places: The former index of each feature.
        facts: Facts about the model.
        is_elementwise: Returns whether a node is elementwise.
    """

    def __init__(
        self,
        start: ir.Value,
        places: npt.NDArray[np.int64],
        facts: Facts,
        is_elementwise: Callable[[ir.Node], bool],
    ) -> None:
        self._places, self._rank = places, facts.rank(start)
        self._facts, self._is_elementwise = facts, is_elementwise
        self._values = [start]
        # By value the place of the first feature in its last axis, and the extent of that axis.
        self._spans = {start: (0, len(places))}
        self._between: set[ir.Node] = set()
        self._operands: dict[Operand, None] = {}
        users = [use.node for use in start.uses()]
        self._graph = users[0].graph if users else None

    def found(self) -> Features:
        """Return the features."""
        return Features(self._places, tuple(self._operands), tuple(self._values))

    def forward(self) -> bool:
        """Follow the features to their consumers; return whether all are dense layers."""
        products = 0
        for value in self._values:  # which grows meanwhile
            if value.is_graph_output():
                return False
            for use in value.uses():
                weight = self._rows(use.node, value) if use.idx == 0 else None
                if weight is not None:
                    self._operands[weight] = None
                    products += 1
                elif not self._goes_on(use.node, value):
                    return False
        # The features of a computed operand have an order that does not change.
        return products > 0 and {v.producer() for v in self._values[1:]} <= self._between

    def backward(self, reshape: ir.Node) -> bool:
        """Follow the features to their producers; return whether all are dense layers."""
        for value in self._values:  # which grows meanwhile
            node = value.producer()
            if node is None or node.graph is not self._graph or value.is_graph_output():
                return False
            operands = self._columns(node)
            if operands is not None:
                self._operands.update(dict.fromkeys(operands))
            elif not self._passes(node, value):
                return False
        users = {use.node for value in self._values for use in value.uses()}
        return users <= self._between | {reshape}

    def _goes_on(self, node: ir.Node, part: ir.Value) -> bool:
        """Add a node that reads features; return whether it does not mix them."""
        is_join = not node.domain and node.op_type == "Concat"
        return self._joins(node, part) if is_join else self._passes(node, part)

    def _joins(self, node: ir.Node, part: ir.Value) -> bool:
        """Add a Concat; return whether it places the features beside others."""
        if node.graph is not self._graph:
            return False
        sizes = [(self._facts.shape(value) or (None,))[-1] for value in node.inputs]
        axis = int_of(node, "axis", self._facts.opset)
        at = [i for i, value in enumerate(node.inputs) if value is part]
        known = [size for size in sizes if size is not None]
        if axis not in {-1, (self._rank or 0) - 1} or len(at) != 1 or len(known) < len(sizes):
            return False
        self._between.add(node)
        first = sum(known[: at[0]]) + self._spans[part][0]
        return self._add(node.outputs[0], (first, sum(known)))

    def _passes(self, node: ir.Node, part: ir.Value) -> bool:
        """Add an elementwise node; return whether it does not mix the features."""
        span = self._spans[part]
        if node in self._between:
            return True
        if node.graph is not self._graph or not self._is_elementwise(node):
            return False
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            if not self._facts.is_constant(value):
                if not self._add(value, span):
                    return False
                continue
            shape = self._facts.dims(value)
            if shape and shape[-1] != 1:
                operand = self._own(node, i, len(shape) - 1, part)
                if operand is None:
                    return False
                self._operands[operand] = None
        self._between.add(node)
        return self._add(node.outputs[0], span)

    def _add(self, value: ir.Value, span: tuple[int, int]) -> bool:
        """Add a value; return whether its last axis can be that of the features."""
        shape = self._facts.shape(value)
        if shape is None or len(shape) != self._rank or shape[-1] != span[1]:
            return False
        if value not in self._spans:
            self._values.append(value)
        return self._spans.setdefault(value, span) == span

    def _own(self, node: ir.Node, index: int, axis: int, part: ir.Value) -> Operand | None:
        """Return a constant operand if it may be stored in another order."""
        first, count = self._spans[part]
        value = node.inputs[index]
        if value is None or not value.is_initializer() or value.is_graph_input():
            return None
        shape = self._facts.dims(value)
        is_own = len(value.uses()) == 1 and not value.is_graph_output()
        if shape[axis] != count or not (is_own or math.prod(shape) <= SMALL):
            return None
        if self._facts.tensor(value).dtype.bitwidth < 8:
            return None
        return Operand(node, index, axis, first)

    def _rows(self, node: ir.Node, features: ir.Value) -> Operand | None:
        """Return the weight of a layer that reads features, None for other nodes."""
        if not self._is_dense(node) or flag_of(node, "transA", self._facts.opset):
            return None
        return self._own(node, 1, flag_of(node, "transB", self._facts.opset), features)

    def _columns(self, node: ir.Node) -> tuple[Operand, ...] | None:
        """Return the weight and bias of a layer that computes features, None for other nodes."""
        if not self._is_dense(node):
            return None
        features = node.outputs[0]
        weight = self._own(node, 1, 1 - flag_of(node, "transB", self._facts.opset), features)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if weight is None or bias is None:
            return None if weight is None else (weight,)
        if not self._facts.is_constant(bias):
            return None
        shape = self._facts.dims(bias)
        if not shape or shape[-1] == 1:
            return (weight,)
        row = self._own(node, 2, len(shape) - 1, features)
        return None if row is None else (weight, row)

    def _is_dense(self, node: ir.Node) -> bool:
        """Return whether a node multiplies by a constant matrix."""
        if node.domain or node.op_type not in {"Gemm", "MatMul"} or node.graph is not self._graph:
            return False
        weight = node.inputs[1]
        if weight is None or not self._facts.is_constant(weight):
            return False
        return len(self._facts.dims(weight)) == 2
