"""Summarize a fold's report: group equal kinds of sites and equal kinds of reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from onnx_expand.linear.rules.bridges import Border
from onnx_expand.passes.report import Kept, Site

__all__ = ["ReasonGroup", "SiteGroup", "group_reasons", "group_sites", "op_counts", "scope_of"]


@dataclass(frozen=True)
class SiteGroup:
    """Sites that replaced the same op types by the same op types.

    Attributes:
        before: The op types of the replaced nodes, with counts.
        after: The op types of the new nodes, with counts.
        border: How a padded border was bridged.
        scope: A pattern that matches the names of all new nodes.
        sites: The sites.
    """

    before: str
    after: str
    border: Border
    scope: str
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class ReasonGroup:
    """Nodes that were kept for reasons that differ at most in names and numbers."""

    reason: str
    example: str
    hint: str
    kept: tuple[Kept, ...]


def group_sites(sites: Iterable[Site]) -> list[SiteGroup]:
    """Group sites by their op types and border, those that save the most nodes first."""
    found: dict[tuple[str, str, Border], list[Site]] = {}
    for site in sites:
        key = (op_counts(site.ops), op_counts(site.result_ops), site.border)
        found.setdefault(key, []).append(site)
    groups = [
        SiteGroup(before, after, border, _scope(members), tuple(members))
        for (before, after, border), members in found.items()
    ]
    return sorted(groups, key=lambda group: -sum(map(_saved, group.sites)))


def group_reasons(kept: Iterable[Kept]) -> list[ReasonGroup]:
    """Group kept nodes by reason, ignoring names and numbers, the most frequent first."""
    found: dict[tuple[str, str], list[Kept]] = {}
    for one in kept:
        found.setdefault((str(one.refusal.reason), _plain(one.refusal.message)), []).append(one)
    groups = [
        ReasonGroup(reason, members[0].refusal.message, members[0].refusal.hint, tuple(members))
        for (reason, _), members in found.items()
    ]
    return sorted(groups, key=lambda group: -len(group.kept))


def op_counts(ops: Sequence[str]) -> str:
    """Return op types with their counts, in order of first occurrence: `3 Conv, Add`."""
    counts = Counter(ops)
    return ", ".join(f"{n} {op}" if n > 1 else op for op, n in counts.items())


def scope_of(names: Sequence[str]) -> str:
    """Return a pattern that matches all names, with `*` for the parts that differ.

    Names are split at dots and slashes, where exporters join scopes: `stages.0.conv` and
    `stages.1.conv` become `stages.*.conv`, `conv1` and `conv2` become `conv*`.
    """
    if len(set(names)) == 1:
        return names[0]
    parts = [re.split(r"([./])", name) for name in names]
    length = min(map(len, parts))
    same = [len({p[i] for p in parts}) == 1 for i in range(length)]
    ragged = len(set(map(len, parts))) > 1
    columns = zip(*parts, strict=False)
    found = [p[0] if alike else _stem(p) + "*" for p, alike in zip(columns, same, strict=True)]
    if ragged:
        first = same.index(False) if False in same else length
        found = found[: first + 1] if first < length else [*found, "*"]
    return re.sub(r"\*([./]?\*)+", "*", "".join(found))


def _stem(parts: Sequence[str]) -> str:
    """Return the common prefix of all parts, without trailing digits of different numbers."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*parts, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("0123456789")


def _scope(sites: Sequence[Site]) -> str:
    return scope_of([name for site in sites for name in (site.result or site.nodes)[:1]])


def _saved(site: Site) -> int:
    return len(site.nodes) - len(site.result)


def _plain(message: str) -> str:
    """Remove the names and numbers from a message."""
    return re.sub(r"'[^']*'|\d[\d,.]*(e[+-]?\d+)?", "", message)
