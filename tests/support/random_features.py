"""Random graphs in which dense layers read and compute what Transposes and Reshapes lay out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FeatureGraph"]

Array = npt.NDArray[Any]
UNARY = ("Relu", "Sigmoid", "Neg", "Tanh", "Clip")
OPSETS = (8, 11, 13, 17, 18, 21)


class FeatureGraph:
    """A graph from an image, or from features, to what dense layers compute of it.

    Args:
        seed: The seed of the graph.

    Attributes:
        model: The model; its input `x` has a batch of symbolic extent.
        shape: The extents of `x` without the batch.
        is_plain: Whether dense layers can take in each order of features, so that no Transpose
            has to stay.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.outputs: list[str] = []
        self.is_plain = True
        self.extents = self.drawn()
        self.shape = self.extents if self.chance(0.5) else [self.count]
        x = self.image("x", computed=len(self.shape) == 1 and len(self.extents) > 1)
        while self.chance(0.4):
            x = self.image(self.features(x), computed=True)
        if self.chance(0.7):
            self.read(self.features(x))
        else:
            self.outputs.append(self.add("Relu", [x]))
            self.is_plain &= any(node.op_type == "Reshape" for node in self.nodes)
        self.model = self._model()

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; return the name of its result."""
        name = f"v{len(self.nodes)}"
        node = helper.make_node(op, inputs, [name], f"n{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        return name

    def constant(self, array: Array) -> str:
        """Append an initializer; return its name."""
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def floats(self, *shape: int) -> str:
        """Append an initializer of random numbers."""
        return self.constant((self.rng.standard_normal(shape) / 2).astype(np.float32))

    def pick(self, *these: str) -> str:
        """Pick one of several."""
        return these[int(self.rng.integers(len(these)))]

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return bool(self.rng.random() < probability)

    def drawn(self) -> list[int]:
        """Draw the extents of an image."""
        return [int(n) for n in self.rng.choice([1, 2, 3, 4], int(self.rng.integers(2, 5)))]

    @property
    def count(self) -> int:
        """The number of features."""
        return int(np.prod(self.extents))

    # -- Nodes ------------------------------------------------------------------------------

    def transpose(self, x: str) -> str:
        """Append a Transpose of an image's axes behind the batch."""
        order = [int(axis) for axis in self.rng.permutation(len(self.extents))]
        self.extents = [self.extents[axis] for axis in order]
        return self.add("Transpose", [x], perm=[0, *(axis + 1 for axis in order)])

    def between(self, x: str) -> str:
        """Append elementwise nodes, or none, on images or on features."""
        for _ in range(int(self.rng.integers(0, 3))):
            op = self.pick(*UNARY, "Add", "Mul", "own")
            if op == "own":
                x = self.add("Mul", [x, self.add("Sigmoid", [x])])
            elif op in {"Add", "Mul"}:
                operands = [x, self.floats(*((1,) if self.chance(0.5) else ()))]
                x = self.add(op, operands[:: int(self.rng.choice([-1, 1]))])
            elif op == "Clip" and self.opset >= 11:
                low = self.constant(np.array(-0.5, np.float32))
                x = self.add(op, [x, low])
            else:
                x = self.add(op, [x])
        return x

    def on_features(self, x: str) -> str:
        """Append nodes on features, some with a number for each."""
        x = self.between(x)
        if self.chance(0.4):
            shape = (self.count,) if self.chance(0.5) else (1, self.count)
            x = self.add(self.pick("Add", "Mul"), [x, self.floats(*shape)])
            x = self.add("Relu", [x])
        return x

    def dense(self, x: str, m: int, n: int) -> str:
        """Append a dense layer in one of its spellings."""
        kind = self.pick("MatMul", "Gemm", "transB", "Add")
        if kind in {"MatMul", "Add"}:
            y = self.add("MatMul", [x, self.floats(m, n)])
            return y if kind == "MatMul" else self.add("Add", [y, self.floats(n)])
        weight = self.floats(*((n, m) if kind == "transB" else (m, n)))
        operands = [x, weight, self.floats(*((n,) if self.chance(0.7) else (1, 1)))]
        return self.add("Gemm", operands, transB=int(kind == "transB"))

    def image(self, x: str, *, computed: bool) -> str:
        """Append Transposes, behind a dense layer and a Reshape where x is of features."""
        if computed:
            m, self.extents = self.count, self.drawn()
            x = self.on_features(self.dense(x, m, self.count))
            self.stop(x, 0.1)
            x = self.add("Reshape", [x, self.constant(np.array([-1, *self.extents]))])
        for _ in range(int(self.rng.integers(1, 3))):
            x = self.transpose(self.between(x))
        return self.between(x)

    def features(self, x: str) -> str:
        """Append a Reshape to features."""
        if self.chance(0.5):
            y = self.add("Flatten", [x])
        else:
            batch = int(self.rng.choice([-1, 0]))
            y = self.add("Reshape", [x, self.constant(np.array([batch, self.count]))])
        y = self.on_features(y)
        if self.chance(0.3):
            y = self.on_features(self.joined(y))
        self.stop(y, 0.2)
        return y

    def joined(self, y: str) -> str:
        """Append a Concat with other features, before or behind."""
        count = int(self.rng.integers(1, 4))
        pair = [y, self.add("Relu", [self.dense(y, self.count, count)])]
        self.extents = [self.count + count]
        axis = 1 if self.opset < 11 or self.chance(0.5) else -1
        return self.add("Concat", pair[:: int(self.rng.choice([-1, 1]))], axis=axis)

    def read(self, y: str) -> None:
        """Append the dense layers that read features."""
        for _ in range(int(self.rng.integers(1, 3))):
            self.outputs.append(self.dense(y, self.count, int(self.rng.integers(1, 4))))

    def stop(self, y: str, probability: float) -> None:
        """Maybe append what needs features in their own order."""
        if not self.chance(probability):
            return
        self.is_plain = False
        kind = self.pick("Softmax", "output", "Concat")
        if kind == "Softmax":
            y = self.add("Softmax", [y])
        elif kind == "Concat":
            y = self.add("Concat", [y, y], axis=1)
        self.outputs.append(y)

    def _model(self) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])
        outputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(self.outputs)]
        constants = [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "features", [x], outputs, constants)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        return model
