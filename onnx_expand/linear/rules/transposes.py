"""Merge transpositions into matrix products."""

from __future__ import annotations

from dataclasses import replace

from onnx_expand.cost import Cost
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Map, Term, View
from onnx_expand.lower import Form, form_of

__all__ = ["fuse_transpose", "is_matrix_product"]


def fuse_transpose(terms: Terms, term: Term) -> Swap | None:
    """Merge a transposition before or after a Gemm: A x^T = Gemm<transB=1>(A, x).

    onnxruntime does this too, but if it merges a Transpose before a product whose result is both
    an output and the input of one Transpose, it drops that output and then fails to load the
    model.
    """
    if terms.policy is Policy.MARKED or not term.args:
        return None
    below = term.args[0]
    if isinstance(term, Map) and isinstance(below, View):
        product, view, before = term, below, True
        is_asked_for = any(value.is_graph_output() for value in terms.roots.get(term, ()))
        if not terms.is_inner(view) and not is_asked_for:
            return None
    elif isinstance(term, View) and isinstance(below, Map) and terms.is_inner(below):
        product, view, before = below, term, False
    else:
        return None
    if view.op.perm != (1, 0) or not is_matrix_product(terms, product):
        return None
    assert product.axes is not None
    first, last = (axis % 2 for axis in product.axes)
    axes = (1 - first, last) if before else (first, 1 - last)
    writable = terms.facts.writable(term.tensor.dtype)
    if form_of(product.geometry, axes, 2, writable) is not Form.GEMM:
        return None
    origins = view.origins if terms.is_inner(view) or not before else ()
    return {
        term: replace(
            product,
            args=below.args,
            tensor=term.tensor,
            value=term.value,
            node=None,
            anchor=term.anchor,
            axes=axes,
            form=Form.GEMM,
            own=None,
            like=None,
            origins=(origins + product.origins) if before else (product.origins + origins),
            before=product.source_cost + (view.price().cost if view.node is not None else Cost()),
        )
    }


def is_matrix_product(terms: Terms, term: Map) -> bool:
    """Return whether a map of rows or columns is a matrix product, or may be written as one."""
    ranks = {term.tensor.rank, term.args[0].tensor.rank}
    geometry = term.geometry
    if ranks != {2} or term.axes is None or term.unit or term.is_part or geometry.rank:
        return False
    form = form_of(geometry, term.axes, 2, terms.facts.writable(term.tensor.dtype))
    return form is Form.GEMM and not geometry.is_per_channel
