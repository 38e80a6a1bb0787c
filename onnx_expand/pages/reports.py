"""Build the pages of fold, expand, check and bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx_expand.cost import Cost, Inspection
from onnx_expand.documents import plain
from onnx_expand.equivalence import Verdict
from onnx_expand.equivalence.parts.region import Grade, Region
from onnx_expand.pages.graphs import Drawing
from onnx_expand.pages.page import render_page
from onnx_expand.passes import ExpandReport, FoldReport
from onnx_expand.passes.summary import group_reasons, group_sites, op_counts
from onnx_expand.workflow.bench import Bench, Timing

__all__ = ["bench_page", "check_page", "expand_page", "fold_page", "page_of"]

Rows = Sequence[tuple[str, str]]


def fold_page(
    report: FoldReport,
    drawings: tuple[Drawing, Drawing],
    origin: Rows,
    *,
    bench: Bench | None = None,
    sizes: tuple[int, int] | None = None,
) -> str:
    """Return the page of a fold.

    Args:
        report: The report of fold.
        drawings: The graph before and after.
        origin: The origin of the report, from `provenance`.
        bench: The timings of both models, the source first, if they were measured.
        sizes: The sizes of both models with their weights, in bytes.
    """
    before, after = drawings
    verdict: Verdict | None = report.verification.verdict
    regions = {} if verdict is None else _by_node(verdict.regions)
    sites = [
        {
            "nodes": list(site.nodes),
            "result": list(site.result),
            "title": (
                f"{op_counts(site.ops) or 'nodes'} -> {op_counts(site.result_ops) or 'nothing'}"
            ),
            "border": str(site.border),
            "before": _cost(site.before),
            "after": _cost(site.after),
            "equation": [before.equation(site.nodes), after.equation(site.result)],
            "proof": _proof([regions[name] for name in site.result if name in regions]),
        }
        for site in report.sites
    ]
    place = {id(site): index for index, site in enumerate(report.sites)}
    data = {
        "text": report.verification.text,
        "good": report.verification.equal,
        "headline": _headline(report.before, report.after, sizes),
        "bench": None if bench is None else _bench(bench),
        "graphs": [before.as_dict(), after.as_dict()],
        "sites": sites,
        "groups": [
            {
                "text": f"{group.before} -> {group.after or 'nothing'}",
                "scope": group.scope,
                "sites": [place[id(site)] for site in group.sites],
            }
            for group in group_sites(report.sites)
        ],
        "kept": [
            {
                "reason": group.reason,
                "text": group.example,
                "hint": group.hint,
                "nodes": [list(kept.nodes) for kept in group.kept],
                "numbers": [
                    {name: str(value) for name, value in kept.refusal.numbers.items()}
                    for kept in group.kept
                ],
            }
            for group in group_reasons(report.kept)
        ],
        "check": None if verdict is None else _check(verdict),
    }
    return page_of("fold", data, origin)


def expand_page(report: ExpandReport, drawings: tuple[Drawing, Drawing], origin: Rows) -> str:
    """Return the page of an expansion; its arguments are as for `fold_page`."""
    before, after = drawings
    sites = [
        {
            "nodes": [e.node],
            "result": list(e.result),
            "title": f"{e.op} by {e.how.strategy}: channels {' -> '.join(map(str, e.widths))}",
            "border": "exact",
            "before": {"parameters": e.parameters[0], "macs": e.macs[0], "nodes": 1},
            "after": {
                "parameters": e.parameters[1],
                "macs": e.macs[1],
                "nodes": len(e.result),
            },
            "equation": [before.equation([e.node]), after.equation(e.result)],
            "proof": None,
        }
        for e in report.expanded
    ]
    data = {
        "text": (
            f"layers expanded: {len(report.expanded)}, not expanded: {len(report.skipped)}; "
            f"{report.verification.text}"
        ),
        "good": report.verification.equal,
        "headline": _headline(report.before, report.after, None),
        "graphs": [before.as_dict(), after.as_dict()],
        "sites": sites,
        "kept": [
            {
                "reason": str(s.refusal.reason),
                "text": s.refusal.message,
                "hint": s.refusal.hint,
                "nodes": [[s.node]],
                "numbers": [{k: str(v) for k, v in s.refusal.numbers.items()}],
            }
            for s in report.skipped
        ],
    }
    return page_of("expand", data, origin)


def check_page(verdict: Verdict, drawings: tuple[Drawing, Drawing], origin: Rows) -> str:
    """Return the page of a comparison; its arguments are as for `fold_page`."""
    sites = [
        {
            "nodes": list(region.nodes_a),
            "result": list(region.nodes_b),
            "title": f"'{region.tensor}'",
            "border": "exact",
            "before": None,
            "after": None,
            "equation": [
                drawings[0].equation(region.nodes_a),
                drawings[1].equation(region.nodes_b),
            ],
            "proof": _proof([region]),
        }
        for region in verdict.regions
    ]
    data = {
        "text": verdict.summary(),
        "good": verdict.equal,
        "graphs": [drawing.as_dict() for drawing in drawings],
        "sites": sites,
        "check": _check(verdict),
    }
    return page_of("check", data, origin)


def bench_page(bench: Bench, origin: Rows) -> str:
    """Return the page of timings."""
    data = {
        "text": "; ".join(map(_comparison, bench.timings[1:])) or "one model was timed",
        "bench": _bench(bench),
    }
    return page_of("bench", data, origin)


_EMPTY: Mapping[str, Any] = {
    **{"good": None, "headline": [], "bench": None, "graphs": [], "sites": []},
    **{"groups": [], "kept": [], "check": None, "training": None},
}


def page_of(kind: str, data: Mapping[str, Any], origin: Rows) -> str:
    """Return the page of a kind of report; missing parts are empty."""
    whole = {**_EMPTY, **data, "kind": kind, "origin": list(origin)}
    return render_page(f"onnx-expand: {kind}", whole)


def _headline(
    before: Inspection | None, after: Inspection | None, sizes: tuple[int, int] | None
) -> list[dict[str, Any]]:
    if before is None or after is None:
        return []
    pairs: list[tuple[str, Any, Any]] = [
        ("nodes", before.nodes, after.nodes),
        ("parameters", before.parameters, after.parameters),
        ("multiply-accumulates", before.macs, after.macs),
    ]
    if sizes is not None:
        pairs.append(("bytes", *sizes))
    return [{"name": name, "before": a, "after": b} for name, a, b in pairs]


def _cost(cost: Cost) -> dict[str, Any]:
    return {"parameters": cost.parameters, "macs": cost.macs, "nodes": cost.nodes}


def _by_node(regions: Sequence[Region]) -> dict[str, Region]:
    """Map each node of the second model to its region."""
    return {name: region for region in regions for name in region.nodes_b}


def _proof(regions: Sequence[Region]) -> dict[str, Any] | None:
    """Return the evidence for a site: the worst of its regions."""
    if not regions:
        return None
    worst = max(regions, key=_doubt)
    measured = not worst.obstacle
    return {
        "grade": str(worst.grade),
        "error": plain(worst.error) if measured else None,
        "bound": plain(worst.bound) if measured else None,
        "why": worst.fault or worst.reason or worst.obstacle,
        "holds": all(region.holds for region in regions),
    }


def _doubt(region: Region) -> tuple[bool, int, float]:
    """Order regions: parts that differ first, then by the weakest evidence, then by the error."""
    return not region.holds, list(Grade).index(region.grade), region.ratio


def _check(verdict: Verdict) -> dict[str, Any]:
    """Return the figures of a verdict, one row for each output and input."""
    return {
        "summary": verdict.summary(),
        "rests_on": str(verdict.rests_on),
        "differences": list(verdict.differences),
        "notes": list(verdict.notes),
        "figures": [
            {
                "output": figure.place.output,
                "sample": figure.place.sample,
                "provider": figure.place.provider,
                "error": plain(figure.max_error),
                "ratio": plain(figure.ratio),
                "floor": plain(figure.floor),
                "border": plain(figure.border),
                "equal": figure.equal,
            }
            for figure in verdict.outputs
        ],
    }


def _comparison(timing: Timing) -> str:
    """Describe how the time of a model compares with that of the first one."""
    low, high = timing.interval
    return (
        f"{timing.model} takes {timing.ratio:.2f} times as long as the first model on "
        f"{timing.provider} (95 % interval {low:.2f} to {high:.2f})"
    )


def _bench(bench: Bench) -> dict[str, Any]:
    timings: list[Mapping[str, Any]] = [timing.as_dict() for timing in bench.timings]
    return {"timings": timings, "shapes": bench.shapes, "threads": bench.threads}
