"""How far a long computation is: told to whoever listens, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

__all__ = ["Listener", "counted", "listening", "tell"]

Listener: TypeAlias = Callable[[str, int, "int | None"], None]
"""Is told what is done, how many parts of it are, and how many there are, if that is known."""

_Item = TypeVar("_Item")

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener be told what is done within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int = 0, total: int | None = None) -> None:
    """Tell whoever listens how far something is."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


def counted(what: str, items: Iterable[_Item]) -> Iterator[_Item]:
    """Items one after the other; before each is told how many are done."""
    total = len(items) if isinstance(items, Sequence) else None
    for done, item in enumerate(items):
        tell(what, done, total)
        yield item
