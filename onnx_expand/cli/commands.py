"""The commands and their options."""

from __future__ import annotations

from typing import Any

import click

import onnx_expand
from onnx_expand.cli import render
from onnx_expand.errors import UsageError
from onnx_expand.model import check_output, load, save
from onnx_expand.passes import Expand, Fold, Policy

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 99})
@click.version_option(onnx_expand.__version__, prog_name="onnx-expand")
def cli() -> None:
    """Rewrite ONNX models so that they train better and deploy cheaper.

    \b
    expand   replace linear layers by longer linear chains
    train    train an ONNX model, usually an expanded one
    fold     merge linear chains back into the cheapest nodes, exactly
    check    prove that two models compute the same
    inspect  count parameters, multiply-accumulates and nodes

    \b
    The whole loop:
      onnx-expand expand compact.onnx expanded.onnx --strategy ck+fc --rate 4
      onnx-expand train expanded.onnx trained.onnx --data digits --epochs 10
      onnx-expand fold trained.onnx deploy.onnx
      onnx-expand check trained.onnx deploy.onnx

    \b
    Exit codes: 0 done, 1 the models differ, 2 wrong usage,
    3 an unreadable or invalid model, 4 a valid one that cannot be handled.
    """


@cli.command()
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
    _check_outputs(target, report)
    model = load(source)
    outcome = run.call(model).report
    save(model, target)
    if report:
        render.write_json(outcome.as_dict(), report)
    render.print_expansion(render.console(quiet=report == "-"), outcome)


@cli.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--policy",
    type=click.Choice([str(policy) for policy in Policy]),
    default=str(Policy.AUTO),
    show_default=True,
    help="cheapest: never a multiply-accumulate more. always: whatever is exact. marked: undo "
    "expansions only. auto: marked for a model that expand made, else cheapest.",
)
@click.option("--report", metavar="F.json", help="Write every site as JSON; - is stdout.")
def fold(source: str, target: str, policy: str, report: str | None) -> None:
    """Merge the linear nodes of IN into the fewest, cheapest ones that compute the same.

    A model that expand made is given back as it was before, with its trained weights. In any
    other model, chains of linear nodes (convolutions, matrix products, batch normalization,
    biases, scales) are merged where that is exact, borders included, and costs no more.

    \b
    Examples:
      onnx-expand fold trained.onnx deploy.onnx
      onnx-expand fold trained.onnx deploy.onnx --policy cheapest   # also folds BN
    """
    _check_outputs(target, report)
    model = load(source)
    outcome = Fold(Policy(policy)).call(model).report
    save(model, target)
    if report:
        render.write_json(outcome.as_dict(), report)
    render.print_fold(render.console(quiet=report == "-"), outcome)


@cli.command()
@click.argument("model")
@click.option("--json", "json_path", metavar="F", help="Write the figures as JSON; - is stdout.")
def inspect(model: str, json_path: str | None) -> None:
    """Count the parameters, multiply-accumulates and nodes of MODEL.

    Counts are for one sample: a symbolic batch counts as one. "MACs" are the products of
    convolutions and matrix products; "with elementwise" is the way of counting of the ExpandNets
    paper, which adds biases, normalization, activations and pooling.
    """
    _check_outputs(json_path)
    figures = onnx_expand.inspect(model)
    if json_path:
        render.write_json(figures.as_dict(), json_path)
    render.print_inspection(render.console(quiet=json_path == "-"), figures)


def _check_outputs(*paths: str | None) -> None:
    """Find out before the work begins that a result could not be written."""
    for path in paths:
        if path and path != "-":
            check_output(path)
        elif path == "":
            raise UsageError("an output path is empty; name a file")
