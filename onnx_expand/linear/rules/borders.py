"""Bridge maps that only a bias at a padded border separates, as the last rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.errors import Refusal, RefusedError
from onnx_expand.graph.editing import detach
from onnx_expand.linear.chains.composed import chain_affine
from onnx_expand.linear.chains.merge import before_cost
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.steps import Span
from onnx_expand.linear.driver import Terms
from onnx_expand.linear.rules.bridges import Border, bridge
from onnx_expand.linear.terms.base import Load, Price, Term
from onnx_expand.lower import Names, Target

__all__ = ["Bridge", "bridge_borders"]


@dataclass(eq=False)
class Bridge(Term):
    """Two maps with a bias between them that the padding of the second must not include.

    Attributes:
        border: The rewrite.
        first: Returns the values of the first map.
        second: Returns the values of the second map.
        extents: Spatial extents of the argument, None if not static.
        after: Its cost.
    """

    border: Border
    first: Load
    second: Load
    extents: Sequence[int | None]
    after: Cost

    def price(self) -> Price:
        """The cost of computing it from its arguments."""
        return Price(self.after)


def bridge_borders(
    terms: Terms, border: Border, image: str | None
) -> list[tuple[tuple[Term, ...], Refusal]]:
    """Merge across borders by the requested rewrite; return the attempts that were refused.

    All other rules come first. After the input named `image` the cheapest applicable rewrite is
    used.
    """
    refused: dict[tuple[Term, ...], Refusal] = {}
    changed = True
    while changed:
        changed = False
        for top in list(terms.live()):
            if terms.is_top(top) and _bridge_at(terms, top, border, image, refused):
                changed = True
                break
    return list(refused.items())


def _bridge_at(
    terms: Terms,
    top: Term,
    border: Border,
    image: str | None,
    refused: dict[tuple[Term, ...], Refusal],
) -> bool:
    stretch = terms.stretch(top)
    ways = [border] if border is not Border.EXACT else []
    root = stretch.root
    if not ways and root.value is not None and root.value.name == image:
        ways = [Border.PAD, Border.ONES, Border.MAP]
    for run in runs_of(stretch.steps) if ways else ():
        part = Partition(root, run, terms.policy, terms.facts)
        for span in part.bridgeable():
            new = _bridged(terms, part, span, ways)
            if not isinstance(new, Refusal):
                terms.take({part.steps[span.last].top: new})
                return True
            refused[tuple(t for s in part.inside(span) for t in s.terms)] = new
        root = run[-1].top
    return False


def _bridged(
    terms: Terms, part: Partition, span: Span, ways: Sequence[Border]
) -> Bridge | Refusal:
    arg = part.term_at(span.first)
    inside = part.inside(span)
    top = inside[-1].top
    first, second = inside[:-1], inside[-1:]
    rank = (arg.tensor.rank or 2) - 2
    known = (arg.tensor.extents or ())[2:]
    static = all(isinstance(e, int) for e in known)
    extents = [e if static and isinstance(e, int) else None for e in known] or [None] * rank
    dtype = top.tensor.dtype or arg.tensor.dtype
    refusal: Refusal | None = None
    assert dtype is not None
    x = ir.val("x", dtype=dtype)
    if arg.tensor.extents is not None:
        terms.facts.set_extents(x, arg.tensor.extents)
    target = Target(x, dtype, Names("n", "w", "b", "a"), terms.facts)
    for way in ways:
        try:
            nodes = bridge(way, chain_affine(first), chain_affine(second), extents, target)
        except RefusedError as error:
            nodes = error.refusal
        if isinstance(nodes, Refusal):
            refusal = nodes
            continue
        read = {v for n in nodes for v in n.inputs if v is not None and v.const_value is not None}
        sizes = [v.const_value.size for v in read if v.const_value is not None]
        detach(nodes)
        positions = top.tensor.positions(1)[0]
        after = Cost(max(sizes, default=0) * positions, sum(sizes), len(nodes))
        return Bridge(
            (arg,),
            top.tensor,
            top.value,
            None,
            top.anchor,
            way,
            lambda: chain_affine(first),
            lambda: chain_affine(second),
            extents,
            after,
            links=tuple(link for s in inside for link in s.links),
            origins=tuple(n for s in inside for n in s.origins),
            before=sum((before_cost(s) for s in inside), Cost()),
        )
    assert refusal is not None
    return refusal
