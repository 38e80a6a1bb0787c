"""Print the results of commands: short tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from onnx_expand.cli.text import plain
from onnx_expand.cost import Inspection
from onnx_expand.equivalence import Figure, Verdict
from onnx_expand.errors import DifferentError
from onnx_expand.model import check_output, replacing
from onnx_expand.passes import ExpandReport, Verification
from onnx_expand.passes.plans import Plan

__all__ = [
    "console",
    "listed",
    "print_change",
    "print_expansion",
    "print_inspection",
    "print_line",
    "print_plans",
    "print_reason",
    "print_table",
    "print_verdict",
    "refuse_difference",
    "write_json",
]


_FIGURES = (
    *("output", "on", "max abs", "max rel", "ulp", "cosine", "floor", "error/tolerance", "at"),
    *("border", "interior"),
)
_SPARE = ("ulp", "max rel", "cosine", "at", "on")  # left out first, in order, to save width
_SITES = 24  # rows that a person reads to the end
_NARROWEST = 40  # columns; a terminal that reports fewer may be wrong


class _PlainConsole(Console):
    """A console that shows text literally: names contain no markup and no escape sequences."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print one line."""
        super().print(*(plain(o) if isinstance(o, str) else o for o in objects), **options)


def console(*, quiet: bool = False) -> Console:
    """Return the console for tables; `quiet` if standard output is JSON."""
    # Paths may contain colons and brackets, which rich would take for emoji and markup.
    return _PlainConsole(quiet=quiet, highlight=False, soft_wrap=True, emoji=False, markup=False)


def write_json(data: Mapping[str, Any], path: str) -> None:
    """Write JSON to a file, atomically, or to standard output for `-`.

    Raises:
        UsageError: The file cannot be written.
    """
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    with replacing(check_output(Path(path))) as partial:
        partial.write_text(text, encoding="utf-8")


def print_table(out: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is left-aligned and whose others are right-aligned.

    Cells are never cut off, whatever the width of the terminal.
    """
    lines = [[plain(cell) for cell in line] for line in ([header] if any(header) else [])]
    lines += [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        out.print("  ".join(cells).rstrip())


def print_line(out: Console, text: str, indent: int = 2) -> None:
    """Print a sentence, wrapped at words with hanging indent if the output is a terminal."""
    if not out.is_terminal:
        out.print(text)
        return
    start = len(text) - len(text.lstrip())
    further = " " * (start + indent)
    width = max(out.width, _NARROWEST)
    lines = textwrap.wrap(
        plain(text),
        width,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        out.print(line)


def print_inspection(out: Console, figures: Inspection) -> None:
    """Print the figures of one model."""
    rows = [
        ("parameters", _count(figures.parameters)),
        ("MACs (products)", _count(figures.macs)),
        ("MACs with elementwise", _count(figures.macs_with_elementwise)),
        ("nodes", _count(figures.nodes)),
        ("linear nodes", _count(figures.linear_nodes)),
    ]
    print_table(out, ("", ""), rows)
    print_line(out, "ops: " + ", ".join(f"{op} {count}" for op, count in figures.ops.items()))
    if figures.unknown:
        out.print(f"MACs are unknown: shapes are not static at {listed(figures.unknown)}")
    if figures.uncounted:
        out.print(f"not counted in MACs: {', '.join(figures.uncounted)}")


def print_expansion(out: Console, report: ExpandReport, *, written: bool = True) -> None:
    """Print what expand did, or would do."""
    if not report.expanded:
        end = "; the model is written as it was." if written else "."
        out.print(f"Nothing was expanded{end}")
    else:
        header, rows = _expansion_rows(report)
        print_table(out, header, rows)
        print_change(out, report.before, report.after)
        out.print(_claim(report))
    _print_reasons(out, "not expanded", [((s.node,), str(s.refusal)) for s in report.skipped])


def _claim(report: ExpandReport) -> str:
    """State how the values of the expanded model relate to the model."""
    if report.init != "preserve":
        return _START.get(report.init, _START["random"])
    if not report.is_exact:
        return (
            "The expanded model approximates the model: the relative error of its weights is up "
            f"to {report.residual:.2g}."
        )
    return "The expanded model computes the same as the model, up to rounding."


_START = {
    "random": "The new layers have random weights: train the model before you use it.",
    "contracted": "The expansion was contracted immediately: only the weights have changed.",
}


def _expansion_rows(report: ExpandReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return one row for each expanded layer, with its figures before and after."""
    rows = []
    for e in report.expanded:
        kernel = "x".join(map(str, e.kernel))
        row = [
            e.node,
            f"{e.op} {kernel}".strip(),
            str(e.how.strategy),
            " -> ".join(map(str, e.widths)),
            f"{e.parameters[0]:,} -> {e.parameters[1]:,}",
            f"{_count(e.macs[0])} -> {_count(e.macs[1])}",
        ]
        if report.init == "preserve":
            row += [f"{e.residual or 0:.1g}", "" if e.condition is None else f"{e.condition:.3g}"]
        rows.append(tuple(row))
    header = ("expanded", "layer", "by", "channels", "parameters", "MACs")
    return header + (("residual", "condition") if report.init == "preserve" else ()), rows


def print_plans(out: Console, plans: Mapping[str, Plan]) -> None:
    """Print the plans by name."""
    width = max(map(len, plans))
    for name, plan in plans.items():
        out.print(f"{name:<{width}}  {plan.summary}")


def print_verdict(out: Console, verdict: Verdict) -> None:
    """Print the verdict of check, and the worst figure of each output."""
    print_line(out, verdict.summary())
    for line in verdict.differences:
        print_line(out, f"  {line}")
    worst: dict[tuple[str, str], Figure] = {}
    for figure in verdict.outputs:
        key = (figure.place.output, figure.place.provider)
        if key not in worst or figure.ratio > worst[key].ratio:
            worst[key] = figure
    rows = [_FIGURES, *(_figure_row(figure) for figure in worst.values())][: _SITES + 1]
    if len(rows) > 1:
        known = [column for column in zip(*rows, strict=True) if any(column[1:])]
        header, *lines = zip(*_fitting(out, known), strict=True)
        print_table(out, header, lines)
    if len(worst) > _SITES:
        out.print(f"{len(worst) - _SITES} more outputs; --json has all")
    for note in verdict.notes:
        print_line(out, f"note: {note}")


def _fitting(out: Console, columns: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the columns that fit the terminal, or all if the output is not a terminal."""
    for name in _SPARE:
        width = sum(max(map(len, column)) + 2 for column in columns) - 2
        if out.is_terminal and width > out.width:
            columns = [column for column in columns if column[0] != name]
    return columns


def refuse_difference(out: Console, found: Verification, what: str, target: str | None) -> None:
    """Print the figures of a result that differs, and raise.

    Raises:
        DifferentError: The result computes something else than it should, or does not run.
    """
    if found.equal is not False:
        return
    if found.verdict.outputs:
        print_verdict(out, found.verdict)
    raise DifferentError(f"{what}: {found.verdict.differences[0]}; {target} was not written")


def _figure_row(figure: Figure) -> tuple[str, ...]:
    """Return the table row of one figure."""
    border = figure.border or (None, None)
    numbers = (
        *(figure.max_error, figure.relative_error, figure.ulp, figure.floor, figure.ratio),
        *border,
    )
    texts = ["" if number is None else f"{number:.2g}" for number in numbers]
    cosine = "" if figure.cosine is None else f"{figure.cosine:.6f}"
    index = "" if figure.index is None else ",".join(map(str, figure.index))
    place = figure.place
    return (place.output, place.provider, *texts[:3], cosine, *texts[3:5], index, *texts[5:])


def print_change(out: Console, before: Inspection | None, after: Inspection | None) -> None:
    """Print nodes, parameters and multiply-accumulates before and after, if both were counted."""
    if before is None or after is None:
        return
    rows = [
        (name, _count(getattr(before, key)), _count(getattr(after, key)))
        for name, key in (("nodes", "nodes"), ("parameters", "parameters"), ("MACs", "macs"))
    ]
    print_table(out, ("", "before", "after"), rows)


def _print_reasons(
    out: Console, title: str, reasons: Sequence[tuple[tuple[str, ...], str]]
) -> None:
    """Print each reason once, with its nodes."""
    grouped: dict[str, list[str]] = {}
    for nodes, reason in reasons:
        grouped.setdefault(reason, []).append(" + ".join(nodes))
    for reason, places in grouped.items():
        print_reason(out, f"{len(places)} {title}: {reason}", places)


def print_reason(out: Console, reason: str, places: Sequence[str]) -> None:
    """Print a reason, and below it its nodes."""
    print_line(out, reason)
    print_line(out, f"    {listed(places)}", 0)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return the first few names and the number of the others as text."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
