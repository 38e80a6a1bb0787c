"""What cleaning did."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cleaned"]


@dataclass(frozen=True)
class Cleaned:
    """What cleaning changed: the labels of the nodes that are gone, by the reason.

    Attributes:
        constants: They computed a constant, which is stored now.
        duplicates: Another node computes the same.
        idle: They handed on what they read.
        unread: Nothing reads what they compute.
        lifted: Constant nodes whose numbers are initializers now.
        grown: By how many bytes the constants that were written down exceed those that went.
    """

    constants: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    lifted: tuple[str, ...] = ()
    grown: int = 0

    def __bool__(self) -> bool:
        return any((self.constants, self.duplicates, self.idle, self.unread, self.lifted))

    def __add__(self, other: Cleaned) -> Cleaned:
        return Cleaned(
            self.constants + other.constants,
            self.duplicates + other.duplicates,
            self.idle + other.idle,
            self.unread + other.unread,
            self.lifted + other.lifted,
            self.grown + other.grown,
        )

    @property
    def text(self) -> str:
        """What was done in one line."""
        counts = {
            "computed constants": self.constants,
            "Constant nodes": self.lifted,
            "duplicates": self.duplicates,
            "nodes that do nothing": self.idle,
            "unread nodes": self.unread,
        }
        parts = [f"{len(names)} {what}" for what, names in counts.items() if names]
        grown = f"; constants take {self.grown:,} bytes more" if self.grown > 0 else ""
        return f"cleaned: {', '.join(parts)}{grown}"

    def as_dict(self) -> dict[str, object]:
        """What was cleaned as plain JSON types."""
        return {
            "constants": list(self.constants),
            "duplicates": list(self.duplicates),
            "idle": list(self.idle),
            "unread": list(self.unread),
            "lifted": list(self.lifted),
            "grown": self.grown,
        }
