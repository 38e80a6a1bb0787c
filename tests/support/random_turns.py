"""Random graphs in which values are transposed and nodes of every kind stand between.

Axis orders are permutations of 3 to 5 axes, extents are often 1 or equal, values have several
consumers, and some are graph outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

__all__ = ["TurnedGraph"]

Array = npt.NDArray[Any]
OPSETS = (8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 22)
UNARY = [
    "Relu",
    "Sigmoid",
    "Neg",
    "Abs",
    "Tanh",
    "Exp",
    "Elu",
    "LeakyRelu",
    "HardSigmoid",
    "Softplus",
    "Floor",
    "Identity",
]
BINARY = ["Add", "Mul", "Sub", "Max", "Min"]


class TurnedGraph:
    """A graph that grows by nodes that onnxruntime can run.

    Args:
        seed: The seed of the graph.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        rank = int(self.rng.integers(3, 6))
        self.shape = [int(n) for n in self.rng.choice([1, 2, 2, 3, 4], rank)]
        x = self.rng.standard_normal(self.shape).astype(np.float32)
        self.values: dict[str, Array] = {"x": x}
        # Few orders, so that some cancel.
        order = [int(axis) for axis in self.rng.permutation(rank)]
        self.orders = [order, [order.index(axis) for axis in range(rank)]]
        if self.rng.random() < 0.3:
            self.orders.append([int(axis) for axis in self.rng.permutation(rank)])
        for _ in range(int(self.rng.integers(3, 14))):
            kinds: list[Callable[[], None]] = [
                *(self.turn,) * 5,
                *(self.unary,) * 3,
                *(self.binary,) * 2,
                *(self.constant_operand,) * 2,
                *(self.joined, self.split, self.reduced, self.padded, self.softmax),
                *(self.cut, self.asked, self.flat, self.product, self.squeezed, self.chosen),
                *(self.placed, self.placed, self.repeated, self.quantized),
            ]
            kinds[int(self.rng.integers(len(kinds)))]()

    # -- Growing ----------------------------------------------------------------------------

    def add(self, op: str, inputs: list[Any], outputs: int = 1, /, **attributes: Any) -> bool:
        """Add a node, with arrays among its inputs as constants; return whether it runs."""
        named: list[str] = []
        new: list[onnx.TensorProto] = []
        for value in inputs:
            if isinstance(value, str):
                named.append(value)
            else:
                name = f"c{len(self.constants) + len(new)}"
                new.append(numpy_helper.from_array(np.asarray(value), name))
                named.append(name)
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, named, names, f"n{len(self.nodes)}", **attributes)
        read = [n for n in dict.fromkeys(named) if n in self.values]
        found = self._run(node, read, names, new)
        if found is None:
            return False
        self.nodes.append(node)
        self.constants += new
        self.values.update(zip(names, found, strict=True))
        return True

    def _run(
        self,
        node: onnx.NodeProto,
        read: list[str],
        names: list[str],
        constants: list[onnx.TensorProto],
    ) -> list[Array] | None:
        kinds = {n: helper.np_dtype_to_tensor_dtype(self.values[n].dtype) for n in read}
        inputs = [
            helper.make_tensor_value_info(n, k, self.values[n].shape) for n, k in kinds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        graph = helper.make_graph([node], "g", inputs, outputs, constants)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(model.SerializeToString(), options)
            found = session.run(None, {n: self.values[n] for n in read})
        except Exception:
            return None
        return [np.asarray(a) for a in found]

    def some(self, rank: int | None = None) -> str:
        """Pick a float value, usually a late one."""
        names = [n for n, a in self.values.items() if a.dtype == np.float32 and a.ndim]
        names = [n for n in names if rank is None or self.values[n].ndim == rank] or ["x"]
        late = self.rng.random() < 0.7
        return names[-1] if late else names[int(self.rng.integers(len(names)))]

    def axis(self, x: str) -> int:
        """Pick an axis of a value."""
        rank = self.values[x].ndim
        return int(self.rng.integers(-rank, rank))

    # -- Nodes ------------------------------------------------------------------------------

    def turn(self) -> None:
        """Append a Transpose."""
        x = self.some(len(self.shape))
        order = self.orders[int(self.rng.integers(len(self.orders)))]
        self.add("Transpose", [x], perm=order)

    def unary(self) -> None:
        """Append an elementwise function of one value."""
        self.add(str(self.rng.choice(UNARY)), [self.some()])

    def binary(self) -> None:
        """Append an elementwise function of two values whose extents match."""
        x = self.some()
        others = [n for n, a in self.values.items() if a.dtype == np.float32]
        self.add(str(self.rng.choice(BINARY)), [x, others[int(self.rng.integers(len(others)))]])

    def constant_operand(self) -> None:
        """Append an elementwise function with a constant that broadcasts."""
        x = self.some()
        shape = list(self.values[x].shape)
        shape = [n if self.rng.random() < 0.5 else 1 for n in shape]
        shape = shape[int(self.rng.integers(0, len(shape))) :]
        c = self.rng.standard_normal(shape).astype(np.float32)
        pair = [x, c] if self.rng.random() < 0.6 else [c, x]
        op = str(self.rng.choice([*BINARY, "PRelu"]))
        # The slope of a PRelu is its second input and has no larger extents than the first.
        self.add(op, [x, c] if op == "PRelu" else pair)

    def joined(self) -> None:
        """Concatenate a value with itself or with another one."""
        x = self.some()
        others = [n for n, a in self.values.items() if a.ndim == self.values[x].ndim]
        other = others[int(self.rng.integers(len(others)))]
        self.add("Concat", [x, other], axis=self.axis(x) if self.opset > 10 else 1)

    def split(self) -> None:
        """Split a value in two."""
        x = self.some()
        axis = self.axis(x) % self.values[x].ndim
        if self.values[x].shape[axis] % 2 == 0 and self.opset < 18:
            self.add("Split", [x], 2, axis=axis)

    def reduced(self) -> None:
        """Append a mean over some axes."""
        x = self.some()
        rank = self.values[x].ndim
        count = int(self.rng.integers(1, rank + 1))
        axes = [int(axis) for axis in self.rng.permutation(rank)[:count]]
        keep = int(self.rng.random() < 0.6)
        op = str(self.rng.choice(["ReduceMean", "ReduceMax"]))
        if self.opset < 18:
            self.add(op, [x], axes=axes, keepdims=keep)
        else:
            self.add(op, [x, np.array(axes)], keepdims=keep)

    def padded(self) -> None:
        """Append a padding on any axis."""
        x = self.some()
        pads = [int(n) for n in self.rng.integers(0, 2, 2 * self.values[x].ndim)]
        mode = str(self.rng.choice(["constant", "edge"]))
        if self.opset < 11:
            self.add("Pad", [x], pads=pads, mode=mode)
        else:
            self.add("Pad", [x, np.array(pads)], mode=mode)

    def softmax(self) -> None:
        """Append a softmax along an axis, with the semantics of the opset."""
        x = self.some()
        axis = self.axis(x) if self.opset > 10 else self.axis(x) % self.values[x].ndim
        self.add("Softmax", [x], axis=axis)

    def cut(self) -> None:
        """Append a slice of a value."""
        x = self.some()
        if self.opset > 9:
            ends = [np.array([n]) for n in (0, int(self.rng.integers(1, 3)))]
            self.add("Slice", [x, *ends, np.array([self.axis(x)])])

    def asked(self) -> None:
        """Append the extents of a value, added to one."""
        x = self.some()
        if self.add("Shape", [x]):
            self.add("Cast", [list(self.values)[-1]], to=1)

    def flat(self) -> None:
        """Flatten a value to a list or a matrix."""
        x = self.some()
        if self.rng.random() < 0.5:
            self.add("Flatten", [x], axis=int(self.rng.integers(0, self.values[x].ndim)))
        else:
            shape = [0, -1] if self.rng.random() < 0.5 else [-1, self.values[x].shape[-1]]
            self.add("Reshape", [x, np.array(shape)])

    def product(self) -> None:
        """Append a product with a matrix, along the last axis."""
        x = self.some()
        m = self.values[x].shape[-1]
        self.add("MatMul", [x, self.rng.standard_normal((m, m)).astype(np.float32)])

    def squeezed(self) -> None:
        """Remove axes of extent one and insert others."""
        x = self.some()
        axes = [i for i, n in enumerate(self.values[x].shape) if n == 1][:2]
        op = "Squeeze" if axes and self.rng.random() < 0.5 else "Unsqueeze"
        axes = axes if op == "Squeeze" else [int(self.rng.integers(0, self.values[x].ndim + 1))]
        if self.opset < 13:
            self.add(op, [x], axes=axes)
        else:
            self.add(op, [x, np.array(axes)])

    def chosen(self) -> None:
        """Append a Where of two values."""
        x = self.some()
        if self.opset > 8 and self.add("Greater", [x, np.array(0, np.float32)]):
            self.add("Where", [list(self.values)[-1], x, self.some()])

    def placed(self) -> None:
        """What looks along one axis: for indices, the largest, sums."""
        x = self.some()
        axis = self.axis(x)
        extent = self.values[x].shape[axis]
        keep, kind = int(self.rng.random() < 0.6), int(self.rng.integers(4))
        if kind == 0:
            indices = self.rng.integers(0, extent, 3 if self.rng.random() < 0.6 else ())
            self.add("Gather", [x, np.asarray(indices)], axis=axis)
        elif kind == 1:
            axis = axis if self.opset > 10 else axis % self.values[x].ndim
            if self.add("ArgMax", [x], axis=axis, keepdims=keep):
                self.add("Cast", [list(self.values)[-1]], to=1)
        elif kind == 2 and self.opset > 10:
            self.add("CumSum", [x, np.array(axis)], reverse=keep)
        elif self.opset > 9:
            self.add("TopK", [x, np.array([1 + keep])], 2, axis=axis)

    def repeated(self) -> None:
        """A value put beside itself, or one that broadcasts."""
        x = self.some()
        rank = self.values[x].ndim
        numbers = self.rng.integers(1, 3, rank)
        if self.rng.random() < 0.5:
            self.add("Tile", [x, numbers])
        else:
            self.add("Expand", [x, numbers[int(self.rng.integers(rank)) :]])

    def quantized(self) -> None:
        """A value as integers and back, by one scale or by one for each place on an axis."""
        x, by = self.some(), {}
        scale, zero = np.array(0.25, np.float32), np.array(128, np.uint8)
        if self.opset > 12 and self.rng.random() < 0.5:
            by = {"axis": self.axis(x)}
            extent = self.values[x].shape[by["axis"]]
            scale, zero = np.linspace(0.1, 0.3, extent, dtype=np.float32), zero.repeat(extent)
        if self.opset > 9 and self.add("QuantizeLinear", [x, scale, zero], **by):
            self.add("DequantizeLinear", [list(self.values)[-1], scale, zero], **by)

    # -- Models -----------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """Return the model; non-static extents have names, and unread values are outputs."""
        read = {name for node in self.nodes for name in node.input}
        made = [name for node in self.nodes for name in node.output]
        ends = [n for n in made if n not in read or self.rng.random() < 0.1] or ["x"]
        if ends == ["x"]:
            self.add("Identity", ["x"])
            ends = [list(self.values)[-1]]
        extents = [f"D{i}" if self.rng.random() < 0.4 else n for i, n in enumerate(self.shape)]
        outputs = [
            helper.make_tensor_value_info(
                n,
                helper.np_dtype_to_tensor_dtype(self.values[n].dtype),
                [None] * self.values[n].ndim,
            )
            for n in ends
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, extents)
        graph = helper.make_graph(self.nodes, "g", [x], outputs, self.constants)
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def run(self, model: onnx.ModelProto) -> list[Array]:
        """Run a model on x."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options)
        return [np.asarray(a) for a in session.run(None, {"x": self.values["x"]})]
