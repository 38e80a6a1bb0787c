"""Show the progress of a command: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onnx_expand.cli.text import plain
from onnx_expand.progress import listening

if TYPE_CHECKING:
    from onnx_expand.experiment.training.history import EpochResult

__all__ = ["Steps", "TrainingBar", "working"]

_DELAY = 1.0  # seconds before a bar appears: short work needs none


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show the progress of the block on standard error once it takes longer than a second.

    Nothing is shown if standard error is not a terminal.

    Args:
        what: The text to show until the block reports a more specific one.
        quiet: Show nothing.
    """
    console = Console(stderr=True, highlight=False)
    if quiet or not console.is_terminal:
        yield
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(plain(what), total=None, count="")

    def show(part: str, done: int, total: int | None) -> None:
        count = "" if total is None else f"{done} of {total}"
        bar.update(task, description=plain(part), completed=done, total=total, count=count)

    timer = threading.Timer(_DELAY, bar.start)
    timer.daemon = True
    timer.start()
    try:
        with listening(show):
            yield
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


class _Bar:
    """A progress bar with a text after it; hidden if the output is not a terminal."""

    def __init__(self, out: Console, title: str) -> None:
        self._out = out
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=out,
            disable=not out.is_terminal or out.quiet,
        )
        self._task = self._bar.add_task(plain(title), total=None, last="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()


class Steps(_Bar):
    """A progress bar over steps on a terminal, and a line for each step elsewhere."""

    def done(self, what: str, count: int, total: int) -> None:
        """Show that a step is done."""
        self._bar.update(self._task, completed=count, total=total, last=plain(what))
        if not self._out.is_terminal:
            self._out.print(f"{count} of {total}: {what}")


class TrainingBar(_Bar):
    """A progress bar over the epochs and steps of one run, with the last epoch's figures.

    If the output is not a terminal, each epoch gets a line instead.
    """

    def __init__(self, out: Console, title: str, epochs: int) -> None:
        super().__init__(out, title)
        self._title, self._epochs = title, epochs
        self._done = 0

    def on_batch(self, done: int, total: int) -> None:
        """Advance by one step."""
        steps = self._epochs * total
        self._bar.update(self._task, total=steps, completed=self._done * total + done)

    def on_epoch(self, result: EpochResult) -> None:
        """Show an epoch's figures."""
        self._done = result.epoch
        train = "" if result.train_score is None else f"train {result.train_score:.2%}  "
        name, score = next(iter(result.figures.items()))
        test = f"{name} {score:.4g}" if "loss" in name else f"test {score:.2%}"
        figures = f"loss {result.loss:.4f}  {train}{test}"
        self._bar.update(self._task, last=figures)
        if not self._out.is_terminal:
            self._out.print(f"{self._title}: epoch {result.epoch} of {self._epochs}  {figures}")
