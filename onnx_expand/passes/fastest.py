"""The policy `latency`: choose the fastest folding of a whole model by measurement.

Whole models are timed in turns with all of the runtime's optimizations, because the time of a
stretch alone does not predict that of a model whose runtime fuses the stretch with its
surroundings. The fastest of the tried foldings is refined: each kind of site is left out in turn,
and stays unfolded unless folding it certainly makes the model faster. The source, the refined
folding, the fastest one and the default are then timed anew, since the fastest of several
measurements is so by luck, too. Of these the first is taken than which no later one is certainly
faster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.linear.policy import Policy
from onnx_expand.passes.benchmark import Benchmark, Timings
from onnx_expand.passes.report import Kept, Measured, Site
from onnx_expand.passes.snapshot import Snapshot
from onnx_expand.passes.widths import Width
from onnx_expand.progress import tell

__all__ = ["Fastest", "Variant", "choose"]

_KINDS = 8  # kinds of sites that are measured one by one; the rest are measured together
_SOURCE, _DEFAULT, _CHOSEN = "source", "default", "chosen"
_TO_FIND = 0.3  # of the time: to find the fastest of several foldings
_TO_REFINE = 0.5  # of the time left then


@dataclass(frozen=True)
class Variant:
    """How to fold a model.

    Attributes:
        policy: The policy of merging; `always` is followed by `cheapest`.
        width: How to write products of one input.
        locked: The labels of nodes that must not change under `policy`.
    """

    policy: Policy = Policy.CHEAPEST
    width: Width = Width.AS_IS
    locked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fastest:
    """The fastest folding.

    Attributes:
        variant: How to fold; None if no folding is certainly faster than the source.
        kept: The nodes that the measurements left unfolded.
        measured: The time of the folding relative to the source; None if there is nothing to fold.
    """

    variant: Variant | None
    kept: tuple[Kept, ...] = ()
    measured: Measured | None = None


@dataclass
class _Entry:
    """A folding that was tried."""

    variant: Variant
    model: ir.Model
    sites: Sequence[Site] = field(default_factory=tuple)
    kept: tuple[Kept, ...] = ()


def choose(
    source: ir.Model, fold: Callable[[ir.Model, Variant], Sequence[Site]], benchmark: Benchmark
) -> Fastest:
    """Find the fastest folding of a model.

    Args:
        source: The model, which is not modified.
        fold: Folds a model in place by a variant and returns the sites.
        benchmark: Times the models.
    """

    def tried(variant: Variant) -> _Entry:
        tell("folding to try")
        model = source.clone()
        return _Entry(variant, model, fold(model, variant))

    entries = _foldings(tried)
    if not entries:
        return Fastest(None)
    best = _best(entries, benchmark)
    refined = _refined(entries[best], tried, benchmark)
    last = {_CHOSEN: refined, best: entries[best]}
    entries = _distinct({**last, **{n: e for n, e in entries.items() if n == _DEFAULT}})
    names = [_SOURCE, *entries]

    def clear(result: Timings) -> Sequence[str]:
        return names if result.fastest(names)[1] else ()

    result = benchmark.time({_SOURCE: source, **{n: e.model for n, e in entries.items()}}, clear)
    name, is_clear = result.fastest(names)
    against = name if name != _SOURCE else min(entries, key=lambda n: result.ratio(n, _SOURCE))
    measured = _measured(result, against, benchmark, is_clear=is_clear)
    if name == _SOURCE:
        return Fastest(None, (_nothing(source, measured),), measured)
    return Fastest(entries[name].variant, entries[name].kept, measured)


def _foldings(tried: Callable[[Variant], _Entry]) -> dict[str, _Entry]:
    """Fold a model in several ways; return those that differ and fold something."""
    default = tried(Variant())
    entries = {_DEFAULT: default, "always": tried(Variant(Policy.ALWAYS))}
    for width in (Width.WIDER, Width.NARROWER):
        entry = tried(Variant(width=width))
        if len(entry.sites) > len(default.sites):
            entries[str(width)] = entry
    return _distinct(entries)


def _distinct(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Drop entries that fold nothing, or whose models equal an earlier one's."""
    found: dict[str, _Entry] = {}
    contents: list[Snapshot] = []
    for name, entry in entries.items():
        if not entry.sites:
            continue
        content = Snapshot.of(entry.model)
        if content not in contents:
            found[name] = entry
            contents.append(content)
    return found


def _best(entries: dict[str, _Entry], benchmark: Benchmark) -> str:
    """Return the first folding than which no later one is certainly faster."""
    names = list(entries)
    if len(names) == 1:
        return names[0]

    def clear(result: Timings) -> Sequence[str]:
        best, is_clear = result.fastest(names)
        return names if is_clear else [n for n in names if n != best and result.is_faster(best, n)]

    models = {name: entry.model for name, entry in entries.items()}
    return benchmark.time(models, clear, share=_TO_FIND).fastest(names)[0]


def _refined(entry: _Entry, tried: Callable[[Variant], _Entry], benchmark: Benchmark) -> _Entry:
    """Leave out the kinds of sites that do not certainly make a model faster."""
    kinds = _kinds(entry)
    others = [replace(entry.variant, locked=_labels(kind)) for kind in kinds]
    if entry.variant.width is not Width.AS_IS:
        kinds.append([site for site in entry.sites if _is_width(site)])
        others.append(replace(entry.variant, width=Width.AS_IS))
    if len(kinds) < 2:
        return entry
    names = [f"without {i}" for i in range(len(others))]
    models = {name: tried(variant).model for name, variant in zip(names, others, strict=True)}

    def clear(result: Timings) -> Sequence[str]:
        done = [name for name in names if result.is_clear("all", name)]
        return done if len(done) < len(names) else ["all", *names]

    result = benchmark.time({"all": entry.model, **models}, clear, share=_TO_REFINE)
    if not result.is_decisive:
        return entry
    variant, kept = entry.variant, list[Kept]()
    for kind, name, other in zip(kinds, names, others, strict=True):
        if result.is_faster("all", name):
            continue
        width = other.width if other.width is Width.AS_IS else variant.width
        variant = replace(variant, locked=variant.locked | other.locked, width=width)
        refusal = _not_faster(name, result, benchmark)
        kept += [Kept(site.nodes, refusal) for site in kind]
    return replace(tried(variant), kept=tuple(kept)) if kept else entry


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


def _measured(result: Timings, name: str, benchmark: Benchmark, *, is_clear: bool) -> Measured:
    blocks = len(result.times[name])
    return Measured(*result.ratio(name, _SOURCE), blocks, benchmark.conditions, is_clear)


def _not_faster(name: str, result: Timings, benchmark: Benchmark) -> Refusal:
    """Report that a kind of site does not certainly make the model faster."""
    measured = Measured(
        *result.ratio("all", name),
        len(result.times[name]),
        benchmark.conditions,
        result.is_clear("all", name),
    )
    message = f"with this folded the model takes {measured.text}, which is not certainly less"
    return Refusal(Reason.COST, message, measured.numbers, "fold with --policy cheapest")


def _nothing(source: ir.Model, measured: Measured) -> Kept:
    """Report that no folding is certainly faster than the source."""
    message = f"nothing is faster: the folded model takes {measured.text}"
    hint = "fold with --policy cheapest" if measured.is_clear else "give more --seconds"
    refusal = Refusal(Reason.COST, message, measured.numbers, hint)
    return Kept((source.graph.name or "the model",), refusal)
