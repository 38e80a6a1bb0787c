"""`onnx-expand check`."""

from __future__ import annotations

import click

from onnx_expand.cli import render
from onnx_expand.cli.options import check_outputs

__all__ = ["check"]


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "-n",
    "--samples",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Inputs of each kind: normal, uniform, large.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of inputs."
)
@click.option(
    "--providers",
    metavar="cpu,cuda",
    help="Where to run; all that work on this machine when missing.",
)
@click.option("--rtol", type=float, help="Allow |a - b| <= atol + rtol * |a| instead.")
@click.option("--atol", type=float, help="As --rtol.")
@click.option("--json", "json_path", metavar="F", help="Write the verdict as JSON; - is stdout.")
def check(
    a: str,
    b: str,
    samples: int,
    seed: int,
    providers: str | None,
    rtol: float | None,
    atol: float | None,
    json_path: str | None,
) -> int:
    """Prove that models A and B compute the same, in onnxruntime with its optimizations off.

    How far they may be apart is measured: B may be a few times as far from A computed in float64
    as rounding puts A itself. Exit code 0 if they are equal, 1 if not.

    \b
    Examples:
      onnx-expand check trained.onnx deploy.onnx
      onnx-expand check a.onnx b.onnx --json -      # every figure
    """
    from onnx_expand.equivalence import check as compare

    check_outputs(json_path)
    names = None if providers is None else providers.split(",")
    verdict = compare(a, b, samples=samples, seed=seed, providers=names, rtol=rtol, atol=atol)
    if json_path:
        render.write_json(verdict.as_dict(), json_path)
    render.print_verdict(render.console(quiet=json_path == "-"), verdict)
    return 0 if verdict.equal else 1
