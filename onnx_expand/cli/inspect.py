"""`onnx-expand inspect`."""

from __future__ import annotations

import click

from onnx_expand.cli import render
from onnx_expand.cli.folded import print_fold
from onnx_expand.cli.options import Command, check_outputs, shape_option
from onnx_expand.cost import inspect_model
from onnx_expand.model import load
from onnx_expand.passes import Fold, Policy

__all__ = ["inspect"]


@click.command(cls=Command)
@click.argument("model")
@click.option("--json", "json_path", metavar="F", help="Write the figures as JSON; - is stdout.")
@click.option(
    "--sites", is_flag=True, help="Also list what fold would merge, and why not the rest."
)
@click.option(
    "--policy",
    type=click.Choice([str(policy) for policy in Policy]),
    default=str(Policy.AUTO),
    show_default=True,
    help="The policy of fold for --sites.",
)
@shape_option
def inspect(
    model: str,
    json_path: str | None,
    sites: bool,
    policy: str,
    shapes: dict[str, tuple[int | str, ...]] | None,
) -> None:
    """Count the parameters, multiply-accumulates and nodes of MODEL.

    Counts are for one sample: a symbolic batch counts as one. --shape sets other symbolic
    extents. "MACs" are the multiply-accumulates of convolutions and matrix products; "with
    elementwise" counts as the ExpandNets paper does, which adds biases, normalization,
    activations and pooling.
    """
    check_outputs(json_path, reads=[model])
    loaded = load(model)
    if shapes:
        from onnx_expand.equivalence.inputs.extents import fix_extents

        sized = load(model)  # the model for --sites keeps its symbolic extents
        fix_extents(sized, shapes)
        figures = inspect_model(sized)
    else:
        figures = inspect_model(loaded)
    data, out = figures.as_dict(), render.console(quiet=json_path == "-")
    render.print_inspection(out, figures)
    if sites:
        report = Fold(Policy(policy), measure=True).call(loaded).report
        data["sites"] = report.as_dict()
        out.print()
        print_fold(out, report, written=False)
    if json_path:
        render.write_json(data, json_path)
