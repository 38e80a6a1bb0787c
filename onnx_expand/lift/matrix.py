"""Lift matrix products: Gemm, MatMul and Einsum."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.attributes import flag_of, float_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.lift.base import (
    Array,
    Axes,
    Linear,
    Numbers,
    input_of,
    lifts,
    refuse,
    refuse_unknown_rank,
)

__all__ = ["gemm_product"]


@lifts("Gemm")
def _gemm(node: ir.Node, facts: Facts) -> Linear | None:
    product = gemm_product(node, facts)
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if c is None:
        return product
    if facts.opset < 7:
        refuse("it broadcasts its C by the rules before opset 7")
    assert product.axes is not None
    n = product.geometry.out_channels
    beta = float_of(node, "beta", facts.opset)
    bias = _broadcast_bias(facts, c, product.axes[1], n) * beta

    assert isinstance(product.numbers, functools.partial)
    plain, weight = product.numbers, product.operands[0]

    def load() -> AffineConv:
        return AffineConv(plain(facts.array(weight))[0], bias)

    geometry = Geometry(product.geometry.in_channels, n, bias=bool(bias.any()))
    numbers = functools.partial(plain, beta=beta)
    operands = (*product.operands, c)
    return Linear(
        node,
        product.slot,
        geometry,
        product.axes,
        load,
        product.weight,
        c,
        operands=operands,
        numbers=numbers,
    )


def _matrix(
    weight: Any,
    bias: Any = None,
    *,
    transposed: bool,
    alpha: float = 1.0,
    beta: float = 1.0,
    shape: tuple[int, ...] | None = None,
) -> tuple[Any, Any]:
    """Return a constant, reshaped, as a matrix [n, m], with its bias."""
    weight = weight if shape is None else weight.reshape(shape)
    weight = weight.T if transposed else weight
    weight = weight if alpha == 1 else alpha * weight
    if bias is None or not beta:
        return weight, None
    return weight, bias.reshape(-1) if beta == 1 else beta * bias.reshape(-1)


def _scale(weight: Any) -> tuple[Any, Any]:
    return weight, None


def gemm_product(node: ir.Node, facts: Facts) -> Linear:
    """Return the map of a Gemm without its C.

    Raises:
        RefusedError: Neither operand is a constant matrix.
    """
    a, b = input_of(node, 0), input_of(node, 1)
    alpha = float_of(node, "alpha", facts.opset)
    trans_a = bool(flag_of(node, "transA", facts.opset))
    trans_b = bool(flag_of(node, "transB", facts.opset))
    if facts.is_constant(b) or not facts.is_constant(a):
        slot, weight, transposed = 0, b, not trans_b
        axes = (0, 1) if trans_a else (1, 1)
    else:
        slot, weight, transposed = 1, a, trans_a
        axes = (1, 0) if trans_b else (0, 0)
    shape = facts.dims(weight)
    if len(shape) != 2:
        refuse(f"its weight has {len(shape)} axes, not 2")
    numbers = functools.partial(_matrix, transposed=transposed, alpha=alpha)
    return _product(node, slot, facts, weight, numbers, shape[::-1] if transposed else shape, axes)


def _product(
    node: ir.Node,
    slot: int,
    facts: Facts,
    weight: ir.Value,
    numbers: Numbers,
    shape: tuple[int, ...],
    axes: Axes,
) -> Linear:
    """Return the map of a product with a constant, as a matrix of shape [n, m]."""
    n, m = shape

    def load() -> AffineConv:
        return AffineConv(*numbers(facts.array(weight)))

    return Linear(
        node, slot, Geometry(m, n), axes, load, weight, operands=(weight,), numbers=numbers
    )


@lifts("MatMul")
def _matmul(node: ir.Node, facts: Facts) -> Linear | None:
    a, b = input_of(node, 0), input_of(node, 1)
    if not facts.is_constant(a) and not facts.is_constant(b):
        # A product of two activations is not a linear map of either. For an initializer that a
        # caller may override, `tensor` raises a refusal that names this reason.
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
        refuse(f"its input of rank {rank} gains axes of the weight by broadcasting")
    axis = -1 if right else -2
    axis = axis if rank is None else rank + axis
    n, m = (shape[-1], shape[-2]) if right else (shape[-2], shape[-1])
    numbers = functools.partial(_matrix, transposed=right, shape=shape[-2:])
    return _product(node, 0 if right else 1, facts, weight, numbers, (n, m), (axis, axis))


@lifts("Einsum")
def _einsum(node: ir.Node, facts: Facts) -> Linear | None:
    """Lift an Einsum that multiplies one axis of its input by a matrix, or scales along it."""
    if len(node.inputs) != 2:
        return None
    a, b = input_of(node, 0), input_of(node, 1)
    if facts.is_constant(b) == facts.is_constant(a):
        return None
    slot = 0 if facts.is_constant(b) else 1
    x, weight = (a, b) if slot == 0 else (b, a)
    rank, shape = facts.rank(x), facts.dims(weight)
    if rank is None:
        refuse_unknown_rank(x)
    terms = _einsum_terms(text_of(node, "equation", facts.opset), slot, rank)
    if terms is None or len(terms[1]) != len(shape):
        return None
    before, letters, after = terms
    gone = [i for i, letter in enumerate(before) if letter not in after]
    if not gone and len(letters) == 1 and before == after and letters in before:
        axis = before.index(letters)

        def load_scale() -> AffineConv:
            return AffineConv.per_channel(facts.array(weight))

        _check_extent(facts, x, axis, shape[0])
        scale = Geometry(shape[0], shape[0], group=shape[0])
        return Linear(
            node, slot, scale, (axis, axis), load_scale, weight, operands=(weight,), numbers=_scale
        )
    if len(gone) != 1 or len(letters) != 2:
        return None
    axis = gone[0]
    if (
        len(after) != rank
        or before[:axis] + before[axis + 1 :] != after[:axis] + after[axis + 1 :]
    ):
        return None  # the new axis is at another position
    if set(letters) != {before[axis], after[axis]} or after[axis] in before:
        return None
    transposed = letters[0] == before[axis]
    n, m = shape[::-1] if transposed else shape
    _check_extent(facts, x, axis, m)
    numbers = functools.partial(_matrix, transposed=transposed)
    return _product(node, slot, facts, weight, numbers, (n, m), (axis, axis))


def _check_extent(facts: Facts, x: ir.Value, axis: int, wanted: int) -> None:
    """Refuse an axis whose extent is not the weight's or unknown: Einsum broadcasts extent 1.

    `wanted` is the extent of the weight along this axis.
    """
    shape = facts.shape(x)
    size = None if shape is None else shape[axis]
    if size is None:
        message = f"the extent of axis {axis} of '{x.name}', which may be broadcast, is not static"
        raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, message))
    if size != wanted:
        refuse(f"axis {axis} of '{x.name}' has {size} elements and its weight {wanted}")


def _einsum_terms(equation: str, slot: int, rank: int) -> tuple[str, str, str] | None:
    """Return the letters of x, weight and result, dots expanded; None if a term repeats one."""
    left, arrow, after = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2:
        return None
    before, letters = terms[slot], terms[1 - slot]
    dots = rank - len(before.replace("...", ""))
    if dots < 0 or ("..." not in before and dots):
        return None
    # Characters that no equation may contain stand for the axes of the dots.
    spelled = "".join(chr(0x100 + i) for i in range(dots))
    before, after = before.replace("...", spelled), after.replace("...", spelled)
    found = (before, letters, after)
    return found if all(len(set(term)) == len(term) for term in found) else None


def _broadcast_bias(facts: Facts, c: ir.Value, axis: int, n: int) -> Array:
    array = facts.array(c)
    aligned = (1,) * (2 - array.ndim) + array.shape
    if len(aligned) > 2 or any(d != 1 for i, d in enumerate(aligned) if i != axis):
        refuse(f"'{c.name}' of shape {list(array.shape)} varies along the batch")
    flat = array.reshape(-1)
    return flat if flat.size == n else np.broadcast_to(flat, (n,))
