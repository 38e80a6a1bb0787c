"""Matrix products."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.geometry import Geometry
from onnx_expand.lift.base import Array, Linear, input_of, lifts, refuse, refuse_unknown_rank
from onnx_expand.values import Facts


@lifts("Gemm")
def _gemm(node: ir.Node, facts: Facts) -> Linear | None:
    a, b, c = input_of(node, 0), input_of(node, 1), input_of(node, 2, optional=True)
    for value in (a, b, node.outputs[0]):
        facts.note_rank(value, 2)
    if c is not None and facts.opset < 7:
        refuse("it broadcasts its C by the rules before opset 7")
    alpha = node.attributes.get_float("alpha", 1.0)
    beta = node.attributes.get_float("beta", 1.0)
    trans_a = bool(node.attributes.get_int("transA", 0))
    trans_b = bool(node.attributes.get_int("transB", 0))
    if facts.is_constant(b) or not facts.is_constant(a):
        slot, weight, transposed = 0, b, not trans_b
        axes = (0, 1) if trans_a else (1, 1)
    else:
        slot, weight, transposed = 1, a, trans_a
        axes = (1, 0) if trans_b else (0, 0)
    shape = facts.dims(weight)
    if len(shape) != 2:
        refuse(f"its weight has {len(shape)} axes, not 2")
    n, m = shape[::-1] if transposed else shape
    bias = None if c is None else _broadcast_bias(facts, c, axes[1], n, 2)
    geometry = Geometry(m, n, bias=bias is not None and bool(np.any(beta * bias)))

    def load() -> AffineConv:
        array = facts.array(weight)
        return AffineConv(
            alpha * (array.T if transposed else array), None if bias is None else beta * bias
        )

    return Linear(node, slot, geometry, axes, load, weight, c)


@lifts("MatMul")
def _matmul(node: ir.Node, facts: Facts) -> Linear | None:
    a, b = input_of(node, 0), input_of(node, 1)
    if not facts.is_constant(a) and not facts.is_constant(b):
        # A product of two activations is no linear map of either; a weight that only a caller
        # may replace is worth a word.
        for value in (b, a):
            if value.is_initializer():
                facts.tensor(value)
        return None
    right = facts.is_constant(b)
    x, weight = (a, b) if right else (b, a)
    shape, rank = facts.dims(weight), facts.rank(x)
    if len(shape) < 2 or any(d != 1 for d in shape[:-2]):
        refuse(f"its weight of shape {list(shape)} is not one matrix")
    if rank is None and (len(shape) > 2 or not right):
        refuse_unknown_rank(x)
    if rank is not None and rank < max(2 if not right else 1, len(shape) if len(shape) > 2 else 1):
        refuse(f"its input of rank {rank} takes on axes of the weight")
    axis = -1 if right else -2
    axis = axis if rank is None else rank + axis
    n, m = (shape[-1], shape[-2]) if right else (shape[-2], shape[-1])

    def load() -> AffineConv:
        matrix = facts.array(weight).reshape(shape[-2:])
        return AffineConv(matrix.T if right else matrix)

    return Linear(node, 0 if right else 1, Geometry(m, n), (axis, axis), load, weight)


def _broadcast_bias(facts: Facts, c: ir.Value, axis: int, n: int, rank: int) -> Array:
    array = facts.array(c)
    aligned = (1,) * (rank - array.ndim) + array.shape
    if len(aligned) > rank or any(d != 1 for i, d in enumerate(aligned) if i != axis):
        refuse(f"'{c.name}' of shape {list(array.shape)} varies along the batch")
    return np.array(np.broadcast_to(array.reshape(-1), (n,)))
