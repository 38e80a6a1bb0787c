"""`onnx-expand expand`."""

from __future__ import annotations

from typing import Any

import click

from onnx_expand.cli import render
from onnx_expand.cli.options import check_outputs
from onnx_expand.model import load, save
from onnx_expand.passes import Expand

__all__ = ["expand"]


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    metavar="cl|ck|fc|cl+fc|ck+fc|auto",
    help="cl: 1x1, k x k, 1x1. ck: 3x3 layers for an odd k above 3. fc: matrices. "
    "auto: ck where it applies, else cl, and fc.",
)
@click.option("--rate", type=float, default=4.0, show_default=True, help="Growth of the widths.")
@click.option(
    "--first-width",
    type=click.Choice(["keep", "expand"]),
    default="keep",
    show_default=True,
    help="Input width of the first factor of the first convolutions.",
)
@click.option("--include", metavar="RE", help="Only nodes with a match in their name.")
@click.option("--exclude", metavar="RE", help="Not nodes with a match in their name.")
@click.option(
    "--fc-layers",
    type=int,
    default=3,
    show_default=True,
    help="Layers for a fully connected one, 2 or 3.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the initial numbers.")
@click.option("--report", metavar="F.json", help="Write what was done as JSON; - is stdout.")
def expand(source: str, target: str, fc_layers: int, report: str | None, **options: Any) -> None:
    """Replace the linear layers of IN by chains of linear layers, to be trained and folded.

    The chains compute nothing that one layer could not, but they train better. 1x1 convolutions
    are left alone unless --include names them.

    \b
    Example: every convolution by 3x3 ones, and fc1 by three layers
      onnx-expand expand net.onnx big.onnx --strategy ck+fc --rate 4 --exclude fc2
    """
    run = Expand(layers=fc_layers, **options)
    check_outputs(target, report)
    model = load(source)
    outcome = run.call(model).report
    save(model, target)
    if report:
        render.write_json(outcome.as_dict(), report)
    render.print_expansion(render.console(quiet=report == "-"), outcome)
