"""Report the progress of long computations to a listener, if one is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

__all__ = ["Listener", "counted", "listening", "tell"]

Listener: TypeAlias = Callable[[str, int, "int | None"], None]
"""Receives the name of a task, the number of parts done, and their total if it is known."""

_Item = TypeVar("_Item")

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Register a listener for the duration of the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int = 0, total: int | None = None) -> None:
    """Report the progress of a task to the listener."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


def counted(what: str, items: Iterable[_Item]) -> Iterator[_Item]:
    """Iterate over items, reporting before each how many are done."""
    total = len(items) if isinstance(items, Sequence) else None
    for done, item in enumerate(items):
        tell(what, done, total)
        yield item
