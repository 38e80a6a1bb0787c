"""The policy `latency`: choose the fastest folding of a whole model by measurement.

Whole models are timed in turns with all of the runtime's optimizations, because the time of a
stretch alone does not predict that of a model whose runtime fuses the stretch with its
surroundings. The fastest of the tried foldings is refined: each kind of site is left out in turn,
and stays unfolded unless folding it makes the model faster by more than noise. If no folding is
faster than the source, the source stays.
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

__all__ = ["Fastest", "Variant", "choose"]

_KINDS = 8  # kinds of sites that are measured one by one; the rest are measured together
_SOURCE, _DEFAULT = "source", "default"


@dataclass(frozen=True)
class Variant:
    """How to fold a model.

    Attributes:
        policy: The policy of merging; `latency` measures each stretch alone.
        width: How to write products of one input.
        locked: The labels of nodes that must not change.
    """

    policy: Policy = Policy.CHEAPEST
    width: Width = Width.AS_IS
    locked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fastest:
    """The fastest folding.

    Attributes:
        variant: How to fold; None if no folding is faster than the source.
        kept: The nodes that the measurements left unfolded.
    """

    variant: Variant | None
    kept: tuple[Kept, ...] = ()


@dataclass
class _Entry:
    """A folding that was tried."""

    variant: Variant
    model: ir.Model
    sites: Sequence[Site] = field(default_factory=tuple)


def choose(
    source: ir.Model, fold: Callable[[ir.Model, Variant], Sequence[Site]], contest: Contest
) -> Fastest:
    """Find the fastest folding of a model.

    Args:
        source: The model, which is not modified.
        fold: Folds a model in place by a variant and returns the sites.
        contest: Times the models.
    """

    def tried(variant: Variant) -> _Entry:
        model = source.clone()
        return _Entry(variant, model, fold(model, variant))

    default = tried(Variant())
    entries = {_DEFAULT: default, "measured": tried(Variant(Policy.LATENCY))}
    for width in (Width.WIDER, Width.NARROWER):
        entry = tried(Variant(width=width))
        if len(entry.sites) > len(default.sites):
            entries[str(width)] = entry
    entries = {name: entry for name, entry in entries.items() if entry.sites}
    if not entries:
        return Fastest(None)
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
        return Fastest(None, (_nothing(source, result, contest),))
    return Fastest(chosen.variant, kept)


def _without_what_gains_nothing(
    entry: _Entry, tried: Callable[[Variant], _Entry], contest: Contest
) -> tuple[_Entry, tuple[Kept, ...]]:
    """Drop the kinds of sites that do not make a model faster; return these as kept, too."""
    kinds = _kinds(entry)
    others = [replace(entry.variant, locked=_labels(kind)) for kind in kinds]
    if entry.variant.width is not Width.AS_IS:
        kinds.append([site for site in entry.sites if _is_width(site)])
        others.append(replace(entry.variant, width=Width.AS_IS))
    if len(kinds) < 2:
        return entry, ()
    names = [f"without {i}" for i in range(len(others))]
    models = {name: tried(variant).model for name, variant in zip(names, others, strict=True)}
    result = contest.time({"all": entry.model, **models})
    variant, kept = entry.variant, list[Kept]()
    for kind, name, other in zip(kinds, names, others, strict=True):
        if result.is_faster("all", name):
            continue
        width = other.width if other.width is Width.AS_IS else variant.width
        variant = replace(variant, locked=variant.locked | other.locked, width=width)
        refusal = _not_faster(result.ratio("all", name), result, contest)
        kept += [Kept(site.nodes, refusal) for site in kind]
    return (tried(variant), tuple(kept)) if kept else (entry, ())


def _is_width(site: Site) -> bool:
    """Return whether a site widens or narrows products."""
    return "Split" in {*site.ops, *site.result_ops}


def _labels(sites: Sequence[Site]) -> frozenset[str]:
    return frozenset(name for site in sites for name in site.nodes)


def _kinds(entry: _Entry) -> list[list[Site]]:
    """Group the sites of a folding by op types and cost, the costliest group first."""
    found: dict[object, list[Site]] = defaultdict(list)
    for site in entry.sites:
        if entry.variant.width is Width.AS_IS or not _is_width(site):
            key = (site.ops, site.result_ops, site.before.macs, site.before.parameters)
            found[key].append(site)
    kinds = sorted(found.values(), key=lambda sites: -sum(s.before.overhead for s in sites))
    if len(kinds) > _KINDS:
        kinds = [*kinds[: _KINDS - 1], [s for kind in kinds[_KINDS - 1 :] for s in kind]]
    return kinds


def _not_faster(ratio: tuple[float, float, float], result: Result, contest: Contest) -> Refusal:
    middle, low, high = ratio
    return _measured(
        f"measured at {contest.extents}: with this folded the model takes {middle:.3f} of the "
        f"time ({low:.3f} to {high:.3f}), which is no more than noise ({result.noise:.3f})",
        ratio,
        result,
    )


def _nothing(source: ir.Model, result: Result, contest: Contest) -> Kept:
    """Report that no folding is faster than the source."""
    ratio = middle, low, high = result.ratio("chosen", _SOURCE)
    message = (
        f"nothing is faster: measured at {contest.extents}, the folded model takes {middle:.3f} "
        f"({low:.3f} to {high:.3f}) of the model's time, and noise is {result.noise:.3f}"
    )
    return Kept((source.graph.name or "the model",), _measured(message, ratio, result))


def _measured(message: str, ratio: tuple[float, float, float], result: Result) -> Refusal:
    numbers = dict(zip(("ratio", "low", "high"), ratio, strict=True)) | {"noise": result.noise}
    return Refusal(Reason.COST, message, numbers, "fold with --policy cheapest")
