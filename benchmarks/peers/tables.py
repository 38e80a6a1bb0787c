"""The tables of a comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.tools import TOOLS
from onnx_expand.runtimes.latency import ratio_of

__all__ = ["put_in", "section"]

_Row = Mapping[str, Any]
_BEGIN, _END = "<!-- peers: begin -->", "<!-- peers: end -->"
_SLACK = 16.0  # times the error of the source
_LEAST = 1e-5  # relative errors below this are rounding


def _nodes(row: _Row, source: _Row) -> str:
    if "nodes" not in row:
        return ""
    constants = f" + {row['constants']}" if row.get("constants") else ""
    return f"{row['nodes']:,}{constants}"


def _linear(row: _Row, source: _Row) -> str:
    return "" if row.get("linear") is None else f"{row['linear']:,}"


def _macs(row: _Row, source: _Row) -> str:
    return "" if row.get("macs") is None else f"{row['macs'] / 1e6:,.2f}"


def _bytes(row: _Row, source: _Row) -> str:
    return "" if "bytes" not in row else f"{row['bytes'] / 2**20:,.2f}"


def _numbers(row: _Row, source: _Row) -> str:
    if "problem" in row:
        return f"fails: {row['problem']}"
    if "fails" in row:
        return f"does not run: {row['fails']}"
    if "error" not in row:
        return ""
    return f"{'right' if is_right(row, source) else '**wrong**'}, {row['error']:.1e}"


def is_right(row: _Row, source: _Row) -> bool:
    """Whether the numbers of a result are the source's but for rounding."""
    return bool(row["error"] <= max(_SLACK * source["error"], _LEAST))


def _cpu(row: _Row, source: _Row) -> str:
    return "" if "cpu" not in row else f"{row['cpu']:.2f}"


def _memory(row: _Row, source: _Row) -> str:
    return "" if "memory" not in row else f"{row['memory'] / 2**20:,.0f}"


def _latency(row: _Row, source: _Row) -> str:
    if "times" not in row:
        return ""
    if row is source:
        return f"{1e3 * sorted(row['times'])[len(row['times']) // 2]:.2f} ms"
    middle, low, high = ratio_of(row["times"], source["times"])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


_TABLES: tuple[tuple[str, Callable[[_Row, _Row], str]], ...] = (
    ("Latency of the result: ratio to the source's, with 95 % interval", _latency),
    ("Nodes, `Constant` nodes apart", _nodes),
    ("Nodes that are affine maps with constant weights", _linear),
    ("Multiply-accumulates, in millions", _macs),
    ("Largest error against the source in float64, relative to the largest number", _numbers),
    ("Size of the result, in MiB", _bytes),
    ("CPU time of the tool, in seconds, start and imports aside", _cpu),
    ("Memory of the tool, in MiB, imports aside", _memory),
)


def _table(title: str, cell: Callable[[_Row, _Row], str], found: Sequence[_Row]) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    yield f"| graph | {' | '.join(TOOLS)} |"
    yield f"|---|{'---|' * len(TOOLS)}"
    for result in found:
        rows = result["rows"]
        source = rows.get("source", {})
        cells = [cell(rows[tool], source) if tool in rows else "" for tool in TOOLS]
        yield f"| {result['graph']} | {' | '.join(cells)} |"
    yield ""


def behind(found: Sequence[_Row]) -> Iterator[str]:
    """Where another tool's right result is faster, smaller or has fewer nodes than fold's."""
    for result in found:
        rows, own = result["rows"], result["rows"].get("fold", {})
        source = rows.get("source", {})
        if "error" not in source:
            yield f"- {result['graph']}: onnxruntime does not run the source"
            continue
        if "error" not in own:
            yield f"- {result['graph']}: fold has no result that runs"
            continue
        peers = {
            tool: row
            for tool, row in rows.items()
            if tool not in {"fold", "source"} and "error" in row and is_right(row, source)
        }
        said = []
        for key, word in (("nodes", "nodes"), ("linear", "linear nodes"), ("macs", "products")):
            known = {t: r[key] for t, r in peers.items() if r.get(key) is not None}
            known.pop("openvino", None)
            best = min(known, key=lambda t: known[t], default=None)
            if best is not None and own.get(key) is not None and known[best] < own[key]:
                said.append(f"{word} {own[key]:,} against {known[best]:,} of {best}")
        slower = []
        for tool, row in {**peers, "source": source}.items():
            if "times" in row and "times" in own:
                middle, low, high = ratio_of(own["times"], row["times"])
                if low > 1:
                    slower.append(f"{middle:.3f} [{low:.3f}, {high:.3f}] of {tool}")
        if slower:
            said.append(f"latency {', '.join(slower)}")
        if said:
            yield f"- {result['graph']}: {'; '.join(said)}"


def section(found: Sequence[_Row]) -> str:
    """The section about a comparison."""
    whole = [result for result in found if "problem" not in result]
    lines = [line for title, cell in _TABLES for line in _table(title, cell, whole)]
    worse = list(behind(whole)) or ["nowhere"]
    lines += ["### Where another tool is ahead of fold", "", *worse, ""]
    missing = [f"- {r['graph']}: {r['problem']}" for r in found if "problem" in r]
    lines += ["### Graphs that could not be made", "", *missing, ""] if missing else []
    return "\n".join(lines)


def put_in(page: Path, text: str) -> None:
    """Write the section between its marks in a page, in the place of what is there."""
    whole = page.read_text(encoding="utf-8")
    before, rest = whole.split(_BEGIN)
    _, after = rest.split(_END)
    page.write_text(f"{before}{_BEGIN}\n{text}{_END}{after}", encoding="utf-8")
