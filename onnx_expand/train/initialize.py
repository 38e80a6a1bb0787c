"""Draw initial weights as torch does."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import flag_of
from onnx_expand.model import ModelLike, read

__all__ = ["initialize"]

_STATISTICS = {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0}


def initialize(model: ModelLike, seed: int) -> ir.Model:
    """Return a copy of a model whose layers have new random weights.

    Weights and biases of Conv, ConvTranspose and Gemm, and constant operands of MatMul, are
    uniform between -1/sqrt(f) and 1/sqrt(f), where f is the number of products per output (torch's
    default). BatchNormalization becomes the identity. Everything else is unchanged, and so are
    weights that are not initializers of the graph.

    Args:
        model: A model of any kind, which is not modified.
        seed: The seed of the weights.
    """
    copy = read(model)
    rng = np.random.default_rng([seed, 0x1217])
    done: set[str] = set()
    for node in copy.graph:
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            weight = node.inputs[1]
            if weight is None or weight.const_value is None:
                continue
            limit = 1 / math.sqrt(max(1, _fan_in(node, tuple(weight.const_value.shape.numpy()))))
            for value in node.inputs[1:3]:
                _draw(value, lambda shape, s=limit: rng.uniform(-s, s, shape), done)
        elif node.op_type == "BatchNormalization":
            for slot, number in _STATISTICS.items():
                value = node.inputs[slot]
                _draw(value, lambda shape, v=number: np.full(shape, v), done)
    return copy


def _fan_in(node: ir.Node, shape: tuple[int, ...]) -> int:
    if node.op_type == "MatMul":
        return shape[-2] if len(shape) > 1 else shape[0]
    if node.op_type == "Gemm":
        flipped = flag_of(node, "transB")
        return shape[1] if flipped else shape[0]
    return math.prod(shape[1:])


def _draw(value: ir.Value | None, numbers: object, done: set[str]) -> None:
    """Replace the values of an initializer, in its own type; a shared one only once."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return
    name = value.name or ""
    old = value.const_value
    if name in done or old.dtype not in ir.DataType or not old.dtype.is_floating_point():
        return
    done.add(name)
    shape = tuple(old.shape.numpy())
    array = numbers(shape).astype(old.dtype.numpy())  # type: ignore[operator]
    value.const_value = ir.Tensor(array, dtype=old.dtype, name=old.name)
