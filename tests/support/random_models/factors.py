"""Generators of scales and shifts, and of nodes that factors pass, or nearly pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.random_models.builder import Builder, Value
from tests.support.random_models.joins import JOINS
from tests.support.random_models.linear import (
    batch_norm,
    conv,
    gemm,
    global_pool,
    matmul,
    pool,
    product,
    reduce,
)
from tests.support.random_models.moves import MOVES, activation

__all__ = ["FACTORS"]


def scale(b: Builder, x: Value) -> Value | None:
    """Append a factor for all elements, or for the channels of an axis, of either sign."""
    shape: tuple[int, ...] = b.pick((), (), (1,))
    free = [axis for axis, extent in enumerate(x.fixed) if extent > 1]
    if free and b.chance(0.4):
        axis = int(b.pick(*free, *[a for a in free if a == min(1, x.rank - 1)] * 3))
        shape = (x.fixed[axis], *[1] * (x.rank - 1 - axis))
    sign = b.pick(1, 1, 1, -1) if not shape else b.rng.choice([1, 1, 1, -1], shape)
    values = b.rng.uniform(0.3, 2, shape) * (sign if b.chance(0.5) else 1)
    if b.chance(0.25):
        op = b.pick("Add", "Sub")
        return b.add(op, [x.name, b.constant(values)], x.dims)
    inputs = [x.name, b.constant(values)]
    op = b.pick("Mul", "Mul", "Div")
    if op == "Mul" and b.chance(0.5):
        inputs.reverse()
    return b.add(op, inputs, x.dims)


def rectifier(b: Builder, x: Value) -> Value | None:
    """Append a node that positive factors pass, or a similar one."""
    op = b.pick("Relu", "Relu", "LeakyRelu", "Abs", "PRelu", "Clip")
    inputs, attributes = [x.name], dict[str, Any]()
    if op == "LeakyRelu":
        attributes["alpha"] = float(b.pick(0.2, -0.5))
    elif op == "PRelu":
        c = x.fixed[1] if x.rank > 1 and b.opset >= 9 else -1
        shape = (c, *[1] * (x.rank - 2)) if c > 0 else (1,)
        inputs.append(b.constant(b.rng.uniform(-0.5, 0.5, shape)))
    elif op == "Clip":
        if b.opset < 11:
            return None
        inputs.append(b.constant(b.pick(0.0, 0.0, 0.1)))
        if b.chance(0.3):
            inputs.append(b.constant(2.0))
    return b.add(op, inputs, x.dims, **attributes)


def gate(b: Builder, x: Value) -> Value | None:
    """Append a product, quotient or extremum of two values, one of which may be broadcast."""
    fits = [
        v
        for v in b.visible()
        if v.rank == x.rank
        and all(a == w or set(a) == {1} for a, w in zip(v.dims, x.dims, strict=True))
    ]
    other = b.pick(*fits)
    op = b.pick("Mul", "Mul", "Mul", "Max", "Min", "Div")
    if op in {"Max", "Min"} and (b.opset < 13 or b.scope.dtype == np.float16):
        return None
    inputs = [x.name, other.name]
    if op == "Div":  # divide by nothing close to zero
        (size,) = b.node("Abs", [other.name])
        inputs[1] = b.node("Add", [size, b.constant(0.5)])[0]
    elif b.chance(0.5):
        inputs.reverse()
    return b.add(op, inputs, x.dims)


def squeeze_and_excite(b: Builder, x: Value) -> Value | None:
    """Append a squeeze-and-excite block: channels times a function of their means."""
    if x.rank != 4 or x.fixed[1] < 1:
        return None
    mean = global_pool(b, x)
    inner = None if mean is None else conv(b, mean, x.fixed[1], same=True)
    shifted = None if inner is None else scale(b, inner)
    if shifted is None:
        return None
    low = rectifier(b, shifted) or shifted
    return b.add("Mul", [x.name, low.name], x.dims)


def attention(b: Builder, x: Value) -> Value | None:
    """Append attention scores of a value's rows, with a scale at some place."""
    if x.rank != 3 or x.fixed[2] < 1:
        return None
    sides = [matmul(b, x, int(x.fixed[2])) for _ in range(2)]
    if None in sides:
        return None
    query, key = (side for side in sides if side is not None)
    if query.dims != key.dims or query.fixed[-1] < 1:
        return None
    if b.chance(0.5):
        query = scale(b, query) or query
    flipped = (key.dims[0], key.dims[2], key.dims[1])
    turned = b.add("Transpose", [key.name], flipped, perm=[0, 2, 1])
    if b.chance(0.5):
        turned = scale(b, turned) or turned
    scores = b.add("MatMul", [query.name, turned.name], (*query.dims[:2], flipped[2]))
    if b.chance(0.5):
        scores = scale(b, scores) or scores
    return b.add("Softmax", [scores.name], scores.dims, axis=2)


FACTORS = (
    *[scale] * 10,
    *[rectifier] * 4,
    *[gate] * 3,
    *[conv] * 3,
    *[matmul] * 3,
    *(batch_norm, batch_norm, gemm, product, pool, pool, pool, global_pool, reduce, reduce),
    *(activation, squeeze_and_excite, squeeze_and_excite, attention, attention, attention),
    *JOINS,
    *MOVES,
)
"""The makers, as often as they are to be drawn."""
