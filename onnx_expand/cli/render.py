"""What the commands print: short tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnx_expand.cost import Inspection
from onnx_expand.equivalence import Verdict
from onnx_expand.model import check_output, replacing
from onnx_expand.passes import ExpandReport, FoldReport

__all__ = [
    "console",
    "print_expansion",
    "print_fold",
    "print_inspection",
    "print_table",
    "print_verdict",
    "write_json",
]


def console(*, quiet: bool = False) -> Console:
    """The console for people; it stays silent when standard output carries JSON."""
    return Console(quiet=quiet, highlight=False, soft_wrap=True)


def write_json(data: Mapping[str, Any], path: str) -> None:
    """Write JSON to a file, whole or not at all, or to standard output for `-`.

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
    """A table with its first column to the left and the others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, title in enumerate(header):
        table.add_column(title, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_inspection(out: Console, figures: Inspection) -> None:
    """The figures of one model."""
    rows = [
        ("parameters", _count(figures.parameters)),
        ("MACs (products)", _count(figures.macs)),
        ("MACs with elementwise", _count(figures.macs_with_elementwise)),
        ("nodes", _count(figures.nodes)),
        ("linear nodes", _count(figures.linear_nodes)),
    ]
    print_table(out, ("", ""), rows)
    out.print("ops: " + ", ".join(f"{op} {count}" for op, count in figures.ops.items()))
    if figures.unknown:
        out.print(f"MACs are not known: shapes are not static at {_listed(figures.unknown)}")
    if figures.uncounted:
        out.print(f"not counted in MACs: {', '.join(figures.uncounted)}")


def print_expansion(out: Console, report: ExpandReport) -> None:
    """What expand did."""
    rows = [(e.node, " -> ".join(map(str, e.widths)), str(len(e.result))) for e in report.expanded]
    if rows:
        print_table(out, ("expanded", "channels", "layers"), rows)
        _print_change(out, report.before, report.after)
        out.print("The new layers start from random numbers: train the model before you use it.")
    else:
        out.print("Nothing was expanded; the model is written as it was.")
    _print_reasons(out, "not expanded", [((s.node,), str(s.refusal)) for s in report.skipped])


def print_fold(out: Console, report: FoldReport, *, written: bool = True) -> None:
    """What fold did, or would do."""
    rows = [
        (
            " + ".join(site.nodes),
            ", ".join(site.result) + ("" if site.border == "exact" else f" ({site.border})"),
        )
        for site in report.sites
    ]
    if rows:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("folded")
        table.add_column("into")
        for row in rows:
            table.add_row(*row)
        out.print(table)
        _print_change(out, report.before, report.after)
    else:
        out.print("Nothing was folded" + ("; the model is written as it was." if written else "."))
    out.print(f"policy {report.policy}: {len(report.sites)} folded, {len(report.kept)} kept")
    _print_reasons(out, "kept", [(k.nodes, str(k.refusal)) for k in report.kept])


def print_verdict(out: Console, verdict: Verdict) -> None:
    """What check found."""
    out.print(verdict.summary(), markup=False)
    for line in verdict.differences:
        out.print(f"  {line}", markup=False)
    for note in verdict.notes:
        out.print(f"note: {note}", markup=False)


def _print_change(out: Console, before: Inspection | None, after: Inspection | None) -> None:
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
    """Each reason once, with the nodes that it holds for."""
    grouped: dict[str, list[str]] = {}
    for nodes, reason in reasons:
        grouped.setdefault(reason, []).append(" + ".join(nodes))
    for reason, places in grouped.items():
        out.print(f"{title}: {_listed(places)}: {reason}", markup=False)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"
