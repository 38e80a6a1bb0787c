"""Models of composite patterns, and the patterns that onnxruntime fuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_expand.graph.expressions import Apply, Constant, Either, Expression, Number, Value

__all__ = ["WIDTH", "fused_ops", "model_of", "spelled"]

WIDTH = 8
_OPERATORS = {
    *("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "Gelu"),
    *("HardSwish", "HardSigmoid", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"),
}


def spelled(pattern: Expression, rng: np.random.Generator) -> Expression:
    """Return one spelling of a pattern: an option of every choice, and an order of every sum."""
    if isinstance(pattern, Either):
        return spelled(pattern.options[rng.integers(len(pattern.options))], rng)
    if not isinstance(pattern, Apply):
        return pattern
    args = tuple(spelled(arg, rng) for arg in pattern.args)
    if pattern.op in {"Add", "Mul", "Max", "Min"} and rng.integers(2):
        args = args[::-1]
    return Apply(pattern.op, args)


class _Graph:
    """Writes expressions as nodes, equal ones once."""

    def __init__(self, opset: int, dtype: type[np.floating], width: int) -> None:
        self.opset, self.dtype, self.width = opset, dtype, width
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[Expression, str] = {}

    def constant(self, name: str, array: object) -> str:
        """Return the name of a constant."""
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], f"n{len(self.nodes)}", **attributes))
        return out

    def write(self, expression: Expression) -> str:
        """Write an expression and return the name of its result."""
        if expression not in self._known:
            self._known[expression] = self._write(expression)
        return self._known[expression]

    def _write(self, expression: Expression) -> str:
        if isinstance(expression, Value):
            return expression.name
        if isinstance(expression, Number):
            return self.constant(f"c{expression.number}", self.dtype(expression.number))
        if isinstance(expression, Constant):
            if expression.name in {"scale", "shift"}:
                return self.constant(
                    expression.name, np.linspace(0.5, 1.5, self.width, dtype=self.dtype)
                )
            return self.constant(expression.name, self.dtype(1e-3))
        assert isinstance(expression, Apply)
        if expression.op == "Clip" and self.opset < 11:
            low, high = (
                float(arg.number) for arg in expression.args[1:] if isinstance(arg, Number)
            )
            return self.node("Clip", [self.write(expression.args[0])], min=low, max=high)
        inputs = [self.write(arg) for arg in expression.args]
        if expression.op == "ReduceMean":
            if self.opset < 18:
                return self.node("ReduceMean", inputs, axes=[-1])
            return self.node("ReduceMean", [*inputs, self.constant("axes", [-1])])
        if expression.op == "Cast":
            to = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
            return self.node("Cast", inputs, to=to)
        return self.node(expression.op, inputs)


def model_of(
    spelling: Expression,
    opset: int,
    dtype: type[np.floating] = np.float32,
    shape: tuple[int | str, int | str, int] = ("N", 5, WIDTH),
) -> onnx.ModelProto:
    """Build a spelling between two matrix products with biases."""
    width = shape[-1]
    graph, rng = _Graph(opset, dtype, width), np.random.default_rng(1)

    def linear(x: str, n: int, stem: str) -> str:
        weight = graph.constant(
            f"{stem}.w", (rng.standard_normal((width, n)) / width**0.5).astype(dtype)
        )
        bias = graph.constant(f"{stem}.b", rng.standard_normal(n).astype(dtype))
        return graph.node("Add", [graph.node("MatMul", [x, weight]), bias])

    graph._known[Value("x")] = linear("input", width, "before")
    y = linear(graph.write(spelling), 4, "after")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    whole = helper.make_graph(
        graph.nodes,
        "composite",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info(y, kind, [*shape[:-1], 4])],
        list(graph.constants.values()),
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(whole, opset_imports=imports, ir_version=8)


def fused_ops(model: onnx.ModelProto, folder: Path, *, every: bool = False) -> Counter[str]:
    """Return the fused ops that onnxruntime creates in a model.

    Args:
        model: The model.
        folder: The directory to which onnxruntime writes the optimized model.
        every: Whether to use all optimizations, including those for this machine's layout.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if every else levels.ORT_ENABLE_EXTENDED
    )
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Counter(n.op_type for n in nodes if n.domain or n.op_type in _OPERATORS)
