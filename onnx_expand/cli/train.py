"""`onnx-expand train`."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from onnx_expand.cli import render
from onnx_expand.cli.options import check_outputs, options_of
from onnx_expand.cli.text import plain
from onnx_expand.errors import OnnxExpandError
from onnx_expand.recipes import GROUPS, RECIPES, Plan

if TYPE_CHECKING:
    from onnx_expand.experiment.training.history import EpochResult

__all__ = ["TrainingBar", "train"]


class TrainingBar:
    """A progress bar over the epochs and steps of one run, with the last epoch's figures.

    Args:
        out: Where to draw.
        title: What is trained.
        epochs: How many epochs the run has.
    """

    def __init__(self, out: Console, title: str, epochs: int) -> None:
        self._epochs = epochs
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=out,
        )
        self._task = self._bar.add_task(plain(title), total=None, figures="")

    def __enter__(self) -> TrainingBar:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

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
        self._bar.update(self._task, figures=figures)


class _Screen:
    """Tells people what an experiment does.

    Args:
        out: Where.
    """

    def __init__(self, out: Console) -> None:
        self._out = out

    def say(self, line: str) -> None:
        """One line of text."""
        self._out.print(line)

    def bar(self, title: str, epochs: int) -> TrainingBar:
        """The progress of one run."""
        return TrainingBar(self._out, title, epochs)


@contextlib.contextmanager
def _explained(debug: bool) -> Iterator[None]:
    """Show the traceback of an error that ends the block, if that is wanted."""
    try:
        yield
    except OnnxExpandError:
        if debug:
            for line in traceback.format_exc().splitlines():
                click.echo(plain(line), err=True)
        raise


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--data",
    required=True,
    metavar="digits|DIR|FILE|PACKAGE:FUNCTION",
    help="digits: the handwritten digits of scikit-learn. DIR: images in one directory for each "
    "class, images/ and masks/, PASCAL VOC, Cityscapes, or CIFAR. FILE: an .npz of arrays x "
    "[N, C, H, W] and y [N], or x_train, y_train, x_test, y_test; or CIFAR as it is published. "
    "PACKAGE:FUNCTION: what your function returns.",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="The settings of a published run; options that you give are stronger.",
)
@click.option("--report", metavar="F.json", help="Write each epoch as JSON; - is stdout.")
@click.option(
    "--debug",
    is_flag=True,
    help="Before the line of an error show its traceback, through your own functions too.",
)
@options_of(*GROUPS.values())
def train(
    source: str,
    target: str,
    data: str,
    recipe: str | None,
    report: str | None,
    debug: bool,
    **said: Any,
) -> None:
    """Train IN with torch and write it with its new weights to OUT.

    OUT is IN with other numbers: nodes, names and all else stay. Batch normalization is trained
    as such, and its running statistics are written back. Beside OUT comes a folder with
    history.csv, curves.png and checkpoints. Under torchrun all processes share each step.

    \b
    Examples:
      onnx-expand train expanded.onnx trained.onnx --data digits --epochs 15 --lr 0.02
      onnx-expand train expanded.onnx trained.onnx --data cifar-10-python.tar.gz \\
        --recipe cifar-smallnet --then-fold deploy.onnx
      torchrun --nproc-per-node 4 -m onnx_expand train net.onnx out.onnx --data imagenet \\
        --recipe imagenet-mobilenet --workers 8 --amp bf16
      onnx-expand train net.onnx out.onnx --data imagenet --resume
    """
    plan = Plan.of(recipe, **said)
    check_outputs(target, report, plan.run.then_fold)
    from onnx_expand import train as _needs_torch  # noqa: F401  (says what to install)
    from onnx_expand.experiment import Experiment

    out = render.console(quiet=report == "-")
    with _explained(debug):
        done = Experiment(source, target, data, plan).run(_Screen(out))
    if report and not int(os.environ.get("RANK", "0")):
        render.write_json(done.as_dict(), report)
