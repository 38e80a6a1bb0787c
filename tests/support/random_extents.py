"""Random graphs that compute where their numbers go from symbolic extents.

Targets of Reshape and Expand are made of Shape, Gather, arithmetic, Concat and Where, as exporters
spell them, in front of and behind linear nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["extent_graph"]

Array = npt.NDArray[Any]
_Extent = tuple[int, int]
"""A coefficient and a power of the batch, which is 0 or 1."""


class _Graph:
    """A graph in the making, with the extents of its values.

    Those of odd seeds compute some extents in ways that no rule follows.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.hides = seed % 2 == 1
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.extents: dict[str, tuple[_Extent, ...]] = {}

    def draw(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"n{name}", **attributes))
        return name

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, value: int) -> str:
        return self.constant(np.array(value, np.int64))

    def read(self, wanted: _Extent) -> str:
        """Compute one extent, a scalar, from the shape of a value that has a multiple of it."""
        coefficient, power = wanted
        if not power and self.draw(0, 1, 1):
            return self.number(coefficient)
        sources = [
            (name, axis, extent[0])
            for name, extents in self.extents.items()
            for axis, extent in enumerate(extents)
            if extent[1] == power
        ]
        fitting = [s for s in sources if s[2] % coefficient == 0 or coefficient % s[2] == 0]
        if not fitting:
            return self.number(coefficient)
        name, axis, own = self.draw(*fitting)
        at = self.number(axis - self.draw(0, len(self.extents[name])))
        found = self.add("Gather", self.add("Shape", name), at, axis=0)
        if own > coefficient or (own == coefficient and self.draw(0, 0, 1)):
            found = self.add("Div", found, self.number(own // coefficient))
        elif own < coefficient:
            found = self._times(found, coefficient // own)
        if self.hides and self.draw(0, 1):
            other = self.number(3)
            found = self.add("Sub", self.add("Add", found, other), other)
        return found

    def _times(self, value: str, factor: int) -> str:
        if factor == 2 and self.draw(0, 1):
            return self.add("Add", value, value)
        pair = [value, self.number(factor)]
        return self.add("Mul", *(pair if self.draw(0, 1) else pair[::-1]))

    def target(self, extents: tuple[_Extent, ...], *, infers: bool) -> str:
        """Compute a target, which may leave one extent to be inferred."""
        left = int(self.rng.integers(len(extents))) if infers and self.draw(0, 1) else -1
        first = self.constant(np.array([0], np.int64))
        parts = [
            self.constant(np.array([-1], np.int64))
            if i == left
            else self.add("Unsqueeze", self.read(extent), first)
            for i, extent in enumerate(extents)
        ]
        whole = self.add("Concat", *parts, axis=0)
        if infers or self.draw(0, 1):
            return whole
        ones = self.constant(np.ones(len(extents), np.int64))
        minus = self.constant(np.array(-1, np.int64))
        return self.add(
            "Where", self.add("Equal", whole, self.add("Mul", ones, minus)), ones, whole
        )

    def reshaped(self, value: str) -> str:
        """Split an extent, or join two."""
        extents = list(self.extents[value])
        axis = int(self.rng.integers(len(extents)))
        coefficient, power = extents[axis]
        divisors = [d for d in (2, 3, 4) if coefficient % d == 0]
        if len(extents) > 1 and (not divisors or self.draw(0, 1)):
            axis = min(axis, len(extents) - 2)
            (a, p), (b, q) = extents[axis : axis + 2]
            if p + q > 1:
                return value
            extents[axis : axis + 2] = [(a * b, p + q)]
        elif divisors:
            d = self.draw(*divisors)
            pair = [(d, 0), (coefficient // d, power)]
            extents[axis : axis + 1] = pair if self.draw(0, 1) else pair[::-1]
        name = self.add("Reshape", value, self.target(tuple(extents), infers=True))
        self.extents[name] = tuple(extents)
        return name

    def expanded(self, value: str) -> str:
        """Expand to what it is, or a row to that."""
        extents = self.extents[value]
        if self.draw(0, 1):
            name = self.add("Expand", value, self.target(extents, infers=False))
        else:
            last = extents[-1] if not extents[-1][1] else (1, 0)
            row = self.constant(self.rng.standard_normal(last[0]).astype(np.float32))
            full = self.add("Expand", row, self.target(extents, infers=False))
            name = self.add(self.draw("Add", "Mul"), value, full)
        self.extents[name] = extents
        return name

    def mapped(self, value: str) -> str:
        """Scale, shift, bend, turn or multiply by a matrix."""
        extents = self.extents[value]
        op = self.draw("Mul", "Add", "Relu", "Transpose", "MatMul")
        if op == "Transpose":
            perm = [int(p) for p in self.rng.permutation(len(extents))]
            name = self.add(op, value, perm=perm)
            extents = tuple(extents[p] for p in perm)
        elif op == "MatMul" and not extents[-1][1]:
            width = self.draw(2, 3, 4, 6)
            weight = self.rng.standard_normal((extents[-1][0], width)) / 2
            name = self.add(op, value, self.constant(weight.astype(np.float32)))
            extents = (*extents[:-1], (width, 0))
        elif op in {"Mul", "Add"}:
            size = extents[-1][0] if not extents[-1][1] and self.draw(0, 1) else 1
            name = self.add(op, value, self.constant(self.rng.uniform(0.5, 2, size).astype("f")))
        else:
            name = self.add("Relu", value)
        self.extents[name] = extents
        return name


def extent_graph(seed: int) -> onnx.ModelProto:
    """Draw a graph of a symbolic batch, which runs at every size of it but 0."""
    g = _Graph(seed)
    rank = g.draw(2, 3, 4)
    axis = g.draw(0, 0, 0, int(g.rng.integers(rank)))
    g.extents["x"] = tuple((1, 1) if i == axis else (g.draw(2, 4, 6, 8), 0) for i in range(rank))
    value = "x"
    for _ in range(int(g.rng.integers(3, 9))):
        value = g.draw(g.reshaped, g.reshaped, g.mapped, g.mapped, g.expanded)(value)
    value = g.add("Neg", value)
    shape = ["N" if power else coefficient for coefficient, power in g.extents["x"]]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)]
    graph = helper.make_graph(g.nodes, "g", inputs, outputs, g.constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)
