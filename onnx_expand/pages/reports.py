"""Build the pages of fold, expand, check and bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx_expand.cost import Cost, Inspection
from onnx_expand.documents import plain
from onnx_expand.equivalence import Verdict
from onnx_expand.equivalence.parts.region import Grade, Region
from onnx_expand.errors import Refusal
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
    verdict: Verdict | None = report.verification.verdict
    regions = {} if verdict is None else _by_node(verdict.regions)
    sites = [
        _site(
            drawings,
            site.nodes,
            site.result,
            f"{op_counts(site.ops) or 'nodes'} -> {op_counts(site.result_ops) or 'nothing'}",
            border=str(site.border),
            costs=(_cost(site.before), _cost(site.after)),
            proof=_proof([regions[name] for name in site.result if name in regions]),
        )
        for site in report.sites
    ]
    place = {id(site): index for index, site in enumerate(report.sites)}
    data = {
        "text": report.verification.text,
        "good": report.verification.equal,
        "headline": _headline(report.before, report.after, sizes),
        "bench": None if bench is None else bench.as_dict(),
        "graphs": [drawing.as_dict() for drawing in drawings],
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
            _kept(
                group.reason, group.example, group.hint, [(k.nodes, k.refusal) for k in group.kept]
            )
            for group in group_reasons(report.kept)
        ],
        "check": None if verdict is None else _check(verdict),
    }
    return page_of("fold", data, origin)


def expand_page(report: ExpandReport, drawings: tuple[Drawing, Drawing], origin: Rows) -> str:
    """Return the page of an expansion; its arguments are as for `fold_page`."""
    sites = [
        _site(
            drawings,
            (e.node,),
            e.result,
            f"{e.op} by {e.how.strategy}: channels {' -> '.join(map(str, e.widths))}",
            costs=(
                {"parameters": e.parameters[0], "macs": e.macs[0], "nodes": 1},
                {"parameters": e.parameters[1], "macs": e.macs[1], "nodes": len(e.result)},
            ),
        )
        for e in report.expanded
    ]
    data = {
        "text": (
            f"layers expanded: {len(report.expanded)}, not expanded: {len(report.skipped)}; "
            f"{report.verification.text}"
        ),
        "good": report.verification.equal,
        "headline": _headline(report.before, report.after, None),
        "graphs": [drawing.as_dict() for drawing in drawings],
        "sites": sites,
        "kept": [
            _kept(
                str(s.refusal.reason), s.refusal.message, s.refusal.hint, [((s.node,), s.refusal)]
            )
            for s in report.skipped
        ],
    }
    return page_of("expand", data, origin)


def check_page(verdict: Verdict, drawings: tuple[Drawing, Drawing], origin: Rows) -> str:
    """Return the page of a comparison; its arguments are as for `fold_page`."""
    sites = [
        _site(
            drawings,
            region.nodes_a,
            region.nodes_b,
            f"'{region.tensor}'",
            proof=_proof([region]),
        )
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
        "bench": bench.as_dict(),
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


def _site(
    drawings: tuple[Drawing, Drawing],
    nodes: Sequence[str],
    result: Sequence[str],
    title: str,
    *,
    border: str = "exact",
    costs: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
    proof: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return nodes of the first graph and those of the second that compute the same."""
    before, after = drawings
    return {
        "nodes": list(nodes),
        "result": list(result),
        "title": title,
        "border": border,
        "before": costs[0],
        "after": costs[1],
        "equation": [before.equation(nodes), after.equation(result)],
        "proof": proof,
    }


def _kept(
    reason: str, text: str, hint: str, kept: Sequence[tuple[Sequence[str], Refusal]]
) -> dict[str, Any]:
    """Return nodes that are kept for one reason, each with the numbers of its refusal."""
    return {
        "reason": reason,
        "text": text,
        "hint": hint,
        "nodes": [list(nodes) for nodes, _ in kept],
        "numbers": [{k: str(v) for k, v in refusal.numbers.items()} for _, refusal in kept],
    }


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
