"""Disjoint sets (union-find) of values that share a property."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["UnionFind"]

T = TypeVar("T", bound=Hashable)


class UnionFind(Generic[T]):
    """Disjoint classes, each represented by one of its members.

    An unseen member forms its own class. The search halves paths (van Leeuwen and Tarjan, 1984).
    """

    def __init__(self) -> None:
        self._above: dict[T, T] = {}

    def __call__(self, member: T) -> T:
        """Return the representative of a member's class."""
        above = self._above
        while above.setdefault(member, member) != member:
            above[member] = member = above[above[member]]
        return member

    def join(self, one: T, other: T) -> None:
        """Unite the classes of two members."""
        self._above[self(one)] = self(other)

    @property
    def members(self) -> list[T]:
        """Return all members seen so far, in order."""
        return list(self._above)
