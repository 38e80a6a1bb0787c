"""`onnx-expand fold`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import onnx_ir as ir
from rich.console import Console

from onnx_expand.certificate import certify
from onnx_expand.cli import render
from onnx_expand.cli.options import assume_constant_option, check_outputs
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.model import load, save
from onnx_expand.passes import Border, Fold, Policy, Preprocess, assume_constant

if TYPE_CHECKING:
    from onnx_expand.equivalence import Verdict

__all__ = ["fold"]


_LARGE = 1 << 30  # bytes of weights: comparing needs both models in memory, several times over


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", required=False)
@click.option(
    "--policy",
    type=click.Choice([str(policy) for policy in Policy]),
    default=str(Policy.AUTO),
    show_default=True,
    help="cheapest: never a multiply-accumulate more. always: whatever is exact. marked: undo "
    "expansions only. latency: what is fastest in onnxruntime here. auto: marked for a model that "
    "expand made, else cheapest.",
)
@click.option(
    "--border",
    type=click.Choice([str(border) for border in Border]),
    default=str(Border.EXACT),
    show_default=True,
    help="Where a bias meets a padded border. exact: leave the nodes apart. ones: append a "
    "channel of ones to the input. map: add an image of constants. pad: pad with the value that "
    "becomes zero. All are exact; the last three add something.",
)
@click.option(
    "--inline",
    is_flag=True,
    help="Put the bodies of local functions in the place of their calls first.",
)
@click.option("--mean", metavar="M,...", help="Subtract this from the input image first.")
@click.option("--std", metavar="S,...", help="Then divide it by this.")
@click.option("--swap-rb", is_flag=True, help="The image comes with red and blue swapped.")
@click.option("--input", "image", metavar="NAME", help="The input that holds the image.")
@click.option(
    "--check",
    "checks",
    type=click.IntRange(min=0),
    metavar="N",
    help="Compare IN and OUT on N inputs of each kind before OUT is written, and write nothing "
    "if they differ; 0 does not. [default: 1, where onnxruntime can run IN]",
)
@assume_constant_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; write no model.")
@click.option(
    "--certificate",
    metavar="F.json",
    help="Write hashes of both models, versions, sites and the verdict; `check --certificate` "
    "verifies them later.",
)
@click.option("--report", metavar="F.json", help="Write every site as JSON; - is stdout.")
def fold(
    source: str,
    target: str | None,
    policy: str,
    border: str,
    inline: bool,
    mean: str | None,
    std: str | None,
    swap_rb: bool,
    image: str | None,
    checks: int | None,
    assume_constant_initializers: bool,
    dry_run: bool,
    certificate: str | None,
    report: str | None,
) -> int:
    """Merge the linear nodes of IN into the fewest, cheapest ones that compute the same.

    A model that expand made is given back as it was before, with its trained weights. In any
    other model, linear nodes (convolutions, matrix products, batch normalization, biases, scales,
    parallel branches) are merged where that is exact, borders included, and costs no more.

    --mean, --std and --swap-rb put the preprocessing of images into the first convolution.

    \b
    Examples:
      onnx-expand fold trained.onnx deploy.onnx
      onnx-expand fold trained.onnx deploy.onnx --policy cheapest   # also folds BN
      onnx-expand fold net.onnx deploy.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    if target is None and not dry_run:
        raise UsageError("OUT is missing; name a file, or give --dry-run")
    check_outputs(target, report, certificate)
    if certificate is not None and (target is None or dry_run):
        raise UsageError("--certificate is about a model that is written; name OUT")
    model = load(source)
    if assume_constant_initializers:
        assume_constant(model)
    preprocess = None
    if mean or std or swap_rb:
        preprocess = Preprocess(_numbers("mean", mean, 0), _numbers("std", std, 1), swap_rb, image)
        image = preprocess.find_input(model).name
        preprocess.call(model)
    elif image is not None:
        raise UsageError("--input goes with --mean, --std or --swap-rb")
    run = Fold(Policy(policy), Border(border), image, measure=True, inline=inline)
    outcome = run.call(model).report
    out = render.console(quiet=report == "-")
    verdict = None if dry_run or checks == 0 else _verify(source, preprocess, model, checks, out)
    if verdict is not None and not verdict.equal:
        render.print_verdict(out, verdict)
        message = f"{source}: the folded model differs; {target} was not written"
        click.echo(f"onnx-expand: error: {message}", err=True)
        return 1
    if report:
        render.write_json(outcome.as_dict(), report)
    if target is not None and not dry_run:
        save(model, target)
        if certificate is not None:
            found = None if verdict is None else verdict.as_dict()
            render.write_json(certify(source, target, outcome.as_dict(), found), certificate)
    render.print_fold(out, outcome, written=not dry_run)
    if verdict is not None:
        out.print(f"checked: {verdict.summary()}", markup=False)
    return 0


def _verify(
    source: str, preprocess: Preprocess | None, folded: ir.Model, checks: int | None, out: Console
) -> Verdict | None:
    """Compare what was read with what will be written."""
    from onnx_expand.equivalence import check

    size = sum(
        value.const_value.nbytes
        for graph in folded.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    if checks is None and size > _LARGE:
        message = f"not checked: {size / 2**30:.1f} GiB of weights; --check 1 runs both models"
        out.print(message, markup=False)
        return None
    before = load(source)
    if preprocess is not None:
        preprocess.call(before)
    try:
        return check(before, folded, samples=checks or 1)
    except UnsupportedError as error:
        if checks is not None:
            raise  # it was asked for
        out.print(f"not checked: {error}", markup=False)
        return None


def _numbers(name: str, text: str | None, default: float) -> tuple[float, ...]:
    if text is None:
        return (default,)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--{name}: '{text}' is no list of numbers such as 0.5,0.5,0.5") from None
