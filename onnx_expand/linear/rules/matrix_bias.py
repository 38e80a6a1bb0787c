"""Fuse a constant matrix that is added after a matrix product as the C of a Gemm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_expand.errors import Refusal
from onnx_expand.linear.chains.composed import aligned
from onnx_expand.linear.chains.merge import merged_term
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.spans import Merged
from onnx_expand.linear.chains.steps import Span, step_of
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.reassociating import is_representable
from onnx_expand.linear.rules.transposes import is_matrix_product
from onnx_expand.linear.terms.base import Map, Term
from onnx_expand.linear.terms.matrix_bias import Array, MatrixBias
from onnx_expand.lower import Form

__all__ = ["fuse_matrix_bias"]


def fuse_matrix_bias(terms: Terms, term: Term) -> Swap | None:
    """Merge a constant added after a matrix product as its C: (L x) + C = Gemm(x, L, C).

    A product before or after it is merged too: L (K x + b) + C = (L K) x + (L b + C), and M (L x +
    C) + b = (M L) x + (M C + b); K and M may be scales of channels.
    """
    if terms.policy is Policy.MARKED or not term.args or not terms.is_inner(term.args[0]):
        return None
    below = term.args[0]
    new: MatrixBias | None = None
    if isinstance(term, MatrixBias):
        new = _onto(terms, below, term) if term.layer is None else _after(terms, below, term)
    elif isinstance(term, Map) and isinstance(below, Map | MatrixBias) and not term.unit:
        new = _before(terms, below, term) if isinstance(below, MatrixBias) else None
        added = _column(below, term) if new is None else None
        new = new if added is None else _onto(terms, below, added)
    if new is None:
        return None
    new = replace(
        new,
        node=None,
        links=tuple({id(k): k for k in (*below.links, *term.links)}.values()),
        origins=tuple(dict.fromkeys((*below.sources, *term.sources))),
        before=below.source_cost + term.source_cost,
    )
    pays = terms.policy.prefers(new.price(), term.price() + below.price())
    return {term: new} if pays and is_representable(new) else None


def _column(below: Map | MatrixBias, term: Map) -> MatrixBias | None:
    """Return the shift of each row of a product that maps columns as a matrix bias."""
    shape, layer = term.tensor.extents, below.layer if isinstance(below, MatrixBias) else below
    if not term.shift_only or term.axes is None or shape is None or len(shape) != 2:
        return None
    axis, rows = term.axes[0] % 2, term.geometry.out_channels
    if not term.geometry.is_per_channel or shape[axis] != rows or rows < 2:
        return None
    if layer is None or layer.axes is None or layer.axes[1] % 2 == axis:
        return None

    def numbers() -> Array:
        shift = term.load().bias
        return (np.zeros(rows) if shift is None else shift).reshape(-1, *(1,) * (1 - axis))

    return MatrixBias((below,), term.tensor, term.value, None, term.anchor, None, numbers)


def _onto(terms: Terms, below: Term, term: MatrixBias) -> MatrixBias | None:
    """Return a constant that is added to a product or to a matrix bias as one matrix bias."""
    if isinstance(below, Map) and is_matrix_product(terms, below):
        layer: Map | None = _bare(below)

        def held() -> Array:
            return _bias(below)

    elif isinstance(below, MatrixBias):
        layer, held = below.layer, below.numbers
    else:
        return None

    def numbers() -> Array:
        return np.asarray(term.numbers() + held())

    return replace(term, args=below.args, layer=layer, numbers=numbers)


def _bare(layer: Map) -> Map:
    """Return a product without its bias."""
    found = replace(layer, geometry=replace(layer.geometry, bias=False))
    found.load = lambda: replace(layer.load(), bias=None)
    return found


def _bias(layer: Map) -> Array:
    """Return the bias of a product, in two axes."""
    bias = layer.load().bias
    assert layer.axes is not None
    if bias is None:
        return np.zeros((1, 1))
    return bias.reshape((1, -1) if layer.axes[1] % 2 else (-1, 1))


def _after(terms: Terms, below: Term, term: MatrixBias) -> MatrixBias | None:
    """Merge a matrix bias with the product before it."""
    merged = _merged(terms, below, term.layer)
    return None if merged is None else _onto(terms, merged, replace(term, layer=None))


def _before(terms: Terms, below: MatrixBias, term: Map) -> MatrixBias | None:
    """Merge a matrix bias with the map after it."""
    if below.layer is None or term.axes is None or term.axes[0] != term.axes[1]:
        return None
    merged = _merged(terms, replace(below.layer, args=below.args), _bare(term))
    if merged is None:
        return None
    axis = term.axes[0] % 2

    def numbers() -> Array:
        affine, held = term.load(), below.numbers()
        if held.shape[axis] == 1:  # equal in all channels
            held = np.repeat(held, affine.geometry.in_channels, axis)
        return np.moveaxis(affine(np.moveaxis(held, axis, 1)), 1, axis)

    return replace(
        below,
        args=merged.args,
        layer=merged,
        numbers=numbers,
        tensor=term.tensor,
        value=term.value,
        anchor=term.anchor,
    )


def _merged(terms: Terms, first: Term, second: Map | None) -> Map | None:
    """Compose two maps of matrices to one that may be a Gemm."""
    if second is None or not isinstance(first, Map) or first.unit or first.is_part:
        return None
    if {first.tensor.rank, first.args[0].tensor.rank} != {2}:
        return None
    steps = [step for step in map(step_of, (first, second)) if step is not None]
    lined = aligned(steps)
    if lined is None:
        return None
    policy = terms.policy
    part = Partition(first.args[0], lined, policy, terms.facts, may_shift=False)
    merged = part.merged(Span(0, 1))
    if not isinstance(merged, Merged) or merged.form is not Form.GEMM:
        return None
    new = merged_term(part, Span(0, 1))
    return None if isinstance(new, Refusal) or not isinstance(new, Map) else new
