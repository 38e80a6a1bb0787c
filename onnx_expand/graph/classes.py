"""Disjoint sets: values that have a property in common, joined pair by pair."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Classes"]

T = TypeVar("T", bound=Hashable)


class Classes(Generic[T]):
    """Members in disjoint classes, each class represented by one of its members.

    A member that has not been seen before is a class of its own. The search halves paths (van
    Leeuwen and Tarjan, 1984).
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
        """All members that have been seen, in order."""
        return list(self._above)
