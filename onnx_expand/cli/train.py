"""`onnx-expand train`."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from onnx_expand.cli import render
from onnx_expand.cli.options import Command, check_outputs, html_option, options_of, quiet_option
from onnx_expand.cli.progress import TrainingBar
from onnx_expand.cli.text import plain
from onnx_expand.errors import OnnxExpandError
from onnx_expand.recipes import GROUPS, RECIPES, Setup

__all__ = ["train"]


class _Screen:
    """Shows the progress of an experiment."""

    def __init__(self, out: Console) -> None:
        self._out = out

    def say(self, line: str) -> None:
        """Print a line of text."""
        self._out.print(line)

    def bar(self, title: str, epochs: int) -> TrainingBar:
        """Return the progress bar of one run."""
        return TrainingBar(self._out, title, epochs)


@contextlib.contextmanager
def _traced(debug: bool) -> Iterator[None]:
    """Print the traceback of an error that ends the block if `debug` is set."""
    try:
        yield
    except OnnxExpandError:
        if debug:
            for line in traceback.format_exc().splitlines():
                click.echo(plain(line), err=True)
        raise


@click.command(cls=Command)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--data",
    required=True,
    metavar="digits|DIR|FILE|PACKAGE:FUNCTION",
    help="digits: the handwritten digits of scikit-learn. DIR: images in one directory for each "
    "class, images/ and masks/, PASCAL VOC, Cityscapes, or CIFAR. FILE: an .npz of arrays x "
    "[N, C, H, W] and y [N], or x_train, y_train, x_test, y_test; or CIFAR as published. "
    "PACKAGE:FUNCTION: the result of your function.",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="The settings of a published run; options that you give override them.",
)
@click.option("--report", metavar="F.json", help="Write each epoch as JSON; - is stdout.")
@click.option(
    "--debug",
    is_flag=True,
    help="Before the line of an error show its traceback, including your own functions.",
)
@html_option
@quiet_option
@options_of(*GROUPS.values())
def train(
    source: str,
    target: str,
    data: str,
    recipe: str | None,
    report: str | None,
    debug: bool,
    html: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train IN with torch and write it with its new weights to OUT.

    OUT is IN with other weights: nodes, names and all else are unchanged. Batch normalization is
    trained, and its running statistics are written back. A folder beside OUT gets history.csv,
    curves.png and checkpoints. Under torchrun all processes share each step.

    \b
    Examples:
      onnx-expand train expanded.onnx trained.onnx --data digits --epochs 15 --lr 0.02
      onnx-expand train expanded.onnx trained.onnx --data cifar-10-python.tar.gz \\
        --recipe cifar-smallnet --then-fold deploy.onnx
      torchrun --nproc-per-node 4 -m onnx_expand train net.onnx out.onnx --data imagenet \\
        --recipe imagenet-mobilenet --workers 8 --amp bf16
      onnx-expand train net.onnx out.onnx --data imagenet --resume
    """
    setup = Setup.of(recipe, **options)
    run = setup.run
    reads = (source, data, setup.distill.teacher, run.compare_baseline, run.weights)
    check_outputs(report, run.then_fold, run.save_weights, html, model=target, reads=reads)
    from onnx_expand import train as _needs_torch  # noqa: F401  (reports what to install)
    from onnx_expand.experiment import Experiment

    out = render.console(quiet=quiet or report == "-")
    with _traced(debug):
        done = Experiment(source, target, data, setup, gallery=html is not None).run(_Screen(out))
    if int(os.environ.get("RANK", "0")):
        return
    if report:
        render.write_json(done.as_dict(), report)
    if html is not None:
        from onnx_expand.cli.training import write_training

        files = {"input": source, "trained": target}
        if setup.run.then_fold is not None:
            files["folded"] = setup.run.then_fold
        write_training(html, done, setup, files)
