"""Build the terms of a graph: one for each linear node; other values are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.cost import Cost
from onnx_expand.errors import Refusal, RefusedError
from onnx_expand.frames import Frame, find_frames
from onnx_expand.graph.attributes import has_references, int_of
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.graph.patterns import Composites
from onnx_expand.graph.storage import remaining_elements
from onnx_expand.lift import CONTRADICTIONS, Linear, contradiction, lift, lift_parts
from onnx_expand.linear.terms.base import (
    Concat,
    ConstantPad,
    Homogeneous,
    Map,
    Read,
    SplitInput,
    Sum,
    Term,
    View,
)
from onnx_expand.linear.terms.matrix_bias import MatrixBias, added_constant
from onnx_expand.linear.terms.noops import forwarded
from onnx_expand.linear.terms.scaling import elementwise, scaling_of
from onnx_expand.linear.terms.tensors import Tensor, broadcast
from onnx_expand.linear.terms.views import find_view

__all__ = ["Builder"]


class Builder:
    """Lifts the nodes of one graph.

    Attributes:
        of: The term of each value that is linear in others, or that such a value depends on.
        nodes: The nodes that are terms, each with its term.
        refused: Nodes of linear ops that are not linear, each with the reason.
    """

    def __init__(
        self,
        graph: ir.Graph,
        facts: Facts,
        composites: Composites | None = None,
        locked: Collection[str] = (),
    ) -> None:
        self._facts = facts
        self._locked = locked
        self._composites = composites
        frames = find_frames(graph, facts)
        self._framed = {node: frame for frame in frames for node in frame.nodes}
        self.of: dict[ir.Value, Term] = {}
        self.nodes: dict[ir.Node, list[Term]] = {}
        self.refused: list[tuple[ir.Node, Refusal]] = []
        for node in graph:
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        if self._composites is not None and self._composites.of(node) is not None:
            return  # part of one nonlinear function
        if self._locked and label(node) in self._locked:
            return
        try:
            terms = self._terms(node)
        except RefusedError as error:
            self.refused.append((node, error.refusal))
            return
        except CONTRADICTIONS as error:
            self.refused.append((node, contradiction(error)))
            return
        for term in terms:
            self.nodes.setdefault(node, []).append(term)
            if term.value is not None:
                self.of[term.value] = term

    def _terms(self, node: ir.Node) -> Sequence[Term]:
        if node in self._framed:
            frame = self._framed[node]
            return [self._fill(frame)] if node is frame.nodes[-1] else []
        same = forwarded(node, self._facts)
        if same is not None and (identity := self._identity(node, same)) is not None:
            return [identity]
        parts = lift_parts(node, self._facts)
        if parts:
            return self._parts(node, parts)
        view = find_view(node, self._facts)
        if view is not None:
            x, y = node.inputs[0], node.outputs[0]
            assert x is not None
            arg = self.read(x)
            tensor = replace(self._tensor(y), sizes=arg.tensor.viewed(view).sizes)
            return [View((arg,), tensor, y, node, node, view, origins=(node,))]
        linear = lift(node, self._facts)
        if isinstance(linear, Linear):
            return [self._map(linear)]
        added = self._matrix_bias(node)
        if added is not None:
            return [added]
        if linear is not None:
            self.refused.append((node, linear))
        elif node.domain == "" and len(node.inputs) > 1 and (join := self._join(node)):
            return join
        return self._homogeneous(node)

    def _homogeneous(self, node: ir.Node) -> list[Term]:
        """Return the term of a nonlinear node that factors or permutations can pass."""
        scaling = scaling_of(node, self._facts) or elementwise(node, self._facts)
        if scaling is None:
            return []
        slots = tuple(
            slot
            for slot, value in enumerate(node.inputs)
            if value is not None and not self._facts.is_constant(value)
        )
        args = tuple(self.read(value) for i in slots if (value := node.inputs[i]) is not None)
        y = node.outputs[0]
        return [Homogeneous(args, self._tensor(y), y, node, node, slots, scaling, like=node)]

    def read(self, value: ir.Value) -> Term:
        """Return the term of a value; a `Read` if no linear node computes it."""
        if value not in self.of:
            self.of[value] = Read((), self._tensor(value), value, None, value.producer())
        return self.of[value]

    def _tensor(self, value: ir.Value) -> Tensor:
        return Tensor.of(self._facts.extents(value), self._facts.dtype(value))

    def _map(self, linear: Linear, arg: Term | None = None, y: ir.Value | None = None) -> Map:
        arg = self.read(linear.x) if arg is None else arg
        weight = linear.weight
        value = linear.y if y is None else y
        tensor = self._tensor(value)
        propagated = arg.tensor.mapped(linear.geometry, linear.axes, value)
        if tensor.extents is None:
            tensor = replace(propagated, dtype=tensor.dtype)
        if propagated.sizes is not None and len(propagated.sizes[0]) == (tensor.rank or 0):
            # Extents that are not static are derived from those of the argument.
            tensor = replace(tensor, sizes=propagated.sizes)
        if tensor.dtype is None:
            constants = [v for v in (linear.weight, linear.bias) if v is not None]
            known = (arg.tensor.dtype, *map(self._facts.dtype, constants))
            tensor = replace(tensor, dtype=next((d for d in known if d is not None), None))
        remaining = 0 if weight is None else remaining_elements(weight, linear.node, self._facts)
        return Map(
            (arg,),
            tensor,
            value,
            linear.node,
            linear.node,
            linear.geometry,
            linear.axes,
            linear.load,
            linear.shift_only,
            links=(linear,),
            origins=(linear.node,),
            own=Cost() if linear.is_part else Cost.of_node(linear, self._facts),
            is_part=linear.is_part,
            remaining=remaining,
        )

    def _matrix_bias(self, node: ir.Node) -> MatrixBias | None:
        """Return the term of a node that adds a constant which differs between rows."""
        added = added_constant(node, self._facts)
        y = node.outputs[0] if node.outputs else None
        if added is None or y is None or self._facts.is_constant(y):
            return None
        x, product, numbers = added
        arg, tensor = self.read(x), self._tensor(y)
        if tensor.dtype is None or not tensor.dtype.is_floating_point():
            return None
        layer = None if product is None else self._map(product)
        links, origins = () if product is None else (product,), (node,)
        return MatrixBias(
            (arg,), tensor, y, node, node, layer, lambda: numbers, links=links, origins=origins
        )

    def _identity(self, node: ir.Node, x: ir.Value) -> Map | None:
        """Return the identity map of a node that returns its input, for types of maps."""
        y = node.outputs[0]
        dtype = self._facts.dtype(y) or self._facts.dtype(x)
        is_number = dtype is not None and dtype.is_floating_point() and dtype.bitwidth >= 16
        if not is_number or self._facts.is_constant(y):
            return None
        one = AffineConv.identity(1)
        arg = self.read(x)
        tensor = replace(self._tensor(y), sizes=arg.tensor.sizes)
        return Map(
            (arg,),
            tensor,
            y,
            node,
            node,
            one.geometry,
            None,
            lambda: one,
            shift_only=True,
            origins=(node,),
            own=Cost(0, 0, 1),
            nothing=True,
        )

    def _parts(self, node: ir.Node, parts: Sequence[Linear]) -> list[Term]:
        """Return a part of a split node, whose own term is created once."""
        cutting = parts[0].entry or node
        found: list[Term] = []
        split = next((t for t in self.nodes.get(cutting, []) if isinstance(t, SplitInput)), None)
        if split is None:
            x = self.read(parts[0].x)
            split = SplitInput((x,), x.tensor, None, cutting, cutting)
            if cutting is node:
                found.append(split)
            else:
                self.nodes.setdefault(cutting, []).append(split)
        for part in parts:
            term = self._map(part, split)
            if cutting is not node:
                term.own = Cost(0, 0, 1)
            found.append(term)
        return found

    def _fill(self, frame: Frame) -> ConstantPad:
        last = frame.nodes[-1]
        y = last.outputs[0]
        x = self.read(frame.x)
        return ConstantPad((x,), self._tensor(y), y, last, last, frame, origins=frame.nodes)

    def _join(self, node: ir.Node) -> list[Term]:
        if node.op_type != "Concat" and Trait.SUM not in op_of(node).traits:
            return []
        inputs = [v for v in node.inputs if v is not None]
        if len(inputs) < len(node.inputs) or any(map(self._facts.is_constant, inputs)):
            return []
        y = node.outputs[0]
        dtype = self._facts.dtype(y) or self._facts.dtype(inputs[0])
        if dtype is None or not dtype.is_floating_point():
            return []
        if has_references(node):
            return []
        tensor = replace(self._tensor(y), dtype=dtype)
        args = tuple(map(self.read, inputs))
        if node.op_type == "Concat":
            axis = int_of(node, "axis", missing=1)
            if axis < 0:
                if tensor.rank is None:
                    return []
                axis += tensor.rank
            return [Concat(args, self._stacked(args, axis, tensor), y, node, node, axis)]
        factors = (1.0,) * len(inputs)
        if node.op_type == "Sub":
            factors = (1.0, -1.0)
        elif node.op_type == "Mean":
            factors = (1 / len(inputs),) * len(inputs)
        shapes = {_static(arg.tensor) for arg in args}
        same = len(shapes) == 1 and None not in shapes
        tensor = broadcast([arg.tensor for arg in args], tensor)
        return [Sum(args, tensor, y, node, node, factors, same)]

    def _stacked(self, args: Sequence[Term], axis: int, tensor: Tensor) -> Tensor:
        """Return the tensor of a concatenation, with sizes from its arguments."""
        sizes = [arg.tensor.sizes for arg in args]
        if tensor.sizes is None or any(s is None for s in sizes):
            return tensor
        known = [s for s in sizes if s is not None]
        count = max(map(len, known))
        if any(len(s[0]) <= axis for s in known):
            return tensor
        padded = [s if len(s) == count else s * count for s in known]
        found = tuple(
            (*these[0][:axis], sum(s[axis] for s in these), *these[0][axis + 1 :])
            for these in zip(*padded, strict=True)
        )
        return Tensor(tensor.extents, found, tensor.dtype)


def _static(tensor: Tensor) -> tuple[int | None, ...] | None:
    """Return the extents of a tensor, None for each that is not static."""
    if tensor.extents is None:
        return None
    return tuple(e if isinstance(e, int) else None for e in tensor.extents)
