"""The record of what cleaning changed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from onnx_expand.documents import table

__all__ = ["Cleaned"]


@dataclass(frozen=True)
class Cleaned:
    """The changes of cleaning: the labels of the removed nodes by reason.

    Attributes:
        constants: Nodes that computed a constant, which is stored now.
        duplicates: Nodes that computed the same as another node.
        joined: Nodes that were merged into another one.
        idle: Nodes that returned an input unchanged.
        unread: Nodes whose outputs nothing read.
        lifted: Constant nodes whose tensors are initializers now.
        grown: Bytes of the stored constants less those of the constants that were removed.
    """

    constants: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    lifted: tuple[str, ...] = ()
    grown: int = 0

    def __bool__(self) -> bool:
        lists = (self.constants, self.duplicates, self.joined, self.idle, self.unread, self.lifted)
        return any(lists)

    def __add__(self, other: Cleaned) -> Cleaned:
        return Cleaned(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def text(self) -> str:
        """The changes in one line."""
        counts = {
            "computed constants": self.constants,
            "Constant nodes": self.lifted,
            "duplicates": self.duplicates,
            "nodes merged into others": self.joined,
            "nodes that do nothing": self.idle,
            "unread nodes": self.unread,
        }
        parts = [f"{len(names)} {what}" for what, names in counts.items() if names]
        grown = f"; constants take {self.grown:,} bytes more" if self.grown > 0 else ""
        return f"cleaned: {', '.join(parts)}{grown}"

    def as_dict(self) -> dict[str, object]:
        """Return the changes as plain JSON types."""
        return table(self)
