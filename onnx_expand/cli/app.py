"""The command group `onnx-expand`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import click

import onnx_expand
from onnx_expand.cli.bench import bench
from onnx_expand.cli.check import check
from onnx_expand.cli.demo import demo
from onnx_expand.cli.expand import expand
from onnx_expand.cli.fold import fold
from onnx_expand.cli.inspect import inspect
from onnx_expand.cli.models import models
from onnx_expand.cli.paper import paper
from onnx_expand.cli.run import passes, run
from onnx_expand.cli.train import train

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 99})
@click.version_option(onnx_expand.__version__, prog_name="onnx-expand")
@click.option(
    "--log",
    "level",
    type=click.Choice(["debug", "info", "warning"]),
    help="Write the library's log messages from this level on to standard error.",
)
@click.pass_context
def cli(ctx: click.Context, level: str | None) -> None:
    """Rewrite ONNX models so that they train better and deploy cheaper.

    \b
    expand   replace linear layers by longer linear chains
    train    train an ONNX model, usually an expanded one
    fold     merge linear chains back into the cheapest nodes, exactly
    check    prove that two models compute the same
    inspect  count parameters, multiply-accumulates and nodes
    bench    time models side by side
    run      run passes by name, in order
    passes   list the passes and their options
    models   build a network of the ExpandNets paper
    demo     run the whole loop on handwritten digits
    paper    run the studies of the ExpandNets paper

    \b
    The whole loop:
      onnx-expand models smallnet --kernel 7 -o compact.onnx
      onnx-expand expand compact.onnx expanded.onnx --strategy ck+fc --rate 4
      onnx-expand train expanded.onnx trained.onnx --data digits --epochs 10
      onnx-expand fold trained.onnx deploy.onnx
      onnx-expand check trained.onnx deploy.onnx

    \b
    Exit codes: 0 success, 1 the models differ, 2 wrong usage,
    3 an unreadable or invalid model, 4 a valid model that cannot be handled.
    """
    if level is not None:
        ctx.call_on_close(_log(level))


def _log(level: str) -> Callable[[], None]:
    """Start logging to standard error; return the function that stops it."""
    logger, handler = logging.getLogger("onnx_expand"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    return end


for command in (expand, train, fold, check, inspect, bench, run, passes, models, demo, paper):
    cli.add_command(command)
