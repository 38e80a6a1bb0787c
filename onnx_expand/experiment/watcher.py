"""Interfaces that receive the progress of an experiment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from onnx_expand.experiment.training.history import EpochResult, Progress

__all__ = ["ProgressWithCallback", "SilentWatcher", "Watcher"]


class Watcher(Protocol):
    """Receives the progress of an experiment, in the process that prints."""

    def say(self, line: str) -> None:
        """Print one line of text."""

    def bar(self, title: str, epochs: int) -> contextlib.AbstractContextManager[Progress]:
        """Return a context that shows the progress of one run."""


class SilentWatcher:
    """A watcher that ignores everything."""

    def say(self, line: str) -> None:
        """Ignore the line."""

    def bar(self, title: str, epochs: int) -> contextlib.AbstractContextManager[Progress]:
        """See `Watcher`."""
        return contextlib.nullcontext(self)

    def on_batch(self, done: int, total: int) -> None:
        """Ignore the step."""

    def on_epoch(self, result: EpochResult) -> None:
        """Ignore the epoch."""


class ProgressWithCallback:
    """A progress bar, with an action after each epoch."""

    def __init__(self, bar: Progress, after: Callable[[EpochResult], None]) -> None:
        self.bar, self.after = bar, after

    def on_batch(self, done: int, total: int) -> None:
        """See `Progress`."""
        self.bar.on_batch(done, total)

    def on_epoch(self, result: EpochResult) -> None:
        """See `Progress`."""
        self.bar.on_epoch(result)
        self.after(result)
