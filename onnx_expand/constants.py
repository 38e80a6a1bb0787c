"""Constants that a graph computes: weights that exporters or authors left as arithmetic.

Only what a question needs is evaluated, by ONNX's reference implementation and in the model's own
types, as a runtime would; the graph is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

__all__ = ["PURE_OPS", "evaluate", "is_safe_size"]

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


def is_safe_size(node: ir.Node, shape: Sequence[int | None] | None) -> bool:
    """Whether an output of this shape may be computed; a huge one may be a trap."""
    if shape is None or None in shape:
        return node.op_type not in _GROWING
    return math.prod(d for d in shape if d is not None) <= _LARGEST


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
    untyped = [onnx.helper.make_empty_tensor_value_info(n) for n in feeds]
    outputs = [onnx.helper.make_empty_tensor_value_info(n) for n in proto.output if n]
    graph = onnx.helper.make_graph([proto], "constant", untyped, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    from onnx.reference import ReferenceEvaluator  # imports every op; few models need it

    try:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, feeds))
    except Exception:
        # Whatever the reason, what cannot be evaluated here is left to the runtime.
        return None
