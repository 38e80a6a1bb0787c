"""Print the report of fold: groups of similar sites, op counts, and reasons by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from onnx_expand.cli.render import print_change, print_line, print_reason, print_table
from onnx_expand.linear.writing.copies import Copy
from onnx_expand.passes import FoldReport
from onnx_expand.passes.report import Kept, Site
from onnx_expand.passes.summary import SiteGroup, group_reasons, group_sites

__all__ = ["print_fold"]

_GROUPS = 24  # lines that a person reads to the end
_WIDE = 72  # characters; longer lists of names are shown as a pattern


def print_fold(
    out: Console, report: FoldReport, *, written: bool = True, verbose: bool = False
) -> None:
    """Print what fold did, or would do."""
    if report.sites:
        _print_sites(out, report, verbose=verbose)
        _print_ops(out, report)
    if report.cleaned:
        out.print(report.cleaned.text)
    if report.sites or report.cleaned:
        print_change(out, report.before, report.after)
    else:
        out.print("Nothing was folded" + ("; the model is written as it was." if written else "."))
    _print_copies(out, report.copies if verbose else report.copies[:_GROUPS])
    if not verbose and len(report.copies) > _GROUPS:
        stored = sum(copy.stored for copy in report.copies[_GROUPS:])
        more = len(report.copies) - _GROUPS
        out.print(f"grew by {stored:,} bytes: {more} more weights; -v lists all")
    out.print(f"policy {report.policy}: {len(report.sites)} folded, {len(report.kept)} kept")
    if report.measured is not None and (report.sites or report.cleaned):
        out.print(f"the folded model takes {report.measured.text}")
    if verbose:
        for kept in report.kept:
            print_line(out, f"kept: {_nodes(kept)}: {kept.refusal}")
        return
    groups = group_reasons(report.kept)
    for group in groups[:_GROUPS]:
        hint = f" ({group.hint})" if group.hint else ""
        reason = f"{len(group.kept)} kept: {group.reason}: {group.example}{hint}"
        print_reason(out, reason, [_nodes(kept) for kept in group.kept])
    if len(groups) > _GROUPS:
        more = sum(len(group.kept) for group in groups[_GROUPS:])
        out.print(f"{more} kept for other reasons; -v lists all")


def _print_copies(out: Console, copies: Sequence[Copy]) -> None:
    """Print the weights of which the folded model stores a second version."""
    for copy in copies:
        reason = f"'{copy.weight}' stays for other readers, beside '{copy.result}' made from it"
        out.print(f"grew by {copy.stored:,} bytes: {reason}")


def _print_sites(out: Console, report: FoldReport, *, verbose: bool) -> None:
    if verbose:
        for site in report.sites:
            print_line(out, f"folded: {_merge(site)}")
        return
    groups = group_sites(report.sites)
    rows = [
        (f"{len(group.sites)} x  {group.before or 'nodes'}", "->", _after(group), _where(group))
        for group in groups[:_GROUPS]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        first, arrow, after = (text.ljust(w) for text, w in zip(row, widths, strict=False))
        out.print(f"{first} {arrow} {after}   {row[3]}".rstrip())
    if len(groups) > _GROUPS:
        more = sum(len(group.sites) for group in groups[_GROUPS:])
        out.print(f"{more} more folded; -v lists all")


def _print_ops(out: Console, report: FoldReport) -> None:
    """Print the op types whose number of nodes changed."""
    if report.before is None or report.after is None:
        return
    before, after = report.before.ops, report.after.ops
    changed = [op for op in {**before, **after} if before.get(op, 0) != after.get(op, 0)]
    changed.sort(key=lambda op: after.get(op, 0) - before.get(op, 0))
    if len(changed) > 1:
        print_table(out, ("op", "before", "after"), [_row(op, before, after) for op in changed])


def _row(op: str, before: Mapping[str, int], after: Mapping[str, int]) -> tuple[str, str, str]:
    return op, f"{before.get(op, 0):,}", f"{after.get(op, 0):,}"


def _after(group: SiteGroup) -> str:
    bridged = "" if group.border == "exact" else f" (border {group.border})"
    return (group.after or "nothing") + bridged


def _where(group: SiteGroup) -> str:
    """Return the names of the nodes if they are short, else a pattern that they match."""
    merges = "; ".join(map(_merge, group.sites))
    return merges if len(merges) <= _WIDE else group.scope


def _merge(site: Site) -> str:
    border = "" if site.border == "exact" else f" ({site.border})"
    return f"{' + '.join(site.nodes)} -> {', '.join(site.result) or 'nothing'}{border}"


def _nodes(kept: Kept) -> str:
    return " + ".join(kept.nodes)
