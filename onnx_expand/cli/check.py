"""`onnx-expand check`."""

from __future__ import annotations

from typing import Any

import click
import onnx_ir as ir

from onnx_expand.cli import render
from onnx_expand.cli.options import (
    Command,
    check_outputs,
    given,
    html_option,
    options_of,
    quiet_option,
    shape_option,
)
from onnx_expand.cli.progress import working
from onnx_expand.equivalence.options import CheckOptions
from onnx_expand.errors import UsageError

__all__ = ["check"]


@click.command(cls=Command)
@click.argument("a")
@click.argument("b", required=False)
@options_of(CheckOptions, without=("factor", "ranges", "shapes"))
@click.option(
    "--val-range",
    "ranges",
    multiple=True,
    metavar="[NAME:]LO,HI",
    help="Draw this input, or all, uniformly from a range.",
)
@shape_option
@click.option("--bisect", is_flag=True, help="If they differ, find the first tensor that differs.")
@click.option(
    "--certificate",
    metavar="F",
    help="Verify that A and B are the models of this certificate.",
)
@click.option("--json", "json_path", metavar="F", help="Write the verdict as JSON; - is stdout.")
@click.option("--junit", metavar="F", help="Write the verdict as JUnit XML.")
@html_option
@quiet_option
def check(
    a: str,
    b: str | None,
    ranges: tuple[str, ...],
    shapes: dict[str, tuple[int | str, ...]] | None,
    html: str | None,
    bisect: bool,
    certificate: str | None,
    json_path: str | None,
    junit: str | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Check that models A and B compute the same, in onnxruntime with its optimizations off.

    The tolerance is measured: B may be a few times as far from A computed in float64 as the
    rounding of A itself. Exit code 0 if they are equal, 1 if not.

    \b
    Examples:
      onnx-expand check trained.onnx deploy.onnx
      onnx-expand check a.onnx b.onnx --json -      # every figure
      onnx-expand check a.onnx b.onnx --val-range image:0,255 --shape image:1,3,480,640
      onnx-expand check trained.onnx deploy.onnx --certificate fold.json
    """
    from onnx_expand.equivalence import bisect as search
    from onnx_expand.equivalence import check as compare

    check_outputs(json_path, junit, html, reads=(a, b, certificate, options["inputs"]))
    if b is None:
        raise UsageError("B is missing; name the model to compare with A")
    source: str | ir.Model = a
    if certificate is not None:
        from onnx_expand.workflow.certificate import verify

        source = verify(certificate, a, b) or a
    wanted = CheckOptions(
        **given(options), ranges=dict(map(_range, ranges)) or None, shapes=shapes
    )
    with working("checking", quiet=quiet):
        verdict = compare(source, b, wanted)
    out = render.console(quiet=quiet or json_path == "-")
    wrong = [figure for figure in verdict.outputs if not figure.equal]
    found = None
    if bisect and wrong:
        worst = max(wrong, key=lambda figure: figure.ratio)
        with working("searching", quiet=quiet):
            found = search(source, b, verdict.inputs[worst.place.sample])
    if json_path:
        divergence = None if found is None else found.as_dict()
        render.write_json({**verdict.as_dict(), "divergence": divergence}, json_path)
    if junit:
        from onnx_expand.cli.junit import write_junit

        write_junit(verdict, junit, f"{a} {b}")
    if html:
        from onnx_expand.cli.pages import write_check

        write_check(html, verdict, a, b)
    render.print_verdict(out, verdict)
    # The verdict already names a part that differs when it is run alone.
    if bisect and not verdict.equal and all(region.holds for region in verdict.regions):
        nothing = "bisect: all tensors with the same name in both models agree"
        out.print(nothing if found is None else found.summary())
    return 0 if verdict.equal else 1


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, _, numbers = text.rpartition(":")
    try:
        low, high = (float(part) for part in numbers.split(","))
    except ValueError:
        raise UsageError(f"--val-range: '{text}' is not a range such as image:0,255") from None
    if not -float("inf") < low <= high < float("inf"):
        raise UsageError(f"--val-range: {low:g} to {high:g} is not a range")
    return name, (low, high)
