"""Write the pages of `--html`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from onnx_expand.equivalence import Verdict
from onnx_expand.errors import OnnxExpandError
from onnx_expand.model import check_output, load, replacing
from onnx_expand.pages import Drawing, bench_page, check_page, draw, expand_page, fold_page
from onnx_expand.pages.page import provenance
from onnx_expand.passes import ExpandReport, FoldReport
from onnx_expand.workflow.bench import Bench, bench
from onnx_expand.workflow.certificate import digests

__all__ = [
    "command_words",
    "write_bench",
    "write_check",
    "write_expansion",
    "write_fold",
    "write_page",
]

_SECONDS = 2.0  # measuring time for the page of a fold


def write_fold(path: str, report: FoldReport, source: str, target: str) -> None:
    """Write the page of a fold of one file into another, with their latencies if they run."""
    hashes = {"input": digests(source), "output": digests(target)}
    sizes = (_size(source, hashes["input"]), _size(target, hashes["output"]))
    timed: Bench | None = None
    # Models that do not run here are not timed; the page states that they were not checked.
    with contextlib.suppress(OnnxExpandError, MemoryError):
        timed = bench([source, target], seconds=_SECONDS, memory=False)
    drawings = _drawings(source, target)
    origin = provenance(command_words(), hashes)
    write_page(path, fold_page(report, drawings, origin, bench=timed, sizes=sizes))


def write_expansion(path: str, report: ExpandReport, source: str, target: str) -> None:
    """Write the page of an expansion of one file into another."""
    hashes = {"input": digests(source), "output": digests(target)}
    drawings = _drawings(source, target)
    write_page(path, expand_page(report, drawings, provenance(command_words(), hashes)))


def write_check(path: str, verdict: Verdict, a: str, b: str) -> None:
    """Write the page of a comparison of two files."""
    hashes = {"A": digests(a), "B": digests(b)}
    drawings = _drawings(a, b, "A: ", "B: ")
    write_page(path, check_page(verdict, drawings, provenance(command_words(), hashes)))


def write_bench(path: str, found: Bench) -> None:
    """Write the page of timings."""
    hashes = {timing.model: digests(timing.model) for timing in found.timings}
    write_page(path, bench_page(found, provenance(command_words(), hashes)))


def _drawings(first: str, second: str, *marks: str) -> tuple[Drawing, Drawing]:
    """Return the drawings of both models, titled with a mark and the file name."""
    before, after = marks or ("", "")
    one = draw(load(first), f"{before}{Path(first).name}")
    return one, draw(load(second), f"{after}{Path(second).name}")


def write_page(path: str, page: str) -> None:
    """Write a page atomically."""
    with replacing(check_output(path)) as partial:
        partial.write_text(page, encoding="utf-8")


def _size(path: str, files: dict[str, str]) -> int:
    return sum((Path(path).parent / name).stat().st_size for name in files)


def command_words() -> list[str]:
    """Return the command line that repeats the command, in words."""
    given: list[str] = click.get_current_context().find_root().obj or []
    return ["onnx-expand", *given]
