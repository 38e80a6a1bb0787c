"""Replace composite patterns by one operator, or by a spelling that onnxruntime fuses.

ONNX has Gelu from opset 20 on, LayerNormalization from 17, RMSNormalization from 23, HardSwish
from 14 and HardSigmoid in every opset. In older opsets, a pattern that onnxruntime does not fuse
is rewritten to one that it does. Both were measured to be faster in onnxruntime
(docs/benchmarks.md). Only float32 is rewritten, the type for which all kernels exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter, Rewritten, label
from onnx_expand.graph.expressions import matches
from onnx_expand.graph.facts import Facts, Shape
from onnx_expand.graph.patterns import Composite, Composites
from onnx_expand.graph.tensors import read_tensor

__all__ = ["raise_composites"]

Array = npt.NDArray[Any]


def raise_composites(
    graph: ir.Graph,
    facts: Facts,
    rewriter: Rewriter,
    *,
    locked: frozenset[str] = frozenset(),
    respell: bool = True,
) -> Iterator[Rewritten]:
    """Write the composites of a graph in the form that runtimes compute fastest.

    Nodes of the labels `locked` stay. With `respell`, patterns that onnxruntime does not fuse are
    rewritten, too.
    """
    position = {node: i for i, node in enumerate(graph)}
    for composite in Composites(graph, facts).found:
        old = sorted(composite.nodes, key=position.__getitem__)
        labels = tuple(map(label, old))
        if not locked.isdisjoint(labels) or not _is_single(composite, facts):
            continue
        new = _Builder(composite, facts, rewriter).write(respell=respell)
        if new is None:
            continue
        before = old[-1].outputs[0]
        extents = facts.extents(before)
        for node in new[:-1] if extents is not None else ():
            assert extents is not None
            of_means = node.op_type == "ReduceMean" or node.meta.get(_OF_MEANS)
            facts.set_extents(node.outputs[0], [*extents[:-1], 1] if of_means else extents)
            node.outputs[0].dtype = ir.DataType.FLOAT
        rewriter.replace(old, new)
        facts.transfer(before, new[-1].outputs[0])
        yield Rewritten(labels, tuple(map(label, new)))


_OF_MEANS = "one number for each vector"


def _is_single(composite: Composite, facts: Facts) -> bool:
    """Return whether all values of a composite are float32."""
    values = [composite.nodes[0].outputs[0], *composite.values.values()]
    return all(facts.dtype(value) == ir.DataType.FLOAT for value in values)


class _Builder:
    """Writes the replacement of one composite."""

    def __init__(self, composite: Composite, facts: Facts, rewriter: Rewriter) -> None:
        self._composite, self._facts, self._rewriter = composite, facts, rewriter
        self._stem = label(composite.nodes[0])
        self._x = composite.values.get("x")
        self._nodes: list[ir.Node] = []

    def write(self, *, respell: bool) -> list[ir.Node] | None:
        """Return the replacement nodes, or None if the composite stays unchanged."""
        pattern = self._composite.pattern
        if not self._keeps_rank():
            return None
        since, operator = _OPERATORS.get(pattern.name, (math.inf, None))
        if operator is not None and self._facts.opset >= since:
            node = operator(self)
            return None if node is None else [node]
        spell = _SPELLINGS.get(pattern.name)
        if spell is None or not respell or self._is_fused():
            return None
        spell(self)
        return self._nodes

    def _keeps_rank(self) -> bool:
        """Return whether no number has more axes than the input, which it would broadcast."""
        ranks = [
            self._facts.rank(value) or 0
            for node in self._composite.nodes
            for value in node.inputs
            if value is not None and self._facts.is_constant(value)
            if self._facts.dtype(value) == ir.DataType.FLOAT
        ]
        most = self._facts.rank(self._x) if self._x is not None else None
        return max(ranks, default=0) <= (most or 0)

    def _is_fused(self) -> bool:
        """Return whether the composite is already spelled as onnxruntime fuses it."""
        fused, y = self._composite.pattern.fused, self._composite.nodes[0].outputs[0]
        return fused is None or any(True for _ in matches(fused, y, self._facts))

    # -- Operators ------------------------------------------------------------------------

    def operator(self, op: str, *inputs: ir.Value, **attributes: float | int | str) -> ir.Node:
        """Create a node that reads the composite's input and constants."""
        name = self._rewriter.unique(self._stem, free={self._stem})
        return ir.node(op, [self.x, *inputs], attributes, name=name)

    @property
    def x(self) -> ir.Value:
        """The input of the composite."""
        assert self._x is not None
        return self._x

    def relu6(self) -> ir.Node:
        """Create a Clip, which runtimes fuse into the preceding convolution."""
        if self._facts.opset < 11:
            return self.operator("Clip", min=0.0, max=6.0)
        return self.operator("Clip", self._constant(0.0), self._constant(6.0))

    def norm(self, op: str) -> ir.Node | None:
        """Create a normalization over the last axis."""
        values, shape = self._composite.values, self._facts.shape(self.x)
        if not shape or not isinstance(shape[-1], int):
            return None
        parts = [self._row(values[n], shape) for n in ("scale", "shift") if n in values]
        rows = [row for row in parts or [np.ones(shape[-1], np.float32)] if row is not None]
        epsilon = read_tensor(self._facts.tensor(values["epsilon"]))
        if len(rows) < len(parts) or epsilon.size != 1 or not np.isfinite(epsilon).all():
            return None
        constants = [self._stored(row) if isinstance(row, np.ndarray) else row for row in rows]
        return self.operator(op, *constants, axis=-1, epsilon=float(epsilon.reshape(())))

    def _row(self, value: ir.Value, shape: Shape) -> ir.Value | Array | None:
        """Return a constant that holds a number for each feature, as a vector."""
        dims = self._facts.dims(value)
        if len(dims) > len(shape) or dims[-1:] != shape[-1:] or any(d != 1 for d in dims[:-1]):
            return None
        return value if len(dims) == 1 else read_tensor(self._facts.tensor(value)).reshape(-1)

    # -- Spellings ------------------------------------------------------------------------

    def node(self, op: str, *inputs: ir.Value | float, **attributes: float) -> ir.Value:
        """Append a node and return its output."""
        operands = [self._constant(v) if isinstance(v, float) else v for v in inputs]
        stem = f"{self._stem}.{op.lower()}"
        made = ir.node(op, operands, attributes, name=self._rewriter.unique(stem))
        self._nodes.append(made)
        return made.outputs[0]

    def _constant(self, number: float) -> ir.Value:
        return self._stored(np.array(number, np.float32))

    def _stored(self, array: Array) -> ir.Value:
        name = self._rewriter.unique(f"{self._stem}.constant")
        return ir.val(name, const_value=ir.Tensor(array, name=name))

    def spell_gelu(self) -> None:
        """Write x / 2 (1 + erf(x / sqrt(2)))."""
        half = self.node("Mul", self.x, 0.5)
        gate = self.node("Erf", self.node("Div", self.x, math.sqrt(2)))
        self.node("Mul", half, self.node("Add", gate, 1.0))

    def spell_tanh_gelu(self) -> None:
        """Write x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
        half = self.node("Mul", self.x, 0.5)
        cubic = self.node("Mul", self.node("Pow", self.x, 3.0), 0.044715)
        inner = self.node("Mul", self.node("Add", self.x, cubic), math.sqrt(2 / math.pi))
        gate = self.node("Add", self.node("Tanh", inner), 1.0)
        self.node("Mul", half, gate)

    def spell_hard_swish(self) -> None:
        """Write x HardSigmoid(x); HardSigmoid exists in older opsets."""
        gate = self.node("HardSigmoid", self.x, alpha=1 / 6, beta=0.5)
        self.node("Mul", self.x, gate)

    def spell_layer_norm(self) -> None:
        """Write (x - mean) / sqrt(variance + epsilon), scaled and shifted."""
        centred = self.node("Sub", self.x, self._mean(self.x))
        self._scaled(centred, centred)

    def spell_rms_norm(self) -> None:
        """Write x / sqrt(mean of x^2 + epsilon), scaled and shifted."""
        self._scaled(self.x, self.x)

    def _mean(self, x: ir.Value) -> ir.Value:
        if self._facts.opset < 18:
            made = ir.node("ReduceMean", [x], {"axes": [-1]})
        else:
            name = self._rewriter.unique(f"{self._stem}.axes")
            axes = ir.val(name, const_value=ir.Tensor(np.array([-1], np.int64), name=name))
            made = ir.node("ReduceMean", [x, axes])
        made.name = self._rewriter.unique(f"{self._stem}.reducemean")
        self._nodes.append(made)
        return made.outputs[0]

    def _scaled(self, x: ir.Value, centred: ir.Value) -> None:
        values, epsilon = self._composite.values, self._composite.values["epsilon"]
        variance = self._mean(self.node("Pow", centred, 2.0))
        first = len(self._nodes)
        root = self.node("Sqrt", self.node("Add", variance, epsilon))
        for made in self._nodes[first:]:
            made.meta[_OF_MEANS] = True
        y = self.node("Mul", self.node("Div", x, root), values["scale"])
        if "shift" in values:
            self.node("Add", y, values["shift"])


_OPERATORS: dict[str, tuple[float, Callable[[_Builder], ir.Node | None]]] = {
    "Gelu": (20, lambda s: s.operator("Gelu")),
    "Gelu (tanh)": (20, lambda s: s.operator("Gelu", approximate="tanh")),
    "HardSwish": (14, lambda s: s.operator("HardSwish")),
    "HardSigmoid": (6, lambda s: s.operator("HardSigmoid", alpha=1 / 6, beta=0.5)),
    "LayerNormalization": (17, lambda s: s.norm("LayerNormalization")),
    "LayerNormalization, no scale": (17, lambda s: s.norm("LayerNormalization")),
    "ReLU6": (6, _Builder.relu6),
    "RMSNormalization": (23, lambda s: s.norm("RMSNormalization")),
    "RMSNormalization, no scale": (23, lambda s: s.norm("RMSNormalization")),
}
"""By pattern: the first opset that has the operator, and what creates it."""

_SPELLINGS: dict[str, Callable[[_Builder], None]] = {
    "Gelu": _Builder.spell_gelu,
    "Gelu (tanh)": _Builder.spell_tanh_gelu,
    "HardSwish": _Builder.spell_hard_swish,
    "LayerNormalization": _Builder.spell_layer_norm,
    "RMSNormalization": _Builder.spell_rms_norm,
}
