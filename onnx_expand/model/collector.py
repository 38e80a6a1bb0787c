"""Python's collector of cycles, which a pass has little use for.

A model is some ten objects for each node, all of which live to the end of a pass. The collector
walks over all of them again and again while they are made, which took a quarter of the time of a
fold. Within `rare_collections` it still runs, but rarely: removed nodes are cycles.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

__all__ = ["rare_collections"]

_YOUNG, _OLD = 20_000, 50  # objects between collections, and those of the middle between full ones

_lock = threading.Lock()
_within = 0
_given = gc.get_threshold()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the collector run rarely; when the last thread leaves, as often as it was asked to."""
    global _within, _given
    with _lock:
        if not _within:
            _given = gc.get_threshold()
            young, middle, old = _given
            if young:  # 0 turns it off
                gc.set_threshold(max(young, _YOUNG), middle, max(old, _OLD))
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                gc.set_threshold(*_given)
