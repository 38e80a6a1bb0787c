"""Random networks as tf2onnx writes them: images are [N, H, W, C], but layers need [N, C, H, W].

Each convolution and pooling is surrounded by a pair of Transposes; biases, activations, padding,
shortcuts, concatenations, squeeze-and-excite and the head use the order of the source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Network", "random_network"]

TO_CHANNELS, TO_IMAGES = [0, 3, 1, 2], [0, 2, 3, 1]
ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "LeakyRelu", "HardSwish", "Swish", "PRelu", "")


@dataclass
class Network:
    """A network under construction.

    Attributes:
        rng: The source of randomness.
        opset: The opset version.
        nodes: The nodes.
        constants: The initializers.
        outputs: Names and ranks of the outputs.
    """

    rng: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    outputs: list[tuple[str, int]] = field(default_factory=list)

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        """Add a node; return the name of its first output."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attributes))
        return names[0]

    def constant(self, array: np.ndarray) -> str:
        """Add an initializer; return its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def floats(self, *shape: int) -> str:
        """Add an initializer of normal random values."""
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, *these: object) -> object:
        """Pick one of several options."""
        return these[int(self.rng.integers(len(these)))]

    def model(self, extents: list[int | str]) -> onnx.ModelProto:
        """Return the model, whose input has these extents."""
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
            for name, rank in self.outputs
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, extents)
        graph = helper.make_graph(self.nodes, "nhwc", [x], outputs, self.constants)
        opset = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    # -- Layers -----------------------------------------------------------------------------

    def turned(self, op: str, x: str, rest: list[str], **attributes: Any) -> str:
        """Append a node that works on [N, C, H, W], between Transposes."""
        inner = self.add("Transpose", [x], perm=TO_CHANNELS)
        inner = self.add(op, [inner, *rest], **attributes)
        return self.add("Transpose", [inner], perm=TO_IMAGES)

    def convolution(self, x: str, m: int, n: int, stride: int = 1) -> str:
        """Append a convolution with its bias, padded in one of three ways."""
        k = int(self.rng.choice([1, 3]))
        group = m if n == m and self.chance(0.3) else 1
        attributes: dict[str, Any] = {"strides": [stride] * 2, "group": group}
        attributes["kernel_shape"] = [k, k]
        way = self.pick("same", "explicit", "before")
        if way == "same":
            attributes["auto_pad"] = "SAME_UPPER"
        elif way == "explicit":
            attributes["pads"] = [k // 2] * 4
        else:
            pads = np.array([0, k // 2, k // 2, 0, 0, k // 2, k // 2, 0], np.int64)
            x = self.add("Pad", [x, self.constant(pads)])
        x = self.turned("Conv", x, [self.floats(n, m // group, k, k)], **attributes)
        if self.chance(0.3):
            x = self.add("Mul", [x, self.floats(n)])
        return self.add("Add", [x, self.floats(n)]) if self.chance(0.8) else x

    def activation(self, x: str, channels: int) -> str:
        """Append a nonlinear function."""
        kind = str(self.pick(*ACTIVATIONS))
        if kind == "":
            return x
        if kind == "Clip":
            low, high = (self.constant(np.array(v, np.float32)) for v in (0, 6))
            return self.add("Clip", [x, low, high])
        if kind == "Swish":
            return self.add("Mul", [x, self.add("Sigmoid", [x])])
        if kind == "HardSwish":
            low, high = (self.constant(np.array(v, np.float32)) for v in (0, 6))
            three = self.constant(np.array(3, np.float32))
            gate = self.add("Clip", [self.add("Add", [x, three]), low, high])
            sixth = self.constant(np.array(1 / 6, np.float32))
            return self.add("Mul", [self.add("Mul", [x, gate]), sixth])
        if kind == "PRelu":
            return self.add("PRelu", [x, self.floats(1, 1, channels)])
        return self.add(kind, [x])

    def mean(self, x: str, *, keep: bool) -> str:
        """Append the mean over all positions."""
        axes = [1, 2]
        if self.opset < 18:
            return self.add("ReduceMean", [x], axes=axes, keepdims=int(keep))
        given = self.constant(np.array(axes, np.int64))
        return self.add("ReduceMean", [x, given], keepdims=int(keep))

    def excited(self, x: str, n: int) -> str:
        """Append squeeze and excite (Hu et al., CVPR 2018)."""
        s = self.mean(x, keep=True)
        for a, b, op in ((n, 2, "Relu"), (2, n, "Sigmoid")):
            s = self.turned("Conv", s, [self.floats(b, a, 1, 1)], kernel_shape=[1, 1])
            s = self.add(op, [self.add("Add", [s, self.floats(b)])])
        return self.add("Mul", [x, s])

    def densely_excited(self, x: str, n: int) -> str:
        """The same as Keras writes it: matrix products, and an image of one position."""
        s = self.mean(x, keep=False)
        for a, b, op in ((n, 2, "Relu"), (2, n, "Sigmoid")):
            s = self.add(
                op, [self.add("Add", [self.add("MatMul", [s, self.floats(a, b)]), self.floats(b)])]
            )
        return self.add(
            "Mul", [x, self.add("Reshape", [s, self.constant(np.array([-1, 1, 1, n]))])]
        )

    def resized(self, x: str) -> str:
        """Twice as many rows and columns, between Transposes or not."""
        none = self.constant(np.array([], np.float32))
        mode: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
        }
        factors = np.array([1, 2, 2, 1], np.float32)
        if self.chance(0.5):
            return self.add("Resize", [x, none, self.constant(factors)], **mode)
        return self.turned("Resize", x, [none, self.constant(factors[TO_CHANNELS])], **mode)

    def block(self, x: str, m: int) -> tuple[str, int]:
        """Append one of several blocks; return its result and its number of channels."""
        kinds = ("plain", "plain", "shortcut", "branches", "excited", "dense", "pool", "parts")
        kind = self.pick(*kinds, "resized", "reordered")
        n = int(self.rng.choice([2, 4, 6]))
        if kind == "shortcut":
            y = self.activation(self.convolution(x, m, n), n)
            y = self.convolution(y, n, m)
            return self.activation(self.add("Add", [x, y]), m), m
        if kind == "branches":
            a = self.activation(self.convolution(x, m, n), n)
            b = self.convolution(x, m, 2)
            return self.add("Concat", [a, b], axis=int(self.rng.choice([3, -1]))), n + 2
        if kind == "excited":
            return self.excited(x, m), m
        if kind == "dense":
            return self.densely_excited(x, m), m
        if kind == "resized":
            return self.resized(x), m
        if kind == "reordered":
            return self.add("Gather", [x, self.constant(self.rng.permutation(m))], axis=-1), m
        if kind == "pool":
            op = str(self.pick("MaxPool", "AveragePool"))
            return self.turned(op, x, [], kernel_shape=[2, 2], strides=[2, 2]), m
        if kind == "parts" and m % 2 == 0 and self.opset < 18:
            half = self.add("Split", [x], 2, axis=3)
            other = half.removesuffix("_0") + "_1"
            a = self.activation(self.convolution(half, m // 2, n), n)
            return self.add("Concat", [a, other], axis=3), n + m // 2
        y = self.convolution(x, m, n, int(self.rng.choice([1, 2])))
        return self.activation(y, n), n

    def head(self, x: str, m: int) -> tuple[str, int]:
        """Append logits or an image; return name and rank."""
        kind = self.pick("mean", "mean", "reshaped", "pooled", "image", "shape")
        if kind == "image":
            return self.activation(self.convolution(x, m, 3), 3), 4
        if kind == "shape":
            flat = self.constant(np.array([-1], np.int64))
            return self.add("Reshape", [self.add("Cast", [self.add("Shape", [x])], to=1), flat]), 1
        if kind == "mean":
            x = self.mean(x, keep=False)
        elif kind == "reshaped":
            shape = self.constant(np.array([-1, m], np.int64))
            x = self.add("Reshape", [self.mean(x, keep=True), shape])
        else:
            x = self.turned("GlobalAveragePool", x, [])
            if self.opset < 13:
                x = self.add("Squeeze", [x], axes=[1, 2])
            else:
                x = self.add("Squeeze", [x, self.constant(np.array([1, 2], np.int64))])
        x = self.add("Add", [self.add("MatMul", [x, self.floats(m, 5)]), self.floats(5)])
        return self.add("Softmax", [x], axis=1), 2


def random_network(seed: int) -> onnx.ModelProto:
    """Draw a network."""
    rng = np.random.default_rng(seed)
    net = Network(rng, int(rng.choice([11, 13, 17, 18])))
    channels = int(rng.choice([3, 4]))
    size: list[int | str] = (
        ["N", "H", "W", channels] if net.chance(0.5) else ["N", 16, 12, channels]
    )
    x, m = "x", channels
    for _ in range(int(rng.integers(1, 6))):
        x, m = net.block(x, m)
        if net.chance(0.1) and x != "x" and all(x != name for name, _ in net.outputs):
            net.outputs.append((x, 4))
    net.outputs.append(net.head(x, m))
    return net.model(size)
