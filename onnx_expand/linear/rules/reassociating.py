"""Reassociate products with constant matrices and batches of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import RefusedError
from onnx_expand.lift.base import LARGEST
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Homogeneous, Map, Price, Term
from onnx_expand.linear.terms.batched import (
    Array,
    BatchedProduct,
    batched_matmul,
    product_price,
    product_scaling,
)
from onnx_expand.linear.terms.matrix_bias import MatrixBias
from onnx_expand.lower import constant

__all__ = ["is_representable", "reassociate"]


@dataclass(frozen=True)
class _Factor:
    """The constant that a term multiplies with, from one side.

    Attributes:
        shape: The shape of the matrix or matrices; for scales it ends with ones, or is ().
        numbers: Returns the values.
        is_left: Whether it is the left operand.
        scales: Whether it is one scale, or one for each matrix of a batch.
    """

    shape: tuple[int, ...]
    numbers: Callable[[], Array]
    is_left: bool
    scales: bool = False


def reassociate(terms: Terms, term: Term) -> Swap | None:
    """Combine products with constants: (x @ A) @ B = x @ (A @ B).

    Each constant may be one matrix, or a scale of rows or columns; at least one of them is a batch
    of matrices.
    """
    if terms.policy is Policy.MARKED or len(term.args) != 1 or not terms.is_inner(term.args[0]):
        return None
    below = term.args[0]
    stacks = [side for t in (below, term) if (side := _side(terms, t)) is not None]
    if not stacks or len(below.args) != 1:
        return None
    is_right = stacks[0]
    first, second = _factor(terms, below, is_right), _factor(terms, term, is_right)
    if first is None or second is None:
        return None
    whole = _product(first, second)
    if whole is None or math.prod(whole.shape) > LARGEST:
        return None
    inner = [max(factor.shape[-2:], default=1) for factor in (first, second)]
    if not terms.facts.budget.compose(math.prod(whole.shape) * max(inner)):
        return None
    origins = dict.fromkeys((*_sources(below), *_sources(term)))
    like = term.like if isinstance(term, Homogeneous) else below
    like = below.like if isinstance(below, Homogeneous) else like
    assert isinstance(like, ir.Node)
    new = BatchedProduct(
        below.args,
        term.tensor,
        term.value,
        None,
        term.anchor,
        (0,),
        product_scaling(below.args[0].tensor, term.tensor, right=is_right),
        is_right,
        whole.shape,
        whole.numbers,
        like=like,
        origins=tuple(origins),
        before=_price(below, first).cost + _price(term, second).cost,
    )
    before = _price(below, first) + _price(term, second)
    pays = terms.policy.prefers(new.price(), before)
    return {term: new} if pays and is_representable(new) else None


def _product(first: _Factor, second: _Factor) -> _Factor | None:
    """Return the factor that multiplies with one factor and then another."""
    left, right = (second, first) if first.is_left else (first, second)
    if left.scales or right.scales:
        shape = np.broadcast_shapes(left.shape, right.shape)
        return _Factor(shape, lambda: np.asarray(left.numbers() * right.numbers()), first.is_left)
    if left.shape[-1] != right.shape[-2]:
        return None
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return _Factor(
        (*batch, left.shape[-2], right.shape[-1]),
        lambda: np.asarray(left.numbers() @ right.numbers()),
        first.is_left,
    )


def _side(terms: Terms, term: Term) -> bool | None:
    """Return whether a term has a batch of matrices on its right; None if it has none."""
    if isinstance(term, BatchedProduct):
        return term.right
    known = batched_matmul(term.like, terms.facts) if isinstance(term, Homogeneous) else None
    return None if known is None else known[1]


def _price(term: Term, factor: _Factor) -> Price:
    """Return the cost of a product, whether it is new or from the source."""
    if isinstance(term, BatchedProduct) or not isinstance(term, Homogeneous):
        return term.price()
    inner = factor.shape[-1] if factor.is_left else factor.shape[-2]
    return product_price(term.tensor, factor.shape, inner)


def is_representable(new: BatchedProduct | MatrixBias) -> bool:
    """Return whether the type of a new term can represent its values."""
    try:
        if new.tensor.dtype is not None:
            constant(new.numbers(), "", new.tensor.dtype)
    except RefusedError:
        return False
    return new.tensor.dtype is not None


def _factor(terms: Terms, term: Term, right: bool) -> _Factor | None:
    """Return the factor that a term multiplies its argument with."""
    if isinstance(term, BatchedProduct):
        return _Factor(term.shape, term.numbers, not right) if term.right == right else None
    if isinstance(term, Homogeneous):
        known, facts = batched_matmul(term.like, terms.facts), terms.facts
        if known is None or known[1] != right:
            return None
        weight = known[0]
        return _Factor(facts.dims(weight), lambda: facts.array(weight), not right)
    if not isinstance(term, Map) or term.unit or term.is_part or term.geometry.bias:
        return None
    rank, geometry = term.tensor.rank, term.geometry
    if term.axes is None and geometry.is_per_channel and geometry.out_channels == 1:
        return _Factor((), lambda: term.load().weight.reshape(()), not right, scales=True)
    scale = _batch_scale(term)
    if scale is not None:
        return _Factor(scale, lambda: term.load().weight.reshape(scale), not right, scales=True)
    if rank is None or geometry.rank or term.args[0].tensor.rank != rank or term.axes is None:
        return None
    axis = rank - 1 if right else rank - 2
    if any(a % rank != axis for a in term.axes) or not _is_matrix(geometry):
        return None
    shape = geometry.out_channels, geometry.in_channels

    def numbers() -> Array:
        affine = term.load()
        matrix = affine.embedded(replace(affine.geometry, group=1)).weight
        return matrix.T if right else matrix

    return _Factor(shape[::-1] if right else shape, numbers, not right)


def _batch_scale(term: Map) -> tuple[int, ...] | None:
    """Return the shape of a scale for each matrix of a batch; None for any other map."""
    rank, axes = term.tensor.rank, term.axes
    if rank is None or axes is None or not term.geometry.is_per_channel:
        return None
    axis = axes[0] % rank
    if axis >= rank - 2 or axes[1] % rank != axis:
        return None
    return tuple(term.geometry.out_channels if i == axis else 1 for i in range(rank))


def _is_matrix(geometry: Geometry) -> bool:
    return math.prod((geometry.out_channels, geometry.in_channels)) <= LARGEST


def _sources(term: Term) -> tuple[ir.Node, ...]:
    is_source = isinstance(term, Homogeneous) and not isinstance(term, BatchedProduct)
    return (term.like,) if is_source and term.like is not None else term.sources
