"""Write a unit: the nodes that compute its branches and their sum."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.factorize import Average, Filled, Layer, Statistics, as_affine
from onnx_expand.graph.editing import Rewriter, detach, label
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import Axes, Linear
from onnx_expand.lower import Form, Names, Target, Template, constant, lower
from onnx_expand.lower.units import mark, mark_activation

__all__ = ["UnitWriter"]

_MATRICES = {"Gemm": Form.GEMM, "MatMul": Form.MATMUL}
_SLOPE = 0.25  # initial slope of a PRelu (He et al., ICCV 2015)


@dataclass
class UnitWriter:
    """Writes units in place of nodes of one model.

    Attributes:
        facts: Shapes, types and constants of the model.
        rewriter: Chooses names and inserts nodes.
        nonlinear: `relu` or `prelu` between the layers of a chain, or None.
    """

    facts: Facts
    rewriter: Rewriter
    nonlinear: str | None = None

    def replace(self, linear: Linear, filled: Filled) -> list[ir.Node] | Refusal:
        """Replace a node by a unit; return its nodes, or why it cannot be replaced."""
        template = Template.of(linear, self.facts)
        assert template is not None
        if self.nonlinear is not None and len(filled.unit.branches) > 1:
            name = filled.unit.strategy
            message = f"activations go between the layers of a chain, and {name} is a sum"
            return Refusal(Reason.STRATEGY, message)
        written = _Written(self, linear)
        try:
            ends = [written.branch(i, filled) for i in range(len(filled.unit.branches))]
            written.join(ends)
        except RefusedError as error:
            written.discard()
            return error.refusal
        mark(written.linear, f"{linear.y.name}", template)
        for node in written.activations:
            mark_activation(node, f"{linear.y.name}")
        y = linear.y
        # Weights that start equal, such as those of batch normalizations, must not be shared.
        self.rewriter.replace([linear.node], written.nodes, whole=True)
        self.facts.transfer(y, written.nodes[-1].outputs[0])
        return written.nodes


class _Written:
    """The nodes of one unit, while they are being written."""

    def __init__(self, writer: UnitWriter, linear: Linear) -> None:
        assert linear.weight is not None
        assert linear.axes is not None
        self._facts, self._rewriter = writer.facts, writer.rewriter
        self._nonlinear = writer.nonlinear
        self._node, self._x, self._axes = linear.node, linear.x, linear.axes
        self._dtype = writer.facts.tensor(linear.weight).dtype
        self._weight = linear.weight.name or label(linear.node)
        self.nodes: list[ir.Node] = []
        self.activations: list[ir.Node] = []

    @property
    def linear(self) -> list[ir.Node]:
        """All nodes except the activations."""
        return [node for node in self.nodes if node not in self.activations]

    def branch(self, index: int, filled: Filled) -> ir.Value:
        """Write one branch and return its result."""
        steps, parts = filled.unit.branches[index], filled.parts[index]
        value, axes = self._x, self._axes
        for i, (step, part) in enumerate(zip(steps, parts, strict=True)):
            place = str(i) if len(filled.unit.branches) == 1 else f"{index}.{i}"
            names = self._names(place)
            if i and self._nonlinear is not None:
                value = self._activated(value, axes, filled.unit.widths[i], place)
            if isinstance(part, Statistics):
                self.nodes.append(self._normalization(value, part, names))
            elif isinstance(step, Average):
                self._check("AveragePool")
                self.nodes.append(_average(value, step, names))
            else:
                assert isinstance(step, Layer)
                self._layer(value, step, part, axes, names)
            dims = _extents_after(value, self._facts, as_affine(part), axes)
            value, axes = self._settled(f"{names.node}.out", dims), (axes[1], axes[1])
        return value

    def join(self, ends: Sequence[ir.Value]) -> None:
        """Sum the branches, if there are several."""
        if len(ends) > 1:
            self._check("Sum")
            name = self._rewriter.unique(f"{label(self._node)}.sum")
            self.nodes.append(ir.node("Sum", list(ends), name=name))

    def _check(self, op_type: str) -> None:
        """Refuse an op that the opset or the runtime lacks in this type."""
        refusal = self._facts.writable(self._dtype).refusal(op_type)
        if refusal is not None:
            raise RefusedError(refusal)

    def discard(self) -> None:
        """Detach the written nodes, which would otherwise count as consumers."""
        detach(self.nodes)

    def _settled(self, name: str, dims: Sequence[Hashable] | None) -> ir.Value:
        """Set name, type and extents of the last node's output, and return it."""
        value = self.nodes[-1].outputs[0]
        value.name = self._rewriter.unique(name)
        if dims is not None:
            self._facts.set_extents(value, dims)
        value.type = ir.TensorType(self._dtype)
        return value

    def _layer(self, value: ir.Value, step: Layer, part: Any, axes: Axes, names: Names) -> None:
        form = _MATRICES.get(self._node.op_type, Form.CONV)
        if step.geometry.transposed:
            form = Form.CONV_TRANSPOSE
        new = lower(part, form, axes, Target(value, self._dtype, names, self._facts))
        self.nodes += new
        # A zero bias is normally left out, but here it must exist to be trained.
        if step.geometry.bias and len(new) == 1 and len(new[0].inputs) == 2:
            bias = np.zeros(part.geometry.out_channels)
            column = form is Form.GEMM and axes[1] == 0
            zeros = constant(bias.reshape((-1, 1) if column else -1), names.bias, self._dtype)
            new[0].resize_inputs(3)
            new[0].replace_input_with(2, zeros)

    def _normalization(self, value: ir.Value, part: Statistics, names: Names) -> ir.Node:
        self._check("BatchNormalization")
        stem = names.weight.removesuffix(".weight")
        constants = [
            constant(array, name, self._dtype)
            for array, name in (
                (part.scale, names.weight),
                (part.shift, names.bias),
                (part.mean, self._rewriter.unique(f"{stem}.running_mean")),
                (part.variance, self._rewriter.unique(f"{stem}.running_var")),
            )
        ]
        attributes = {"epsilon": part.epsilon}
        inputs = [value, *constants]
        return ir.node("BatchNormalization", inputs, attributes, name=names.node)

    def _activated(self, value: ir.Value, axes: Axes, channels: int, place: str) -> ir.Value:
        name = self._rewriter.unique(f"{label(self._node)}.{place}.activation")
        dims = self._facts.extents(value)
        self._check("Relu" if self._nonlinear == "relu" else "PRelu")
        if self._nonlinear == "relu":
            node = ir.node("Relu", [value], name=name)
        else:
            behind = (self._facts.rank(value) or axes[1] + 1) - 1 - axes[1]
            slopes = np.full((channels, *(1,) * behind), _SLOPE)
            slope = constant(slopes, self._rewriter.unique(f"{name}.slope"), self._dtype)
            node = ir.node("PRelu", [value, slope], name=name)
        self.nodes.append(node)
        self.activations.append(node)
        return self._settled(f"{name}.out", dims)

    def _names(self, place: str) -> Names:
        stem, dot, last = self._weight.rpartition(".")
        base = stem if dot and last == "weight" else self._weight
        name = self._rewriter.unique(f"{label(self._node)}.{place}")
        return Names(
            name,
            self._rewriter.unique(f"{base}.{place}.weight"),
            self._rewriter.unique(f"{base}.{place}.bias"),
            f"{name}.add",
        )


def _average(value: ir.Value, step: Average, names: Names) -> ir.Node:
    attributes = {"kernel_shape": step.geometry.kernel, "strides": step.geometry.strides}
    return ir.node("AveragePool", [value], attributes, name=names.node)


def _extents_after(
    x: ir.Value, facts: Facts, affine: AffineConv, axes: Axes
) -> list[Hashable] | None:
    known = facts.extents(x)
    least = 0 if affine.geometry.is_pointwise else 2 + affine.rank
    if known is None or len(known) < max(least, *(a + 1 if a >= 0 else -a for a in axes)):
        return None
    dims = list(known)
    if axes[0] != axes[1]:
        dims[axes[0]], dims[axes[1]] = dims[axes[1]], dims[axes[0]]
    dims[axes[1]] = affine.geometry.out_channels
    for axis in range(affine.rank if not affine.geometry.is_pointwise else 0):
        size = known[2 + axis]
        if not isinstance(size, int):
            dims[2 + axis] = None
            continue
        dims[2 + axis] = affine.geometry.output_extents([size] * affine.rank)[axis]
    return dims
