"""`onnx-expand demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from onnx_expand.cli import render
from onnx_expand.cli.options import Command, quiet_option
from onnx_expand.cli.progress import Steps

__all__ = ["demo"]


@click.command(cls=Command)
@click.option("--out", type=Path, default=Path("demo"), show_default=True, help="Output folder.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seeds", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--strategy", default="ck", show_default=True, help="As for `expand`.")
@click.option("--rate", type=float, default=4.0, show_default=True, help="Expansion rate.")
@click.option("--lr", type=float, default=0.02, show_default=True, help="Learning rate of both.")
@click.option("--images", type=click.IntRange(min=20), help="Training images.  [default: all]")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one for each core",
    help="Runs at the same time.",
)
@quiet_option
def demo(out: Path, processes: int, quiet: bool, **options: Any) -> int:
    """Run the whole loop on real data: expand, train, fold, check, and report the gain.

    SmallNet with 7x7 kernels is trained on distorted handwritten digits, compact and expanded,
    from the same seeds. The output folder gets the models, report.json, curves.png and the page
    index.html. An interrupted run resumes where it stopped.

    \b
    Examples:
      onnx-expand demo                            # 16 runs of 20 epochs, minutes
      onnx-expand demo --epochs 2 --seeds 2       # a quick trial
    """
    from onnx_expand import train as _needs_torch  # noqa: F401  (reports what to install)
    from onnx_expand.experiment.demo import Demo, sentences, table

    console = render.console(quiet=quiet)
    settings = Demo(**options)
    runs = 2 * settings.seeds
    console.print(f"{runs} runs, {processes} at a time; {settings.epochs} epochs each")
    with Steps(console, "training") as steps:
        found = settings.run(out, processes, steps.done)
    report = found.report
    console.print(f"data: {report['data']}")
    render.print_table(console, *table(report))
    for line in sentences(report):
        console.print(line)
    console.print(f"in {report['seconds']:.0f} seconds")
    from onnx_expand.cli.training import write_demo

    files = {kind: str(out / f"{kind}.onnx") for kind in report["models"]}
    write_demo(out / "index.html", found, files)
    console.print(f"wrote {', '.join(sorted(p.name for p in out.iterdir()))} to {out}")
    return 0 if report["equal"] else 1
