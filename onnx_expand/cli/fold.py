"""`onnx-expand fold`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from onnx_expand.cli import render
from onnx_expand.cli.folded import print_fold
from onnx_expand.cli.options import (
    Command,
    assume_constant_option,
    check_option,
    check_outputs,
    given,
    html_option,
    options_of,
    quiet_option,
    require_both,
    shape_option,
    verbose_option,
)
from onnx_expand.cli.progress import working
from onnx_expand.errors import UsageError
from onnx_expand.model import load, save
from onnx_expand.options import split
from onnx_expand.passes import Fold, FoldReport, Preprocess, assume_constant
from onnx_expand.workflow.certificate import certify
from onnx_expand.workflow.verification import verify

__all__ = ["fold"]


@click.command(cls=Command)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", required=False)
@options_of(Fold, Preprocess)
@check_option
@shape_option
@assume_constant_option
@click.option("--dry-run", is_flag=True, help="Report what would be folded; write no model.")
@click.option(
    "--certificate",
    metavar="F.json",
    help="Write the hashes of both models, versions, sites and the verdict; `check --certificate` "
    "verifies them later.",
)
@click.option("--report", metavar="F.json", help="Write every site as JSON; - is stdout.")
@html_option
@verbose_option
@quiet_option
def fold(
    source: str,
    target: str | None,
    checks: int | None,
    shapes: dict[str, tuple[int | str, ...]] | None,
    assume_constant_initializers: bool,
    dry_run: bool,
    certificate: str | None,
    report: str | None,
    html: str | None,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Merge the linear nodes of IN into the fewest, cheapest ones that compute the same.

    A model made by expand is restored node for node, with its trained weights. In any other
    model, linear nodes (convolutions, matrix products, batch normalization, biases, scales,
    parallel branches) are merged where that is exact, borders included, and costs no more.

    --mean, --std and --swap-rb merge the preprocessing of images into the first convolution.

    \b
    Examples:
      onnx-expand fold trained.onnx deploy.onnx
      onnx-expand fold trained.onnx deploy.onnx --policy cheapest   # also folds BN
      onnx-expand fold net.onnx deploy.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    of_model = {"--certificate": certificate, "--html": html}
    target = _target(source, None if dry_run else target, of_model, dry_run=dry_run)
    check_outputs(report, certificate, html, model=target, reads=[source])
    model = load(source)
    if assume_constant_initializers:
        assume_constant(model)
    merging, imaging = split("fold", given(options), Fold, Preprocess)
    preprocess = Preprocess.asked(**imaging)
    image = None
    if preprocess is not None:
        image = preprocess.find_input(model).name
        preprocess.call(model)
    run = Fold(**merging, image=image, measure=True, shapes=shapes)
    with working("folding", quiet=quiet):
        outcome = run.call(model).report
    out = render.console(quiet=quiet or report == "-")
    if target is not None and checks != 0:
        with working("checking", quiet=quiet):
            before = load(source)  # not shared with `model`, so that changes in place are found
            if preprocess is not None:
                preprocess.call(before)
            found = verify(before, model, samples=checks, shapes=shapes)
        outcome = replace(outcome, verification=found)
        render.refuse_difference(out, found, f"{source}: the folded model differs", target)
    if report:
        render.write_json(outcome.as_dict(), report)
    if target is not None:
        save(model, target)
        if certificate is not None:
            _certify(certificate, source, target, outcome, preprocess)
        if html is not None:
            with working("timing both models", quiet=quiet):
                _write_page(html, outcome, source, target)
    print_fold(out, outcome, written=target is not None, verbose=verbose)
    if target is not None:
        render.print_line(out, outcome.verification.text)


def _target(
    source: str, target: str | None, of_model: Mapping[str, str | None], *, dry_run: bool
) -> str | None:
    """Return the file to write; None for a dry run, which writes nothing that describes it."""
    if target is None and not dry_run:
        raise UsageError("OUT is missing; name a file, or give --dry-run")
    for flag, path in of_model.items():
        if path is not None:
            if target is None:
                raise UsageError(f"{flag} needs the written model; leave --dry-run out")
            require_both(source, target)
    return target


def _certify(
    path: str, source: str, target: str, outcome: FoldReport, preprocess: Preprocess | None
) -> None:
    verdict = outcome.verification.verdict
    stated = None if verdict is None else verdict.as_dict()
    render.write_json(certify(source, target, outcome.as_dict(), stated, preprocess), path)


def _write_page(path: str, outcome: FoldReport, source: str, target: str) -> None:
    from onnx_expand.cli.pages import write_fold  # slow to import

    write_fold(path, outcome, source, target)
