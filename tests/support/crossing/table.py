"""The table of what stands at the crossings: by op a function that appends a node of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tests.support.crossing.cell import Cell

__all__ = ["SUBJECTS", "of"]

SUBJECTS: dict[str, Callable[[Cell], object]] = {}
"""By op a function that appends a node of it, or raises `NoNodeError`."""


def of(*ops: str) -> Callable[[Callable[[Cell, str], object]], Callable[[Cell, str], object]]:
    """Register a maker for some ops."""

    def register(maker: Callable[[Cell, str], object]) -> Callable[[Cell, str], object]:
        def make(op: str, c: Cell) -> None:
            c.need(c.rank)
            maker(c, op)

        SUBJECTS.update({op: functools.partial(make, op) for op in ops})
        return maker

    return register
