"""Expanded units among the steps of a stretch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx_expand.linear.chains.steps import Span, Step
from onnx_expand.lower.units import Member, unit_member

__all__ = ["units_of"]


def units_of(steps: Sequence[Step]) -> Iterator[tuple[Span, Member]]:
    """Return the complete expanded units among steps, in order."""
    members = [_member(step) for step in steps]
    for start, member in enumerate(members):
        if member is None or member.index:
            continue
        if steps[start].branches:
            yield Span(start, start), member
            continue
        run = members[start : start + member.size]
        places = [(m.unit, m.index) for m in run if m is not None]
        if places == [(member.unit, i) for i in range(member.size)]:
            yield Span(start, start + member.size - 1), member


def _member(step: Step) -> Member | None:
    """Return the place of a step in a unit; the first place for a join of a whole unit."""
    if not step.branches:
        node = step.top.node
        return None if node is None or step.view is not None else unit_member(node)
    members: list[Member] = []
    for origin in step.origins:
        member = unit_member(origin)
        if member is None:
            return None
        members.append(member)
    members.sort(key=lambda m: m.index)
    places = [(m.unit, m.index) for m in members]
    whole = members and places == [(members[0].unit, i) for i in range(members[0].size)]
    return members[0] if whole else None
