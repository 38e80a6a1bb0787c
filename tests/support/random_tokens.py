"""Random graphs on tokens: products with biases, elementwise functions, heads, shortcuts.

Products share inputs, values are read twice or are graph outputs, extents may be symbolic, and
Reshapes specify their targets in every way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["TokenGraph"]

_UNARY = ("Relu", "Gelu", "Sigmoid", "Tanh", "HardSwish", "Neg", "LeakyRelu")


class TokenGraph:
    """A graph that grows from the tokens `x`.

    Args:
        seed: The seed of the graph.
        symbolic: Whether the number of samples or of tokens may be symbolic.
    """

    def __init__(self, seed: int, *, symbolic: bool = True) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.opset = int(rng.choice([20, 21, 23]))
        samples, tokens = int(rng.integers(1, 4)), int(rng.choice([1, 5, 6]))
        self.dims: list[int | str] = [samples, tokens]
        if symbolic and rng.random() < 0.3:
            self.dims[int(rng.integers(2))] = "N"
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outputs: list[str] = []
        self.sizes = {"x": int(rng.choice([4, 6]))}  # the last extent of each value
        for _ in range(int(rng.integers(2, 14))):
            kinds: list[Callable[[], None]] = [
                *(self.product,) * 6,
                *(self.unary,) * 3,
                *(self.scalar, self.binary, self.gated) * 2,
                *(self.heads, self.heads, self.normalized, self.given, self.reshaped),
            ]
            kinds[int(rng.integers(len(kinds)))]()

    def constant(self, array: object, dtype: type[np.generic] = np.float32) -> str:
        """Add a constant; return its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op: str, *inputs: str, size: int | None = None, **attributes: object) -> str:
        """Add a node; return the name of its result, which with a size is a value of tokens."""
        out = f"v{len(self.nodes)}"
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], name, **attributes))  # type: ignore[arg-type]
        if size is not None:
            self.sizes[out] = size
        return out

    def some(self) -> str:
        """Pick a value of tokens, most often the latest."""
        names = list(self.sizes)
        return names[-1] if self.rng.random() < 0.6 else str(self.rng.choice(names))

    def product(self) -> None:
        """Append a MatMul and an Add, in either order, with a bias of rank one or two."""
        x, n = self.some(), int(self.rng.choice([4, 6]))
        weight = self.constant(self.rng.standard_normal((self.sizes[x], n)) / 2)
        y = self.node("MatMul", x, weight)
        shape = [(n,), (n,), (n,), (1, n), (1, 1, n), ()][int(self.rng.integers(6))]
        operands = [y, self.constant(self.rng.standard_normal(shape))]
        if self.rng.random() < 0.5:
            operands.reverse()
        self.node("Add", *operands, size=n)

    def unary(self) -> None:
        """Append an elementwise function."""
        x = self.some()
        self.node(str(self.rng.choice(_UNARY)), x, size=self.sizes[x])

    def scalar(self) -> None:
        """Append a product with a scalar, or with one value per channel."""
        x = self.some()
        shape = [(), (1,), (1, 1), (1, 1, 1), (self.sizes[x],)][int(self.rng.integers(5))]
        factor = self.constant(self.rng.standard_normal(shape))
        self.node(str(self.rng.choice(["Mul", "Add", "Div"])), x, factor, size=self.sizes[x])

    def binary(self) -> None:
        """Append a sum or a product of two values."""
        x = self.some()
        alike = [name for name, size in self.sizes.items() if size == self.sizes[x]]
        op = str(self.rng.choice(["Add", "Mul", "Sub"]))
        self.node(op, x, str(self.rng.choice(alike)), size=self.sizes[x])

    def gated(self) -> None:
        """Append a product of a value with its own gate."""
        x = self.some()
        self.node("Mul", x, self.node("Sigmoid", x), size=self.sizes[x])

    def normalized(self) -> None:
        """Append a layer normalization."""
        x = self.some()
        scale = self.constant(self.rng.random(self.sizes[x]) + 0.5)
        self.node("LayerNormalization", x, scale, size=self.sizes[x])

    def heads(self) -> None:
        """Split channels into two heads, transpose, and join them again."""
        x, n = self.some(), None
        n = self.sizes[x]
        first, second = self.dims
        cuts: list[list[int]] = [[0, 0, 2, n // 2]]
        if isinstance(second, int):
            cuts.append([-1, second, 2, n // 2])
        if isinstance(first, int):
            cuts.append([first, -1, 2, n // 2])
        y = self.node("Reshape", x, self.shape(cuts[int(self.rng.integers(len(cuts)))]))
        turned = self.node("Transpose", y, perm=[0, 2, 1, 3])
        back = self.node("Transpose", self.node("Softmax", turned), perm=[0, 2, 1, 3])
        self.node("Reshape", back, self.shape([0, 0, n]), size=n)

    def reshaped(self) -> None:
        """Flatten the tokens to rows and restore them."""
        x = self.some()
        n = self.sizes[x]
        if not all(isinstance(d, int) for d in self.dims):
            return
        rows = self.node("Reshape", x, self.shape([-1, n]))
        self.node("Reshape", rows, self.shape([*self.dims, n]), size=n)  # type: ignore[list-item]

    def shape(self, extents: list[int]) -> str:
        """Return a constant of extents."""
        return self.constant(extents, np.int64)

    def given(self) -> None:
        """Make a value a graph output."""
        x = self.some()
        if x != "x" and x not in self.outputs:
            self.outputs.append(x)

    @property
    def model(self) -> onnx.ModelProto:
        """Return the model, with unread values as outputs."""
        read = {name for node in self.nodes for name in node.input}
        ends = [n.output[0] for n in self.nodes if n.output[0] not in read]
        outputs = list(dict.fromkeys([*self.outputs, *ends]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*self.dims, self.sizes["x"]])
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
        if not outputs:
            self.node("Relu", "x", size=self.sizes["x"])
            return self.model
        graph = helper.make_graph(self.nodes, "tokens", [x], infos, self.constants)
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)
