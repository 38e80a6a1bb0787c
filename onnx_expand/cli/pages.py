"""`--html` of the commands."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from onnx_expand.bench import Bench, bench
from onnx_expand.certificate import digests
from onnx_expand.cli.options import check_outputs
from onnx_expand.equivalence import Verdict
from onnx_expand.errors import OnnxExpandError
from onnx_expand.model import load, replacing
from onnx_expand.pages import bench_page, check_page, draw, expand_page, fold_page
from onnx_expand.pages.page import provenance
from onnx_expand.passes import ExpandReport, FoldReport

__all__ = ["write_bench", "write_check", "write_expansion", "write_fold"]

_SECONDS = 2.0  # for the latency on the page of a fold


def write_fold(path: str, report: FoldReport, source: str, target: str) -> None:
    """Write the page of a fold of one file into another; both are timed where they run."""
    hashes = {"input": digests(source), "output": digests(target)}
    sizes = (_size(source, hashes["input"]), _size(target, hashes["output"]))
    timed: Bench | None = None
    # What does not run here is not timed; the page says that it was not checked.
    with contextlib.suppress(OnnxExpandError, MemoryError):
        timed = bench([source, target], seconds=_SECONDS, memory=False)
    drawings = (draw(load(source), Path(source).name), draw(load(target), Path(target).name))
    origin = provenance(_command(), hashes)
    _write(path, fold_page(report, drawings, origin, bench=timed, sizes=sizes))


def write_expansion(path: str, report: ExpandReport, source: str, target: str) -> None:
    """Write the page of an expansion of one file into another."""
    hashes = {"input": digests(source), "output": digests(target)}
    drawings = (draw(load(source), Path(source).name), draw(load(target), Path(target).name))
    _write(path, expand_page(report, drawings, provenance(_command(), hashes)))


def write_check(path: str, verdict: Verdict, a: str, b: str) -> None:
    """Write the page of a comparison of two files."""
    hashes = {"A": digests(a), "B": digests(b)}
    drawings = (draw(load(a), f"A: {Path(a).name}"), draw(load(b), f"B: {Path(b).name}"))
    _write(path, check_page(verdict, drawings, provenance(_command(), hashes)))


def write_bench(path: str, found: Bench) -> None:
    """Write the page of timings."""
    hashes = {timing.model: digests(timing.model) for timing in found.timings}
    _write(path, bench_page(found, provenance(_command(), hashes)))


def _write(path: str, page: str) -> None:
    check_outputs(path)
    with replacing(Path(path)) as partial:
        partial.write_text(page, encoding="utf-8")


def _size(path: str, files: dict[str, str]) -> int:
    return sum((Path(path).parent / name).stat().st_size for name in files)


def _command() -> list[str]:
    """The words that repeat the command."""
    given: list[str] = click.get_current_context().find_root().obj or []
    return ["onnx-expand", *given]
