"""Run Python's cyclic garbage collector less often during a pass.

A model has about ten objects per node, nearly all of which live until the pass ends. The collector
traverses all of them repeatedly while they are created, which took a quarter of the time of a
fold. Within `rare_collections` it runs rarely, but still runs, because removed nodes form cycles.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

__all__ = ["rare_collections"]

_YOUNG, _OLD = 50_000, 50  # allocations between collections; middle collections between full ones

_lock = threading.Lock()
_within = 0
_given = gc.get_threshold()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely in the block; the last thread to leave restores the thresholds."""
    global _within, _given
    with _lock:
        if not _within:
            _given = gc.get_threshold()
            young, middle, old = _given
            if young:  # 0 disables the collector
                gc.set_threshold(max(young, _YOUNG), middle, max(old, _OLD))
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                gc.set_threshold(*_given)
