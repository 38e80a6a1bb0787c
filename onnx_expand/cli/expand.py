"""`onnx-expand expand`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from onnx_expand.cli import render
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
)
from onnx_expand.cli.progress import working
from onnx_expand.errors import UsageError
from onnx_expand.model import check_output, load, replacing, save
from onnx_expand.passes import (
    Expand,
    ExpandReport,
    StripNonlinear,
    assume_constant,
)
from onnx_expand.passes.named_plans import PLANS
from onnx_expand.passes.plan_files import plan_text
from onnx_expand.workflow.verification import verify

__all__ = ["expand"]


@click.command(cls=Command)
@click.argument("source", metavar="IN", required=False)
@click.argument("target", metavar="OUT", required=False)
@options_of(Expand)
@click.option("--dry-run", is_flag=True, help="Show what would be expanded; write no model.")
@click.option("--plan-out", metavar="F", help="Write what was expanded as a plan, JSON or .yaml.")
@click.option("--list-plans", is_flag=True, help="List the plans that onnx-expand includes.")
@click.option(
    "--strip-nonlinear", is_flag=True, help="Only remove the activations of --nonlinear."
)
@check_option
@shape_option
@assume_constant_option
@click.option("--report", metavar="F.json", help="Write the report as JSON; - is stdout.")
@html_option
@quiet_option
def expand(
    source: str | None,
    target: str | None,
    dry_run: bool,
    plan_out: str | None,
    list_plans: bool,
    strip_nonlinear: bool,
    checks: int | None,
    shapes: dict[str, tuple[int | str, ...]] | None,
    assume_constant_initializers: bool,
    report: str | None,
    html: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Replace the linear layers of IN by chains or sums of layers, to be trained and folded.

    They compute nothing that one layer could not, but they train better. 1x1 convolutions are
    expanded only if --include or --kernels selects them.

    \b
    Example: every convolution by 3x3 ones, and fc1 by three layers
      onnx-expand expand net.onnx big.onnx --strategy ck+fc --rate 4 --exclude fc2
    Example: a pretrained network that computes the same, for fine-tuning
      onnx-expand expand net.onnx big.onnx --strategy cl --init preserve
    Example: view and edit a plan first
      onnx-expand expand net.onnx --plan paper:smallnet-ck --dry-run --plan-out plan.yaml
    """
    if list_plans:
        render.print_plans(render.console(), PLANS)
        return
    if source is None or (target is None and not dry_run):
        raise click.UsageError(f"Missing argument '{'IN' if source is None else 'OUT'}'.")
    if strip_nonlinear:
        _strip(source, target, dry_run=dry_run)
        return
    run = Expand(**given(options))
    written = None if dry_run else target
    check_outputs(report, plan_out, html, model=written, reads=(source, options["plan"]))
    if html is not None and dry_run:
        raise UsageError("--html needs the written model; leave --dry-run out")
    if html is not None:
        require_both(source, target)
    model = load(source)
    if assume_constant_initializers:
        assume_constant(model)
    with working("expanding", quiet=quiet):
        outcome = run.call(model).report
    out = render.console(quiet=quiet or report == "-")
    if not dry_run and checks != 0:
        with working("checking", quiet=quiet):
            before = load(source)  # not shared with `model`, so that changes in place are found
            exact = outcome.is_exact
            found = verify(before, model, samples=checks, shapes=shapes, exact=exact)
        outcome = replace(outcome, verification=found)
        render.refuse_difference(out, found, f"{source}: the expanded model differs", target)
    if target is not None and not dry_run:
        save(model, target)
    _write_plan(plan_out, outcome)
    if report:
        render.write_json(outcome.as_dict(), report)
    if html is not None and target is not None:
        from onnx_expand.cli.pages import write_expansion

        write_expansion(html, outcome, source, target)
    render.print_expansion(out, outcome, written=not dry_run)
    if not dry_run:
        render.print_line(out, outcome.verification.text)


def _strip(source: str, target: str | None, *, dry_run: bool) -> None:
    check_outputs(model=None if dry_run else target, reads=[source])
    model = load(source)
    removed = StripNonlinear().call(model).removed
    if target is not None and not dry_run:
        save(model, target)
    render.console().print(f"{len(removed)} activations removed")


def _write_plan(path: str | None, outcome: ExpandReport) -> None:
    if path is None:
        return
    text = plan_text(outcome.plan, yaml=Path(path).suffix.lower() in {".yaml", ".yml"})
    with replacing(check_output(Path(path))) as partial:
        partial.write_text(text, encoding="utf-8")
