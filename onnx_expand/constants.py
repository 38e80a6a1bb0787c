"""Constants that a graph computes: weights that exporters or authors left as arithmetic.

Only what a question needs is evaluated, by ONNX's reference implementation and in the model's own
types, as a runtime would; the graph is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

__all__ = ["MOVING_OPS", "PURE_OPS", "evaluate", "is_safe_size", "run_nodes"]

_LARGEST = 1 << 27  # elements; more than any weight

# Ops whose output is as large as a number among their inputs says.
_GROWING = frozenset({"ConstantOfShape", "Expand", "Pad", "Range", "Resize", "Tile"})

PURE_OPS = _GROWING | {
    *("Abs", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat"),
    *("Conv", "ConvTranspose", "Cos", "Div", "Einsum", "Equal", "Erf", "Exp", "Flatten", "Floor"),
    *("Gather", "GatherElements", "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Identity"),
    *("Less", "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not"),
    *("Or", "Pow", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "ReduceL2", "Relu", "Reshape", "Round", "ScatterElements"),
    *("ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softmax", "Split", "Sqrt"),
    *("Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Trilu", "Unsqueeze", "Where"),
}
"""Ops without state, randomness or subgraphs, which give the same output each time."""

MOVING_OPS = frozenset(
    {
        *("Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    }
)
"""Ops whose output is made of elements of their inputs as they are."""


def is_safe_size(
    node: ir.Node,
    shape: Sequence[int | None] | None,
    inputs: Sequence[npt.NDArray[np.generic] | None],
) -> bool:
    """Whether an output may be computed; a huge one may be a trap.

    Args:
        node: A node of a pure op.
        shape: The shape of its output, where it is known.
        inputs: What it reads.
    """
    if shape is not None and None not in shape:
        return math.prod(d for d in shape if d is not None) <= _LARGEST
    if node.op_type not in _GROWING:
        return True
    numbers = [None if a is None else np.asarray(a, dtype=np.float64).ravel() for a in inputs]
    if node.op_type == "ConstantOfShape" and numbers[0] is not None:
        size = float(np.prod(numbers[0]))
    elif node.op_type == "Expand" and numbers[0] is not None and numbers[1] is not None:
        size = float(np.prod(np.maximum(numbers[1], 1))) * max(1, numbers[0].size)
    elif node.op_type == "Range" and all(n is not None for n in numbers):
        start, limit, delta = (float(n[0]) for n in numbers if n is not None)
        size = abs(limit - start) / abs(delta) if delta else math.inf
    elif node.op_type == "Pad" and len(inputs) > 1 and numbers[1] is not None:
        added, extents = numbers[1], () if inputs[0] is None else inputs[0].shape
        if len(added) != 2 * len(extents):
            return False
        around = np.maximum(added, 0).reshape(2, -1).sum(axis=0)
        size = float(np.prod(extents + around))
    else:
        return False
    return size <= _LARGEST


def evaluate(
    node: ir.Node, inputs: Sequence[npt.NDArray[np.generic] | None], opset: int
) -> list[npt.NDArray[np.generic]] | None:
    """What a node computes from constants.

    Args:
        node: A node of a pure op.
        inputs: One array for each of its inputs, None for one that is left out.
        opset: The version of the default operators.

    Returns:
        One array for each output; None where the reference implementation gives none.
    """
    proto = ir.serde.serialize_node(node)
    feeds, names = {}, []
    for index, array in enumerate(inputs):
        name = "" if array is None else f"i{index}"
        names.append(name)
        if array is not None:
            feeds[name] = array
    del proto.input[:]
    proto.input.extend(names)
    return _run([proto], feeds, [n for n in proto.output if n], opset)


def run_nodes(
    nodes: Sequence[ir.Node], feeds: Mapping[str, npt.NDArray[Any]], result: str, opset: int
) -> npt.NDArray[Any] | None:
    """One result of several nodes, in topological order; None where there is none."""
    protos = [ir.serde.serialize_node(node) for node in nodes]
    found = _run(protos, feeds, [result], opset)
    return None if found is None else found[0]


def _run(
    protos: Sequence[onnx.NodeProto],
    feeds: Mapping[str, npt.NDArray[Any]],
    results: Sequence[str],
    opset: int,
) -> list[npt.NDArray[Any]] | None:
    untyped = [onnx.helper.make_empty_tensor_value_info(name) for name in feeds]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in results]
    graph = onnx.helper.make_graph(protos, "constant", untyped, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    from onnx.reference import ReferenceEvaluator  # imports every op; few models need it

    try:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, dict(feeds)))
    except Exception:
        # Whatever the reason, what cannot be evaluated here is left to the runtime.
        return None
