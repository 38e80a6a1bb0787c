"""Compose a chosen span to the terms that replace it, with their values."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost import Cost
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.lift.base import LARGEST
from onnx_expand.linear.chains.composed import chain_affine, shift_before
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.spans import Merged
from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.linear.chains.units import units_of
from onnx_expand.linear.terms.base import Load, Map, SplitInput, Term, View
from onnx_expand.linear.terms.tensors import Tensor
from onnx_expand.linear.terms.views import ViewOp
from onnx_expand.lower import Form, check_numbers, form_of, least_channel

__all__ = ["before_cost", "memoized", "merged_term", "single_nodes", "view_term"]

_GROWTH = 4  # multiples of the original parameters
_HELD = 1 << 24  # bytes of values that are stored instead of composed again


@np.errstate(all="ignore")  # values that are not finite are refused
def merged_term(
    part: Partition, span: Span, shared: Sequence[Term] = (), place: Term | None = None
) -> Term | Refusal:
    """Return the term that computes a span as one map.

    Args:
        part: The partition that chose the span.
        span: The span.
        shared: Terms of the span that remain for now and keep their names.
        place: The term that it replaces, with the same shape; by default the last one of the span.

    Returns:
        The term with the views around it, or why its values cannot be written.
    """
    merged = part.merged(span)
    assert isinstance(merged, Merged)
    inside = part.inside(span)
    try:
        return _term(part, span, merged, shared, place or inside[-1].top)
    except RefusedError as error:
        return error.refusal
    except MemoryError:
        return Refusal(Reason.UNSUPPORTED, "the merged weights do not fit into memory")


def _term(part: Partition, span: Span, merged: Merged, shared: Sequence[Term], top: Term) -> Term:
    inside = part.inside(span)
    arg = part.term_at(span.first)
    while isinstance(arg, SplitInput):
        arg = arg.args[0]
    layout = merged.layout
    refusal = _too_much(part, span, merged)
    if refusal is not None:
        raise RefusedError(refusal)
    load = _load(inside, merged)
    affine = load()
    dtype = top.tensor.dtype or arg.tensor.dtype
    if dtype is None:
        raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, "the type of its input is not known"))
    check_numbers(affine, dtype, lambda: _least_of(inside))
    units = [unit for unit, _ in units_of(inside)]
    unit = bool(units) and len(units[0]) == len(inside)
    if layout is None and not unit:
        affine, load = _trimmed(affine, load, arg.tensor)
    if merged.form not in {Form.GEMM, Form.MATMUL}:
        affine = affine.finest()
    if merged.shifted:
        arg = _shift(part, span, merged, arg)
        merged = replace(merged, shifted=0)
    before, after = ((), ()) if layout is None else (layout.before, layout.after)
    if layout is not None and before:
        first = before[0].channels[0] if layout.spreads else affine.geometry.in_channels
        arg = _views(before, arg, first, top.anchor)
    tensor = top.tensor
    if after:
        tensor = arg.tensor.mapped(affine.geometry, merged.axes, (top, "inner"))
    by_front = merged.axes is not None and merged.axes[1] >= 0
    if arg.tensor.rank is None and by_front and merged.form in {Form.ELEMENTWISE, Form.MATMUL}:
        message = "the rank of its input is not known"
        raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, message))
    form = _form(merged, affine.geometry, part, arg.tensor.rank, tensor)
    stays = {n for t in shared for n in t.sources}
    axes = merged.axes
    if not unit and form is Form.ELEMENTWISE and affine.geometry.out_channels == 1:
        axes = None  # a single value fits any axis
    whole = Map(
        (arg,),
        tensor,
        None if after else top.value,
        None,
        top.anchor,
        affine.geometry,
        axes,
        memoized(load, affine),
        all(s.shift_only for s in inside if s.view is None),
        form,
        links=tuple({id(k): k for s in inside for k in s.links if k.node not in stays}.values()),
        origins=tuple(dict.fromkeys(node for s in inside for node in s.origins)),
        unit=unit,
        before=sum((before_cost(s) for s in inside), Cost()),
    )
    new = _views(after, single_nodes(whole), affine.geometry.out_channels, top.anchor)
    new.value = top.value
    if after:
        new.tensor = top.tensor
    return new


def _trimmed(affine: AffineConv, load: Load, x: Tensor) -> tuple[AffineConv, Load]:
    """Remove padding at the ends that no window reads, if it exceeds that at the starts."""
    g, rank = affine.geometry, affine.rank
    extents = () if x.extents is None else x.extents[2:]
    known = [e for e in extents if isinstance(e, int)]
    if g.transposed or not rank or len(known) != rank or set(g.strides) == {1}:
        return affine, load
    spare = [
        (size + begin + end - reach) % stride
        for size, begin, end, reach, stride in zip(
            known, g.begins, g.ends, g.reach, g.strides, strict=True
        )
    ]
    sides = zip(g.begins, g.ends, spare, strict=True)
    ends = tuple(max(end - more, min(begin, end)) for begin, end, more in sides)
    if ends == g.ends:
        return affine, load
    pads = (*g.begins, *ends)
    return replace(affine, pads=pads), lambda: replace(load(), pads=pads)


def _too_much(part: Partition, span: Span, merged: Merged) -> Refusal | None:
    """Return why values are not composed, if that would take too much memory or time."""
    size = math.prod(merged.geometry.weight_shape)
    if size > max(LARGEST, _GROWTH * part.as_is(span).cost.parameters):
        text = f"the merged weight would have {size} elements"
        return Refusal(Reason.COST, text, {"elements": size})
    parts = [s.geometry for s in part.inside(span) if isinstance(s.geometry, Geometry)]
    taps = math.prod(merged.geometry.kernel)
    products = min(
        _products(parts, merged.geometry.in_channels * taps),
        _products(parts[::-1], merged.geometry.out_channels * taps),
    )
    if part.facts.budget.compose(products):
        return None
    text = f"composing the weights would take {products} products"
    return Refusal(Reason.COST, text, {"products": products})


def _products(parts: Sequence[Geometry], most: int) -> int:
    """Estimate the multiply-accumulates of composing maps one by one.

    From either end; a channel of the result has at most `most` elements.
    """
    total, fan = 0, 1
    for i, part in enumerate(parts):
        size = math.prod(part.weight_shape)
        total += size * fan if i else 0
        fan = min(most, fan * max(1, size // min(part.in_channels, part.out_channels)))
    return total


def single_nodes(whole: Map) -> Map:
    """Split a map that takes two nodes into two maps, so that each can move separately."""
    if whole.unit or whole.form not in {Form.MATMUL, Form.ELEMENTWISE}:
        return whole
    geometry, load = whole.geometry, whole.load
    scales = whole.form is Form.MATMUL or not whole.shift_only
    if not geometry.bias or not scales:
        return whole
    if whole.form is Form.ELEMENTWISE and bool(np.all(load().weight == 1)):
        return replace(whole, shift_only=True)

    def product() -> AffineConv:
        return replace(load(), bias=None)

    def shift() -> AffineConv:
        bias = load().bias
        assert bias is not None
        return AffineConv.per_channel(np.ones_like(bias), bias)

    n = geometry.out_channels
    axes = None if whole.axes is None or n == 1 else (whole.axes[1], whole.axes[1])
    inner = replace(
        whole, value=None, geometry=replace(geometry, bias=False), load=product, shift_only=False
    )
    return replace(
        whole,
        args=(inner,),
        geometry=Geometry(n, n, group=n, bias=True),
        axes=axes,
        load=shift,
        shift_only=True,
        form=Form.ELEMENTWISE,
        before=Cost(),
        pair=inner,
    )


def _form(
    merged: Merged, geometry: Geometry, part: Partition, rank: int | None, tensor: Tensor
) -> Form:
    """Return the form of a map by its values, which may be simpler than its parts suggest."""
    if geometry == merged.geometry:
        return merged.form
    other = form_of(geometry, merged.axes, rank, part.writable)
    if isinstance(other, Refusal) or other is merged.form:
        return merged.form
    count = tensor.positions(None if merged.axes is None else merged.axes[1])[0]
    keys = [
        part.policy.key(Cost.of_form(form, geometry, count, shift_only=False))
        for form in (merged.form, other)
    ]
    return other if keys[1] < keys[0] else merged.form


def _least_of(steps: Sequence[Step]) -> float:
    """Return the least number of channels of some maps."""
    maps = [s.load() for s in steps if isinstance(s.geometry, Geometry) and not s.shift_only]
    return min(map(least_channel, maps), default=np.inf)


def _load(inside: Sequence[Step], merged: Merged) -> Load:
    steps = tuple(inside if merged.layout is None else merged.layout.steps)

    def load() -> AffineConv:
        if merged.shifted:
            scaling = chain_affine(steps[: merged.shifted]).finest()
            rest = chain_affine(steps[merged.shifted :])
            return rest @ replace(scaling, bias=None)
        return chain_affine(steps)

    return load


def _shift(part: Partition, span: Span, merged: Merged, arg: Term) -> Map:
    """Return the map that adds a shift per channel, so that the following map only scales."""
    steps = tuple(part.steps[span.first : span.first + merged.shifted])
    assert merged.axes is not None

    def load() -> AffineConv:
        shift = shift_before(chain_affine(steps).finest())
        assert shift is not None
        return AffineConv.per_channel(np.ones_like(shift), shift)

    affine, top, axis = load(), steps[-1].top, merged.axes[0]
    form = form_of(affine.geometry, (axis, axis), arg.tensor.rank, part.writable, scales=False)
    if isinstance(form, Refusal):
        raise RefusedError(form)
    added = Map.made(
        arg, affine, axis if affine.geometry.out_channels > 1 else None, top, top.tensor.dtype
    )
    assert added.tensor.dtype is not None
    check_numbers(affine, added.tensor.dtype, lambda: _least_of(steps))
    names = tuple(n for s in steps for n in s.origins)
    return replace(
        added, load=memoized(load, affine), shift_only=True, form=form, names_like=names
    )


def _views(ops: Sequence[ViewOp], arg: Term, channels: int, anchor: ir.Node | None) -> Term:
    """Apply views to another term, with its number of channels."""
    for op in ops:
        arg = view = view_term(op, arg, channels, anchor)
        channels = view.op.channels[1]
    return arg


def view_term(op: ViewOp, arg: Term, channels: int | None, anchor: ir.Node | None) -> View:
    """Apply a view to another term, with another number of channels if it changes."""
    # Symbols for extents must be the same on both sides of the view.
    pairs = zip(arg.tensor.extents or op.source, op.source, strict=True)
    source = [new if isinstance(new, int) or isinstance(old, int) else old for new, old in pairs]
    target = list(op.target)
    if op.axes is not None and channels is not None:
        axis_map = op.axis_map
        assert axis_map is not None
        after = axis_map.after(channels)
        source[op.axes[0]], target[op.axes[1]] = channels, after
        op = replace(op, channels=(channels, after))
    op = replace(op, source=tuple(source), target=tuple(target))
    tensor = arg.tensor.viewed(op)
    return View((arg,), tensor, None, None, anchor, op)


def before_cost(step: Step) -> Cost:
    """Return the cost of the source nodes that a step replaces."""
    total = Cost()
    for term in step.terms:
        if isinstance(term, Map) and term.before is not None:
            total += term.before
        elif term.node is not None:
            single = step if len(step.terms) == 1 else replace(step, terms=(term,))
            total += single.price().cost
    return total


def memoized(load: Load, affine: AffineConv) -> Load:
    """Cache composed values if they are small; otherwise compose them at each call."""
    size = affine.weight.nbytes
    if size > _HELD:
        reference = weakref.ref(affine)

        def again() -> AffineConv:
            held = reference()
            if held is None:
                return load()
            held.weight.flags.writeable = False  # another owner has it too
            return held

        return again
    affine.weight.flags.writeable = False
    return lambda: affine
