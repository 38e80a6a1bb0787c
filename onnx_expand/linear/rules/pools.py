"""Merge padding into average pooling."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms.base import Map, Term

__all__ = ["pad_average"]

_COUNTS = 7  # the first opset in which AveragePool can count its padding


def pad_average(terms: Terms, term: Term) -> Swap | None:
    """Merge zero padding before an average into it: average(pad(x)) = average_with_pads(x)."""
    if terms.policy is Policy.MARKED or terms.facts.opset < _COUNTS:
        return None
    pad = term.args[0] if isinstance(term, Map) and term.args else None
    if not isinstance(pad, Map) or not isinstance(term, Map) or not terms.is_inner(pad):
        return None
    if _op(term) != "AveragePool" or _op(pad) != "Pad" or min(pad.geometry.pads, default=-1) < 0:
        return None
    whole = pad.geometry.then(term.geometry)
    if not isinstance(whole, Geometry) or pad.tensor.rank is None:
        return None
    # Runtimes refuse windows that contain only padding.
    if any(p >= k for p, k in zip(whole.pads, term.geometry.kernel * 2, strict=True)):
        return None
    first, second = pad.load, term.load
    like = term.node or term.like
    assert like is not None
    replaced = {"auto_pad", "count_include_pad", "pads"}
    kept = [a for name, a in like.attributes.items() if name not in replaced]
    node = ir.Node(
        "",
        "AveragePool",
        [],
        [*kept, ir.AttrInt64s("pads", whole.pads), ir.AttrInt64("count_include_pad", 1)],
        name=like.name,
    )
    new = replace(
        term,
        args=pad.args,
        value=None,
        node=None,
        geometry=whole,
        load=lambda: second() @ first(),
        origins=pad.origins + term.origins,
        like=node,
    )
    return {term: new}


def _op(term: Map) -> str:
    """Return the op of a map that is unchanged from the source."""
    node = term.node or term.like
    return "" if node is None or node.domain or term.form is not None else node.op_type
