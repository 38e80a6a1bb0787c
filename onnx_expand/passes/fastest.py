"""The policy that measures: which of the foldings of a model is fastest, as a whole, as deployed.

Whole models are timed in turns, with all of the runtime's optimizations: what a stretch takes by
itself says little of a model whose runtime fuses it with its surroundings. Of the foldings tried
the fastest is taken; then the sites of a kind are taken out in turn, and stay as they were
wherever the model is not faster with them by more than noise. Where nothing is faster than the
source, the source stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.linear.policy import Policy
from onnx_expand.passes.contest import Contest, Result
from onnx_expand.passes.report import Kept, Site
from onnx_expand.passes.widths import Width

__all__ = ["Choice", "Plan", "choose"]

_KINDS = 8  # of sites that are looked at one by one; the rest are taken together
_SOURCE, _DEFAULT = "source", "default"


@dataclass(frozen=True)
class Plan:
    """How to fold a model.

    Attributes:
        policy: What to merge; `latency` measures stretches by themselves.
        width: What becomes of products of one input.
        locked: The labels of nodes that stay as they are.
    """

    policy: Policy = Policy.CHEAPEST
    width: Width = Width.AS_IS
    locked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """What turned out fastest.

    Attributes:
        plan: How to fold; None where the source is as fast as anything.
        kept: What stays as it is because of what was measured.
    """

    plan: Plan | None
    kept: tuple[Kept, ...] = ()


@dataclass
class _Entry:
    """A folding that was tried."""

    plan: Plan
    model: ir.Model
    sites: Sequence[Site] = field(default_factory=tuple)


def choose(
    source: ir.Model, fold: Callable[[ir.Model, Plan], Sequence[Site]], contest: Contest
) -> Choice:
    """Find the fastest folding of a model.

    Args:
        source: The model, which stays as it is.
        fold: Folds a model in place by a plan; what it merged.
        contest: Measures.
    """

    def tried(plan: Plan) -> _Entry:
        model = source.clone()
        return _Entry(plan, model, fold(model, plan))

    default = tried(Plan())
    entries = {_DEFAULT: default, "measured": tried(Plan(Policy.LATENCY))}
    for width in (Width.WIDER, Width.NARROWER):
        entry = tried(Plan(width=width))
        if len(entry.sites) > len(default.sites):
            entries[str(width)] = entry
    entries = {name: entry for name, entry in entries.items() if entry.sites}
    if not entries:
        return Choice(None)
    result = contest.time({_SOURCE: source, **{n: e.model for n, e in entries.items()}})
    best = min(entries, key=lambda name: result.ratio(name, _SOURCE)[0])
    chosen, kept = _without_what_gains_nothing(entries[best], tried, contest)
    last = {_SOURCE: source, "chosen": chosen.model, best: entries[best].model}
    if best != _DEFAULT and default.sites:
        last[_DEFAULT] = default.model
    result = contest.time(last)
    for name in (best, _DEFAULT):
        if name in last and result.is_faster(name, "chosen"):
            chosen, kept = entries[name], ()
            result = Result({**result.times, "chosen": result.times[name]}, result.noise)
    if not result.is_faster("chosen", _SOURCE):
        return Choice(None, (_nothing(source, result, contest),))
    return Choice(chosen.plan, kept)


def _without_what_gains_nothing(
    entry: _Entry, tried: Callable[[Plan], _Entry], contest: Contest
) -> tuple[_Entry, tuple[Kept, ...]]:
    """A folding without the sites of a kind that make the model no faster, and these."""
    kinds = _kinds(entry)
    plans = [replace(entry.plan, locked=_labels(kind)) for kind in kinds]
    if entry.plan.width is not Width.AS_IS:
        kinds.append([site for site in entry.sites if _is_width(site)])
        plans.append(replace(entry.plan, width=Width.AS_IS))
    if len(kinds) < 2:
        return entry, ()
    names = [f"without {i}" for i in range(len(plans))]
    models = {name: tried(plan).model for name, plan in zip(names, plans, strict=True)}
    result = contest.time({"all": entry.model, **models})
    plan, kept = entry.plan, list[Kept]()
    for kind, name, other in zip(kinds, names, plans, strict=True):
        if result.is_faster("all", name):
            continue
        plan = replace(plan, locked=plan.locked | other.locked)
        plan = replace(plan, width=other.width if other.width is Width.AS_IS else plan.width)
        refusal = _not_faster(result.ratio("all", name), result, contest)
        kept += [Kept(site.nodes, refusal) for site in kind]
    return (tried(plan), tuple(kept)) if kept else (entry, ())


def _is_width(site: Site) -> bool:
    """Whether a site is about the width of products."""
    return "Split" in {*site.ops, *site.result_ops}


def _labels(sites: Sequence[Site]) -> frozenset[str]:
    return frozenset(name for site in sites for name in site.nodes)


def _kinds(entry: _Entry) -> list[list[Site]]:
    """The sites of a folding by what they make of what, the costliest first."""
    found: dict[object, list[Site]] = defaultdict(list)
    for site in entry.sites:
        if entry.plan.width is Width.AS_IS or not _is_width(site):
            key = (site.ops, site.result_ops, site.before.macs, site.before.parameters)
            found[key].append(site)
    kinds = sorted(found.values(), key=lambda sites: -sum(s.before.overhead for s in sites))
    if len(kinds) > _KINDS:
        kinds = [*kinds[: _KINDS - 1], [s for kind in kinds[_KINDS - 1 :] for s in kind]]
    return kinds


def _not_faster(ratio: tuple[float, float, float], result: Result, contest: Contest) -> Refusal:
    middle, low, high = ratio
    message = (
        f"measured at {contest.extents}: with this folded the model takes {middle:.3f} of the "
        f"time ({low:.3f} to {high:.3f}), which is no more than noise ({result.noise:.3f})"
    )
    numbers = {"ratio": middle, "low": low, "high": high, "noise": result.noise}
    return Refusal(Reason.COST, message, numbers, "fold with the policy cheapest")


def _nothing(source: ir.Model, result: Result, contest: Contest) -> Kept:
    """That no folding is faster than the source."""
    middle, low, high = result.ratio("chosen", _SOURCE)
    message = (
        f"nothing is faster: measured at {contest.extents}, the folded model takes {middle:.3f} "
        f"({low:.3f} to {high:.3f}) of the model's time, and noise is {result.noise:.3f}"
    )
    numbers = {"ratio": middle, "low": low, "high": high, "noise": result.noise}
    refusal = Refusal(Reason.COST, message, numbers, "fold with the policy cheapest")
    return Kept((source.graph.name or "the model",), refusal)
