"""Random graphs of two symbolic extents, which Reshapes split, join and restore."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["empty_graph"]

_Extent = tuple[str | int, ...]
"""The factors of an extent: symbols and numbers."""


class _Graph:
    """A graph in the making; `extents` are those of its last value."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        atoms = ["N", int(self.rng.choice([2, 4])), int(self.rng.choice([1, 2, 3]))]
        atoms += ["M"] if self.rng.integers(2) else [4]
        self.extents: list[_Extent] = [(atoms[i],) for i in self.rng.permutation(len(atoms))]
        self.places = {a: i for i, (a,) in enumerate(self.extents) if isinstance(a, str)}
        self.value = "x"

    def chance(self, of: int = 2) -> bool:
        return not self.rng.integers(of)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"n{name}", **attributes))
        return name

    def constant(self, array: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(array, dtype), name))
        return name

    def step(self) -> None:
        """Append a map, or change the layout."""
        last = self.extents[-1]
        static = not any(isinstance(a, str) for a in last)
        size = int(np.prod([a for a in last if isinstance(a, int)]))
        op = self.rng.choice(["Mul", "Add", "MatMul", "Transpose", "Reshape", "Reshape"])
        if op == "Reshape":
            self._reshape()
        elif op == "Transpose":
            order = [int(i) for i in self.rng.permutation(len(self.extents))]
            self.value = self.add(op, self.value, perm=order)
            self.extents = [self.extents[i] for i in order]
        elif op == "MatMul" and static and len(self.extents) > 1:
            width = int(self.rng.choice([2, 4, 8]))
            weight = self.rng.standard_normal((size, width)) / 2
            self.value = self.add("MatMul", self.value, self.constant(weight, np.float32))
            self.extents[-1] = (width,)
        elif op != "MatMul":
            count = size if static and self.chance() else 1
            own = self.rng.uniform(0.5, 2, count)
            self.value = self.add(op, self.value, self.constant(own, np.float32))

    def _reshape(self) -> None:
        atoms = [a for extent in self.extents for a in extent]
        cuts = [True, *(not self.chance(3) for _ in atoms[1:])]
        target: list[_Extent] = []
        for atom, cut in zip(atoms, cuts, strict=True):
            target[len(target) - 1 + cut :] = [(atom,) if cut else (*target[-1], atom)]
        left = int(self.rng.integers(len(target))) if self.chance() else -1
        parts = [
            self.constant([-1]) if i == left else self._part(i, target[i])
            for i in range(len(target))
        ]
        whole = self.add("Concat", *parts, axis=0)
        self.value = self.add("Reshape", self.value, whole)
        self.extents = target

    def _part(self, i: int, extent: _Extent) -> str:
        if i < len(self.extents) and self.extents[i] == extent and self.chance(3):
            return self.constant([0])
        number = int(np.prod([a for a in extent if isinstance(a, int)]))
        names = [a for a in extent if isinstance(a, str)]
        found = self.constant([number])
        for name in names:
            own = self.add(
                "Gather", self.add("Shape", "x"), self.constant([self.places[name]]), axis=0
            )
            found = own if number == 1 and name == names[0] else self.add("Mul", own, found)
        return found


def empty_graph(seed: int) -> onnx.ModelProto:
    """Draw a graph of the symbolic extents N and M, which runs at some sizes of 0."""
    g = _Graph(seed)
    shape = [extent[0] for extent in g.extents]
    for _ in range(int(g.rng.integers(3, 9))):
        g.step()
    y = g.add("Neg", g.value)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * len(g.extents))]
    graph = helper.make_graph(g.nodes, "g", inputs, outputs, g.constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)
