"""Check whether two models compute the same up to rounding.

Both run on the same inputs in onnxruntime, with its graph optimizations off. The tolerance is
measured. The *floor* is the effect of rounding on A itself: the larger of the distance between A's
results and those of the same weights in float64, and the change of A's results when its inputs
change by one ulp. B's distance from A's float64 results may be `factor` times the floor. The parts
in which the graphs differ are also compared separately: see `regions`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_expand.equivalence.compare import FACTOR, Figure, Tolerance
from onnx_expand.equivalence.inputs.demand import Demand
from onnx_expand.equivalence.inputs.demands import demands_of
from onnx_expand.equivalence.inputs.drawing import Limits, compared_extents, jumps, landmarks
from onnx_expand.equivalence.inputs.extents import known_shapes
from onnx_expand.equivalence.inputs.signature import Signature
from onnx_expand.equivalence.inputs.thresholds import crossing, narrowing
from onnx_expand.equivalence.options import CheckOptions
from onnx_expand.equivalence.parts.cells import inlined
from onnx_expand.equivalence.parts.region import Grade, Region
from onnx_expand.equivalence.parts.regions import examine
from onnx_expand.equivalence.subject import Subject
from onnx_expand.equivalence.tables import compare_constants, compare_rows, settled_tensors
from onnx_expand.equivalence.trial import (
    REFERENCE,
    NoReferenceError,
    Trial,
)
from onnx_expand.equivalence.verdict import Verdict
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.graph.burden import overloaded
from onnx_expand.model import ModelLike
from onnx_expand.runtimes.ort import detect_providers

__all__ = ["FACTOR", "Figure", "Verdict", "check"]

_LOG = logging.getLogger("onnx_expand.equivalence")

_FAR = 16  # inputs on which excessive distances are examined


def check(a: ModelLike, b: ModelLike, options: CheckOptions | None = None) -> Verdict:
    """Compare what two models compute.

    Args:
        a: The reference model: a path, `onnx.ModelProto`, `onnx_ir.Model` or
            `onnx_graphsurgeon.Graph`.
        b: The model to compare with it, of any of these kinds.
        options: The inputs, the providers and the tolerance.

    Returns:
        The verdict, which is true if they compute the same. Models whose inputs or outputs differ
        are different; that is not an error.

    Raises:
        UsageError: A provider or an input is invalid.
        ModelError: A model cannot be read or is invalid.
        UnsupportedError: onnxruntime or a provider is missing, or onnxruntime cannot run a model.
    """
    o = options or CheckOptions()
    left, right = Subject.of(a, "A"), Subject.of(b, "B")
    differences = left.own.differences(right.own)
    if differences:
        return Verdict(False, tuple(differences), (), "signatures", ())
    for guest in (left, right):
        obstacle = overloaded(guest.model)
        if obstacle:
            raise UnsupportedError(f"{guest.label}: {obstacle}")
    places = _places(o)
    extents = known_shapes(left.model, left.signature, o.shapes or {})
    models = left.model, right.model
    limits = Limits(
        demands_of(left.model),
        _ranges(o.ranges, left.signature),
        landmarks(models),
        jumps(models),
        compared_extents(models),
    )
    tolerance = Tolerance(o.factor, o.rtol, o.atol)
    trial = Trial(left, right, places, tolerance, o.seed, limits, o.as_deployed, extents)
    drawn = trial.inputs(o.samples) if o.inputs is None else trial.given(o.inputs)
    pair = next((pair for pair in places if REFERENCE not in pair), None)
    if pair is not None:
        is_free = o.inputs is None and not limits.ranges
        flat = inlined(left.model), inlined(right.model)
        beyond, notes = crossing(*flat, pair, drawn, is_free)
        drawn += beyond
        trial.notes += [*notes, *narrowing(*flat)]
    if tolerance.fixed:
        return trial.verdict(drawn, None, f"rtol {o.rtol or 0:g}, atol {o.atol or 0:g}")
    try:
        verdict = trial.verdict(drawn, trial.reference(), "float64 reference")
    except NoReferenceError as error:
        basis = f"one unit in the last place of A's inputs; {error}"
        verdict = trial.verdict(drawn, None, basis)
    verdict = trial.without_cancelled(verdict)
    if not o.regions:
        return verdict
    slack = max(1.0, o.factor / FACTOR)
    verdict = _with_tables(verdict, left, right, limits.demands, places, tolerance, slack)
    verdict = _with_regions(verdict, left, right, places, slack)
    _LOG.info("%s and %s: %s", left.label, right.label, verdict.summary())
    return verdict


def _ranges(
    wanted: Mapping[str, tuple[float, float]] | None, signature: Signature
) -> Mapping[str, tuple[float, float]]:
    """Return the requested ranges after checking inputs and bounds."""
    for name, (low, high) in (wanted or {}).items():
        if name and name not in signature.inputs:
            known = ", ".join(signature.inputs)
            raise UsageError(f"ranges: there is no input '{name}'; the inputs are {known}")
        if not -math.inf < low <= high < math.inf:
            raise UsageError(f"ranges: {low} to {high} is no range of numbers")
    return wanted or {}


def _with_tables(
    verdict: Verdict,
    left: Subject,
    right: Subject,
    demands: Mapping[str, Demand],
    places: Sequence[tuple[str, str]],
    tolerance: Tolerance,
    slack: float,
) -> Verdict:
    """Add the differences in constants, and in table rows that no input has read, to a verdict."""
    pair = next((pair for pair in places if REFERENCE not in pair), None)
    if pair is None:
        return verdict
    first = next(iter(verdict.inputs.values()))
    try:
        names = settled_tensors(left.model, right.model, first, pair)
        constants = compare_constants(left.model, right.model, names, slack)
        models = left.model, right.model
        figures = compare_rows(*models, names, demands, verdict.inputs, pair, tolerance)
    except UnsupportedError:
        return verdict  # the regions are refused for the same reason, which is reported there
    read = Verdict.of([f for f in figures if not f.equal], "", (), {})
    found = (*constants, *read.differences)
    return replace(
        verdict,
        equal=verdict.equal and not found,
        differences=(*verdict.differences, *found),
        outputs=(*verdict.outputs, *figures),
    )


def _with_regions(
    verdict: Verdict,
    left: Subject,
    right: Subject,
    places: Sequence[tuple[str, str]],
    slack: float,
) -> Verdict:
    """Add the comparison of the parts that differ, on the first input, to a verdict.

    If all of them are within their bounds but outputs are too far apart on other inputs, the parts
    run on these inputs as well. If each is within its bound there, A's own amplification of
    rounding errors explains the distance.
    """
    pairs = [pair for pair in places if REFERENCE not in pair]  # it rounds elsewhere
    if not pairs:
        return verdict
    first = next(iter(verdict.inputs.values()))
    found: list[Region] = []
    rest = ""
    try:
        for pair in pairs:
            seen = examine(left.model, right.model, first, pair, slack)
            found += seen.regions
            rest = rest or seen.rest
        verdict = verdict.with_regions(found, rest)
        known = not rest and all(r.holds and r.grade is not Grade.UNCHECKED for r in found)
        if verdict.distances and known and len(pairs) == len(places):
            return _excused(verdict, left, right, pairs, slack)
    except UnsupportedError as error:
        note = f"the differing parts are not compared by themselves: {error}"
        return replace(verdict, notes=(*verdict.notes, note))
    return verdict


def _excused(
    verdict: Verdict,
    left: Subject,
    right: Subject,
    pairs: Sequence[tuple[str, str]],
    slack: float,
) -> Verdict:
    """Excuse the distances that rounding within the parts explains.

    A forward error bound is not sufficient: over several layers it would allow other weights. Each
    part must be proven, or on this input be at most a few times as far from float64 as A's own.
    """
    if not all(region.is_near for region in verdict.regions):
        return verdict
    proven = {_part(region) for region in verdict.regions if region.proof is not None}
    far = {figure.place.sample for figure in verdict.distances}
    fine = set()
    for sample in sorted(far & verdict.inputs.keys())[:_FAR]:
        feeds = verdict.inputs[sample]
        if feeds.keys() - left.signature.inputs.keys():
            continue  # the parts hold the weights that this sample overrides
        parts = [
            examine(left.model, right.model, feeds, pair, slack, probe=False) for pair in pairs
        ]
        regions = [region for part in parts for region in part.regions]
        if not any(part.rest for part in parts) and all(
            region.holds and (region.is_near or _part(region) in proven) for region in regions
        ):
            fine.add(sample)
    if not fine:
        return verdict
    excuse = "every differing part is as near as A's own rounding on this input, and all "
    places = {figure.place for figure in verdict.distances if figure.place.sample in fine}
    return verdict.excused(places, excuse + "else is the same: A amplifies rounding that much")


def _part(region: Region) -> tuple[object, ...]:
    return region.tensor, region.nodes_a, region.nodes_b, region.provider


def _unique(first: Sequence[str], second: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(first) if second is not None else tuple(dict.fromkeys(first))


def _places(options: CheckOptions) -> list[tuple[str, str]]:
    """Return the providers of A and B in pairs."""
    asked, others = options.providers, options.providers_b
    names = detect_providers() if asked is None else _unique(asked, others)
    seconds = names if others is None else tuple(others)
    if len(seconds) != len(names):
        raise UsageError(f"B has {len(seconds)} providers, A {len(names)}; give one for each")
    return list(zip(names, seconds, strict=True))
