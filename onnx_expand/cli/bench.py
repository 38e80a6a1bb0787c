"""`onnx-expand bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnx_expand.cli import render
from onnx_expand.cli.options import (
    Command,
    Listed,
    check_outputs,
    html_option,
    quiet_option,
    shape_option,
)
from onnx_expand.cli.progress import working
from onnx_expand.cli.text import plain
from onnx_expand.errors import UnsupportedError
from onnx_expand.model import replacing

if TYPE_CHECKING:
    from onnx_expand.workflow.bench import Bench, Timing

__all__ = ["bench"]

_TITLES = ("model", "provider", "median", "p95", "ratio", "95 %", "memory")


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True, metavar="A [B ...]")
@click.option(
    "--providers",
    type=Listed(str),
    metavar="cpu,cuda",
    help="Where to run. [default: all that work]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Measuring time for each provider, with the time to make sessions; at least six times.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads for one operator.")
@click.option("--as-written", is_flag=True, help="Turn onnxruntime's graph optimizations off.")
@shape_option
@click.option("--no-memory", is_flag=True, help="Do not measure memory.")
@click.option("--json", "json_path", metavar="F", help="Write the figures as JSON; - is stdout.")
@click.option("--png", metavar="F", help="Draw the medians.")
@html_option
@quiet_option
def bench(
    models: tuple[str, ...],
    providers: tuple[str, ...] | None,
    seconds: float,
    threads: int | None,
    as_written: bool,
    shapes: dict[str, tuple[int | str, ...]] | None,
    no_memory: bool,
    json_path: str | None,
    png: str | None,
    html: str | None,
    quiet: bool,
) -> int:
    """Time models in onnxruntime in turns, so that ratios are reliable on a noisy machine.

    \b
    Examples:
      onnx-expand bench compact.onnx expanded.onnx folded.onnx
      onnx-expand bench a.onnx b.onnx --threads 1 --shape image:1,3,480,640 --json -
    """
    from onnx_expand.workflow.bench import bench as measure

    check_outputs(json_path, png, html, reads=models)
    with working("timing", quiet=quiet):
        found = measure(
            models,
            providers=providers,
            seconds=seconds,
            threads=threads,
            optimize=not as_written,
            shapes=shapes,
            memory=not no_memory,
        )
    if json_path:
        render.write_json(found.as_dict(), json_path)
    out = render.console(quiet=quiet or json_path == "-")
    render.print_table(out, _TITLES, [_row(timing) for timing in found.timings])
    if html:
        from onnx_expand.cli.pages import write_bench

        write_bench(html, found)
    if png:
        _draw(found, png)
    return 0


def _row(timing: Timing) -> tuple[str, ...]:
    memory = "" if timing.memory is None else f"{timing.memory / 2**20:.1f} MiB"
    low, high = timing.interval
    return (
        timing.model,
        timing.provider,
        f"{timing.median * 1e3:.3f} ms",
        f"{timing.p95 * 1e3:.3f} ms",
        f"{timing.ratio:.2f}x",
        f"{low:.2f}-{high:.2f}",
        memory,
    )


def _draw(found: Bench, path: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedError("--png needs matplotlib: pip install matplotlib") from None
    labels = [plain(f"{Path(t.model).name} ({t.provider})") for t in found.timings]
    figure = Figure(figsize=(6, 1 + 0.4 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    medians = [t.median * 1e3 for t in found.timings]
    spans = [[0.0] * len(medians), [(t.p95 - t.median) * 1e3 for t in found.timings]]
    axes.barh(labels, medians, xerr=spans, color="#4878a8")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds: median, and 95th percentile")
    with replacing(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=120)
