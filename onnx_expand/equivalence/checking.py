"""Whether two models compute the same, up to rounding.

Both run in onnxruntime, with its graph optimizations off, on the same inputs. How far they may be
apart is measured, not chosen. The *floor* is what rounding does to A itself: the distance of its
results from those of the same weights in float64, or what one unit in the last place of its inputs
changes, whichever is more. B's distance from A's float64 values may be `factor` times that floor.
The parts in which the two differ are compared by themselves besides: see `regions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_expand.equivalence.compare import FACTOR, Figure, Rule
from onnx_expand.equivalence.demands import Demand, demands_of
from onnx_expand.equivalence.extents import known_shapes
from onnx_expand.equivalence.inputs import Limits, landmarks
from onnx_expand.equivalence.regions import Grade, Region, examine
from onnx_expand.equivalence.tables import compare_constants, compare_rows, settled_tensors
from onnx_expand.equivalence.trial import (
    REFERENCE,
    Given,
    Guest,
    NoReferenceError,
    Trial,
    double_session,
)
from onnx_expand.equivalence.verdict import Verdict
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.graph.burden import overloaded
from onnx_expand.model import ModelLike
from onnx_expand.runtimes.ort import detect_providers

__all__ = ["FACTOR", "Figure", "Verdict", "check"]

_FAR = 16  # inputs on which distances are looked into


def check(
    a: ModelLike,
    b: ModelLike,
    *,
    samples: int = 3,
    seed: int = 0,
    providers: Sequence[str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    factor: float = FACTOR,
    inputs: Given | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    providers_b: Sequence[str] | None = None,
    as_deployed: bool = False,
    regions: bool = True,
) -> Verdict:
    """Compare what two models compute.

    Args:
        a: The model that is right by definition: a path, `onnx.ModelProto`, `onnx_ir.Model` or
            `onnx_graphsurgeon.Graph`.
        b: The model to compare with it, of any of these kinds.
        samples: How many inputs of each kind (normal, uniform, large) to try, besides zeros.
            Symbolic dimensions take a dozen sizes, three of them in all kinds.
        seed: Decides the inputs.
        providers: Of `cpu`, `cuda`, `tensorrt`, `openvino`, `reference` (ONNX's own
            implementation) and what installed packages register; what works on this machine of
            the first two when missing.
        rtol: Overrides the measured tolerance: |a - b| <= atol + rtol * |a|.
        atol: As `rtol`.
        factor: How many times the measured rounding of A B may be away.
        inputs: Inputs to run on instead of random ones: a path as `read_inputs` takes it, or
            mappings from input names to arrays.
        ranges: Smallest and largest number of random inputs, by name; "" is all inputs.
        shapes: Extents of random inputs, by name; a string is a symbolic extent.
        providers_b: Where B runs, one for each of `providers`; the same when missing.
        as_deployed: Let onnxruntime optimize both graphs.
        regions: Compare each part in which the graphs differ by itself as well, on the values
            that reach it in A, by its forward error bound. Not done with a tolerance given.

    Returns:
        The verdict, which is true when they compute the same. Models whose inputs or outputs
        differ are different; that is no error.

    Raises:
        UsageError: An option has a value that makes no sense.
        ModelError: A model cannot be read, or is not valid.
        UnsupportedError: onnxruntime or a provider is missing, or onnxruntime cannot run a model.
    """
    _validate(samples, rtol, atol, factor)
    left, right = Guest.of(a, "A"), Guest.of(b, "B")
    differences = left.own.differences(right.own)
    if differences:
        return Verdict(False, tuple(differences), (), "signatures", ())
    for guest in (left, right):
        obstacle = overloaded(guest.model)
        if obstacle:
            raise UnsupportedError(f"{guest.label}: {obstacle}")
    if providers is not None and (isinstance(providers, str) or not providers):
        raise UsageError(f"providers is {providers!r}; give a list, such as ['cpu']")
    names = detect_providers() if providers is None else _unique(providers, providers_b)
    seconds = names if providers_b is None else tuple(providers_b)
    if len(seconds) != len(names):
        raise UsageError(f"B has {len(seconds)} providers, A {len(names)}; give one for each")
    extents = known_shapes(left.model, left.signature, shapes or {})
    marks = landmarks([left.model, right.model])
    limits = Limits(demands_of(left.model), ranges or {}, marks)
    places = list(zip(names, seconds, strict=True))
    rule = Rule(factor, rtol, atol)
    trial = Trial(left, right, places, rule, seed, limits, as_deployed, extents)
    drawn = trial.inputs(samples) if inputs is None else trial.given(inputs)
    if rule.fixed:
        return trial.verdict(drawn, None, f"rtol {rtol or 0:g}, atol {atol or 0:g}")
    try:
        verdict = trial.verdict(drawn, double_session(left), "float64 reference")
    except NoReferenceError as error:
        basis = f"one unit in the last place of A's inputs; {error}"
        verdict = trial.verdict(drawn, None, basis)
    verdict = trial.without_cancelled(verdict)
    if not regions:
        return verdict
    slack = max(1.0, factor / FACTOR)
    verdict = _with_tables(verdict, left, right, limits.demands, places, rule, slack)
    return _with_regions(verdict, left, right, places, slack)


def _with_tables(
    verdict: Verdict,
    left: Guest,
    right: Guest,
    demands: Mapping[str, Demand],
    places: Sequence[tuple[str, str]],
    rule: Rule,
    slack: float,
) -> Verdict:
    """The verdict with what constants say, and rows of tables that no input has read."""
    pair = next((pair for pair in places if REFERENCE not in pair), None)
    if pair is None:
        return verdict
    first = next(iter(verdict.inputs.values()))
    try:
        names = settled_tensors(left.model, right.model, first, pair)
        constants = compare_constants(left.model, right.model, names, slack)
        models = left.model, right.model
        figures = compare_rows(*models, names, demands, verdict.inputs, pair, rule)
    except UnsupportedError:
        return verdict  # the parts are refused for the same reason, which is said there
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
    left: Guest,
    right: Guest,
    places: Sequence[tuple[str, str]],
    slack: float,
) -> Verdict:
    """The verdict with what the parts that differ say, on the first input.

    Where all of them hold, and outputs are too far apart on other inputs all the same, the parts
    are run on these as well: if each is within its bound there, the distance is nothing but what A
    makes of rounding.
    """
    pairs = [pair for pair in places if REFERENCE not in pair]  # it rounds where it likes
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
        note = f"the parts that differ are not compared by themselves: {error}"
        return replace(verdict, notes=(*verdict.notes, note))
    return verdict


def _excused(
    verdict: Verdict,
    left: Guest,
    right: Guest,
    pairs: Sequence[tuple[str, str]],
    slack: float,
) -> Verdict:
    """The verdict without the distances that follow from parts within their bounds."""
    far = {figure.place.sample for figure in verdict.distances}
    fine = set()
    for sample in sorted(far & verdict.inputs.keys())[:_FAR]:
        feeds = verdict.inputs[sample]
        parts = [
            examine(left.model, right.model, feeds, pair, slack, probe=False) for pair in pairs
        ]
        regions = [region for part in parts for region in part.regions]
        if not any(part.rest for part in parts) and all(
            region.holds and not region.obstacle for region in regions
        ):
            fine.add(sample)
    if not fine:
        return verdict
    excuse = "every part that differs is within its forward error bound on this input, and all "
    places = {figure.place for figure in verdict.distances if figure.place.sample in fine}
    return verdict.excused(places, excuse + "else is the same: A amplifies rounding that much")


def _unique(first: Sequence[str], second: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(first) if second is not None else tuple(dict.fromkeys(first))


def _validate(samples: int, rtol: float | None, atol: float | None, factor: float) -> None:
    if samples < 1:
        raise UsageError(f"samples is {samples}; it must be at least 1")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} is {value}; it must be finite and not negative")
    if not 0 < factor < math.inf:
        raise UsageError(f"factor is {factor}; it must be finite and positive")
