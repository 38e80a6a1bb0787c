"""Who is told what an experiment does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from onnx_expand.experiment.training.history import EpochResult, Progress

__all__ = ["Both", "Nobody", "Watcher"]


class Watcher(Protocol):
    """Is told what an experiment does, in the process that speaks to people."""

    def say(self, line: str) -> None:
        """One line of text."""

    def bar(self, title: str, epochs: int) -> contextlib.AbstractContextManager[Progress]:
        """The progress of one run, while the block runs."""


class Nobody:
    """A watcher that does not look."""

    def say(self, line: str) -> None:
        """Nothing."""

    def bar(self, title: str, epochs: int) -> contextlib.AbstractContextManager[Progress]:
        """See `Watcher`."""
        return contextlib.nullcontext(self)

    def on_batch(self, done: int, total: int) -> None:
        """Nothing."""

    def on_epoch(self, result: EpochResult) -> None:
        """Nothing."""


class Both:
    """A bar, and something to do after each epoch."""

    def __init__(self, bar: Progress, after: Callable[[EpochResult], None]) -> None:
        self.bar, self.after = bar, after

    def on_batch(self, done: int, total: int) -> None:
        """See `Progress`."""
        self.bar.on_batch(done, total)

    def on_epoch(self, result: EpochResult) -> None:
        """See `Progress`."""
        self.bar.on_epoch(result)
        self.after(result)
