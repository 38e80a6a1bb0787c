"""Graphs in the style of paddle2onnx and of Optimum's exports, of any size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["Optimum", "Paddle"]

Array = npt.NDArray[Any]


@dataclass
class Writer:
    """Writes nodes with names in the style of an exporter.

    Attributes:
        stem: The prefix of the names.
        width: The number of channels of a layer.
    """

    stem: str
    width: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"{self.stem}{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def given(self, array: Array) -> str:
        """Add a Constant node."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(array)))

    def number(self, value: float, *shape: int) -> str:
        """Add a Constant node of one number."""
        return self.given(np.full(shape, value, np.float32))

    def weight(self, *shape: int) -> str:
        """Add an initializer."""
        fan = max(1, int(np.prod(shape[1:])))
        name = f"{self.stem}w.{len(self.stored)}"
        array = (self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def model(
        self, inputs: dict[str, tuple[int, list[Any]]], y: str, rank: int, opset: int
    ) -> onnx.ModelProto:
        """Return the model of inputs, given with types and extents, and the rank of its output."""
        values = [helper.make_tensor_value_info(n, *kind) for n, kind in inputs.items()]
        out = helper.make_tensor_value_info(y, 1, [None] * rank)
        graph = helper.make_graph(self.nodes, "g", values, [out], self.stored)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


# -- paddle2onnx --------------------------------------------------------------------------------


class Paddle(Writer):
    """Layers of PaddleClas and PaddleOCR."""

    def normalized(self, x: str, m: int, n: int, k: int, stride: int = 1, group: int = 1) -> str:
        """Append a convolution and its normalization."""
        attributes = {"strides": [stride] * 2, "pads": [k // 2] * 4, "group": group}
        x = self.op("Conv", x, self.weight(n, m // group, k, k), **attributes)
        numbers = [self.weight(n) for _ in range(3)]
        self.stored.append(
            numpy_helper.from_array(self.rng.uniform(0.5, 2, n).astype(np.float32), f"v.{x}")
        )
        return self.op("BatchNormalization", x, *numbers, f"v.{x}")

    def scaled(self, x: str, scale: float, shift: float) -> str:
        """Append a scale as Paddle writes it."""
        return self.op("Add", self.op("Mul", x, self.number(scale, 1)), self.number(shift, 1))

    def hard_swish(self, x: str) -> str:
        """Append a HardSwish as in opsets without the operator."""
        bounds = self.number(0), self.number(6)
        gate = self.op("Clip", self.op("Add", x, self.number(3, 1)), *bounds)
        return self.op("Div", self.op("Mul", x, gate), self.number(6, 1))

    def biased(self, x: str, m: int, n: int) -> str:
        """Append a convolution whose bias is reshaped and added."""
        x = self.op("Conv", x, self.weight(n, m, 1, 1))
        shape = self.given(np.array([1, n, 1, 1]))
        return self.op("Add", x, self.op("Reshape", self.weight(n), shape))

    def excited(self, x: str, n: int) -> str:
        """Append squeeze and excite."""
        s = self.op("Relu", self.biased(self.op("GlobalAveragePool", x), n, 4))
        s = self.op("HardSigmoid", self.biased(s, 4, n), alpha=1 / 6, beta=0.5)
        return self.op("Mul", x, s)

    def backbone(self, depth: int) -> list[str]:
        """Append a stem and inverted residual blocks like MobileNetV3's; return all results."""
        n = self.width
        x = self.hard_swish(self.normalized(self.scaled("x", 1 / 255, -0.5), 3, n, 3, 2))
        found = [x]
        for _ in range(depth):
            y = self.hard_swish(self.normalized(x, n, 2 * n, 1))
            y = self.hard_swish(self.normalized(y, 2 * n, 2 * n, 3, group=2 * n))
            x = self.op("Add", x, self.normalized(self.excited(y, 2 * n), 2 * n, n, 1))
            found.append(x)
        return found

    def classifier(self, size: list[Any], depth: int = 2, classes: int = 5) -> onnx.ModelProto:
        """Build a classifier like those of PaddleClas."""
        x = self.op("GlobalAveragePool", self.backbone(depth)[-1])
        ends = [self.given(np.array([n])) for n in (0, 1)]
        batch = self.op("Slice", self.op("Shape", x), *ends)
        shape = self.op("Concat", batch, self.given(np.array([-1])), axis=0)
        x = self.op("MatMul", self.op("Reshape", x, shape), self.weight(self.width, classes))
        x = self.scaled(self.op("Add", x, self.weight(classes)), 1.0, 0.0)
        return self.model({"x": (1, size)}, self.op("Softmax", x, axis=1), 2, 13)

    def detector(self, size: list[Any], depth: int = 2) -> onnx.ModelProto:
        """Build a detector of text like those of PaddleOCR: a pyramid and two deconvolutions."""
        n, levels = self.width, self.backbone(depth)
        low = self.normalized(levels[-1], n, 2 * n, 3, 2)
        high = [
            self.op("Conv", x, self.weight(n, m, 1, 1)) for x, m in ((levels[-1], n), (low, 2 * n))
        ]
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
        scales = self.given(np.array([1, 1, 2, 2], np.float32))
        up = self.op("Resize", high[1], "", scales, nearest_mode="floor", **how)
        x = self.op("Concat", self.op("Add", high[0], up), up, axis=1)
        x = self.op("Relu", self.normalized(x, 2 * n, n, 3))
        for m, k, last in ((n, n, False), (n, 1, True)):
            x = self.op("ConvTranspose", x, self.weight(m, k, 2, 2), strides=[2, 2])
            shape = self.given(np.array([1, k, 1, 1]))
            x = self.op("Add", x, self.op("Reshape", self.weight(k), shape))
            if not last:
                names = [self.weight(k) for _ in range(3)]
                variance = self.rng.uniform(0.5, 2, k).astype(np.float32)
                self.stored.append(numpy_helper.from_array(variance, f"v.{x}"))
                x = self.op("Relu", self.op("BatchNormalization", x, *names, f"v.{x}"))
        return self.model({"x": (1, size)}, self.op("Sigmoid", x), 4, 13)


# -- Optimum ------------------------------------------------------------------------------------


@dataclass
class Optimum(Writer):
    """A transformer with dynamic batch and length.

    Attributes:
        heads: The number of heads.
        opset: The operator set; from 17 on normalizations are operators.
    """

    heads: int = 4
    opset: int = 14

    def linear(self, x: str, m: int, n: int) -> str:
        """Append a product and a sum with the bias first, as torch's exporter writes it."""
        return self.op("Add", self.weight(n), self.op("MatMul", x, self.weight(m, n)))

    def shaped(self, x: str, like: str, *rest: int) -> str:
        """Append a Reshape to batch, length and further extents, by index arithmetic."""
        parts = [
            self.op("Unsqueeze", self.op("Gather", self.op("Shape", like), place), axis)
            for place, axis in (
                (self.given(np.array(i)), self.given(np.array([0]))) for i in (0, 1)
            )
        ]
        parts += [self.given(np.array([n])) for n in rest]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def normalized(self, x: str) -> str:
        """Append a layer normalization, of elementary nodes where there is no operator."""
        scale, shift = self.weight(self.width), self.weight(self.width)
        if self.opset >= 17:
            return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)
        d = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        v = self.op("ReduceMean", self.op("Pow", d, self.number(2)), axes=[-1])
        n = self.op("Div", d, self.op("Sqrt", self.op("Add", v, self.number(1e-5))))
        return self.op("Add", self.op("Mul", n, scale), shift)

    def gelu(self, x: str) -> str:
        """Append a GELU of elementary nodes."""
        e = self.op("Erf", self.op("Div", x, self.number(2**0.5)))
        e = self.op("Mul", x, self.op("Add", e, self.number(1)))
        return self.op("Mul", e, self.number(0.5))

    def layer(self, x: str, mask: str) -> str:
        """Append attention and two dense layers."""
        n, each = self.width, self.width // self.heads
        q, k, v = (self.shaped(self.linear(x, n, n), x, self.heads, each) for _ in range(3))
        orders = ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
        q, k, v = (self.op("Transpose", t, perm=perm) for t, perm in orders)
        a = self.op("Div", self.op("MatMul", q, k), self.number(each**0.5))
        a = self.op("Softmax", self.op("Add", a, mask), axis=-1)
        o = self.op("Transpose", self.op("MatMul", a, v), perm=[0, 2, 1, 3])
        o = self.linear(self.shaped(o, o, n), n, n)
        x = self.normalized(self.op("Add", o, x))
        y = self.linear(self.gelu(self.linear(x, n, self.inner)), self.inner, n)
        return self.normalized(self.op("Add", y, x))

    @property
    def inner(self) -> int:
        """The features between the two dense layers."""
        return 4 * self.width

    def network(self, depth: int = 2, words: int = 30) -> onnx.ModelProto:
        """Build an embedding and some layers."""
        mask = self.op("Cast", "mask", to=1)
        for axis in (1, 2):
            mask = self.op("Unsqueeze", mask, self.given(np.array([axis])))
        mask = self.op("Mul", self.op("Sub", self.number(1), mask), self.number(-1e4))
        x = self.normalized(self.op("Gather", self.weight(words, self.width), "ids", axis=0))
        for _ in range(depth):
            x = self.layer(x, mask)
        inputs: dict[str, tuple[int, list[Any]]] = {
            "ids": (7, ["B", "S"]),
            "mask": (7, ["B", "S"]),
        }
        return self.model(inputs, x, 3, self.opset)
