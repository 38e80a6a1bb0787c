"""Run two models side by side on inputs that A accepts, and measure A's own rounding."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.compare import Figure, Tolerance, distance, largest
from onnx_expand.equivalence.elementary import with_kernel_noise, with_other_roundings
from onnx_expand.equivalence.exactness import exact_reference
from onnx_expand.equivalence.inputs.definition import Definition
from onnx_expand.equivalence.inputs.drawing import Limits, Regime
from onnx_expand.equivalence.inputs.files import given_inputs, read_inputs
from onnx_expand.equivalence.inputs.probe import Probe
from onnx_expand.equivalence.measurement import (
    Measurement,
    NoReferenceError,
    eps_of,
    floors_of,
)
from onnx_expand.equivalence.options import Given
from onnx_expand.equivalence.subject import Subject
from onnx_expand.equivalence.verdict import Verdict
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.graph.stored import nodes_of
from onnx_expand.progress import counted
from onnx_expand.runtimes.aborts import require_no_abort
from onnx_expand.runtimes.base import Session, Tensors
from onnx_expand.runtimes.loops import may_be_endless, require_end
from onnx_expand.runtimes.named import named_runtime
from onnx_expand.runtimes.reference import Reference

__all__ = ["NoReferenceError", "Trial"]

REFERENCE = "reference"
"""The pseudo-provider that runs ONNX's reference implementation, as a second opinion."""

_VAST = 1 << 16  # elements; above this, rounding is known from smaller sizes
_LONG = 0.2  # seconds of a run with loops, for which the reference needs a minute
_SIZES = 3  # sizes that are tried in all regimes; the others are tried once
_NEXT_TO_NOTHING = 1e-6  # relative to the largest value of the same output on other inputs
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_EPS = {
    int(ir.DataType.FLOAT): 2.0**-23,
    int(ir.DataType.FLOAT16): 2.0**-10,
    int(ir.DataType.BFLOAT16): 2.0**-7,
}


class Trial:
    """Both models, ready to run on each provider."""

    def __init__(
        self,
        left: Subject,
        right: Subject,
        providers: Sequence[tuple[str, str]],
        tolerance: Tolerance,
        seed: int,
        limits: Limits,
        as_deployed: bool,
        shapes: Mapping[str, tuple[int | str, ...]],
    ) -> None:
        self.tolerance = tolerance
        self._limits = limits
        self._label = left.label
        self._left, self._right = left, right
        self._model = left.model
        self._providers = {
            first if first == second else f"{first}/{second}": first for first, second in providers
        }
        self._given = left.signature
        self._signature = left.signature.with_shapes(shapes)
        self._seed = seed
        self._eps = _coarsest(left.model)
        self._sessions = {
            first if first == second else f"{first}/{second}": (
                _session(first, left, as_deployed),
                _session_or_obstacle(second, right, as_deployed),
            )
            for first, second in providers
        }
        self._probe, self._other = next(iter(self._sessions.values()))
        self._disturbed = {
            name: _disturbed(first, left, as_deployed, seed) or self._sessions[name][0]
            for name, (first, _) in zip(self._sessions, providers, strict=True)
        }
        self._unlike = exact_reference(left, right)
        self._light: set[str] = set()
        self._seconds = 0.0  # of one run of A
        self.notes: list[str] = []

    def given(self, inputs: Given) -> list[tuple[str, Tensors]]:
        """Read the given inputs in the form that A accepts."""
        if isinstance(inputs, str | os.PathLike):
            samples = read_inputs(inputs)
        else:
            samples = [(f"given {i + 1}", dict(sample)) for i, sample in enumerate(inputs)]
        found: list[tuple[str, Tensors]] = list(given_inputs(iter(samples), self._given))
        if not found:
            raise UsageError("inputs: there are none")
        self._require_determinism(found[0][1])
        return found

    def inputs(self, samples: int) -> list[tuple[str, Tensors]]:
        """Draw inputs on which A runs, with their names."""
        found: list[tuple[str, Tensors]] = []
        definition = Definition(self._model)
        probe = Probe(
            self._signature, self._probe, self._other, self._limits, self._seed, definition
        )
        sizes = probe.sizes()
        self.notes += probe.notes
        random = (Regime.NORMAL, Regime.UNIFORM, Regime.LARGE)
        regimes = [(regime, turn + 1) for turn in range(samples) for regime in random]
        regimes += [(Regime.EDGES, turn + 1) for turn in range(samples)]
        last = [(Regime.FINE, 1), (Regime.ZEROS, 1), (Regime.DENORMAL, 1)]
        used = sizes[:_SIZES]
        for place, (regime, turn) in enumerate([*regimes, *last]):
            # Each regime gets a different size in each turn.
            size = used[(place + place // len(random)) % len(used)]
            found.append((_label(f"{regime} {turn}", size), probe.feeds(size, regime, place)))
        seen = {label.partition(", ")[2] for label, _ in found}
        for place, size in enumerate(sizes):
            label = _label("size", size)
            if label.partition(", ")[2] not in seen:
                feeds = probe.feeds(size, Regime.NORMAL, len(regimes) + place)
                found.append((label, feeds))
                if sum(array.size for array in feeds.values()) > _VAST:
                    self._light.add(label)
        self._require_determinism(found[0][1])
        return [*found, *self._overridden(found[0][1])]

    def _overridden(self, feeds: Tensors) -> list[tuple[str, Tensors]]:
        """Return inputs that also override the weights that both models let callers override."""
        rng = np.random.default_rng(self._seed)
        own = _overridable(self._model, self._right.model)
        if not own:
            return []
        # Factors above zero keep variances positive.
        drawn = {
            name: np.asarray(array * rng.uniform(0.5, 1.5, array.shape), array.dtype)
            for name, array in own.items()
        }
        return [("overridden weights", {**feeds, **drawn})]

    def verdict(
        self, inputs: Sequence[tuple[str, Tensors]], reference: Session | None, basis: str
    ) -> Verdict:
        """Run both models on all inputs and compare.

        Raises:
            NoReferenceError: The reference does not compute the same as A.
        """
        measured = Measurement(
            self.tolerance, self._sessions, self._disturbed, self._unlike, self._eps, self._seed,
            self._limits.demands.keys(),
        )  # fmt: skip
        figures: list[Figure] = []
        for sample, feeds in counted("running both models", inputs):
            is_light = sample in self._light
            floors = floors_of(figures)
            figures += measured.figures(sample, feeds, reference, floors, is_light)
        verdict = Verdict.of(figures, basis, tuple(self._sessions), dict(inputs))
        return replace(verdict, notes=(*verdict.notes, *self.notes))

    def reference(self) -> Session:
        """Load A in float64.

        Raises:
            NoReferenceError: The reference implementation cannot load it, or would take long.
        """
        if self._seconds > _LONG and may_be_endless(self._model):
            raise NoReferenceError("the float64 reference would take long for its loops")
        try:
            return Reference().session(self._left.source, self._label)
        except UnsupportedError as error:
            raise NoReferenceError(str(error)) from error

    def without_cancelled(self, verdict: Verdict) -> Verdict:
        """Excuse distances that follow from the particular rounding of A's weights.

        If an output is close to zero by cancellation, its largest value does not reflect the
        magnitude of the terms that cancelled. There the outputs of A are compared with those of A
        with other roundings.
        """
        scales: dict[str, float] = {}
        for figure in verdict.outputs:
            name = figure.place.output
            scales[name] = max(scales.get(name, 0.0), figure.scale)
        far = [
            figure
            for figure in verdict.distances
            if figure.scale <= _NEXT_TO_NOTHING * scales[figure.place.output]
        ]
        places = set()
        for figure in far:
            name = self._providers.get(figure.place.provider, REFERENCE)
            feeds = verdict.inputs.get(figure.place.sample)
            if name != REFERENCE and feeds is not None:
                own = self._sessions[figure.place.provider][0].run(feeds)
                if figure.max_error <= self.tolerance.factor * self._rounded(
                    name, feeds, own, figure
                ):
                    places.add(figure.place)
        return verdict.excused(places, "A with its weights rounded otherwise is as far off")

    def _rounded(self, name: str, feeds: Tensors, own: Tensors, figure: Figure) -> float:
        """Return how far an output moves if the weights of A are rounded differently."""
        if figure.place.output not in own:
            return 0.0
        model = with_other_roundings(self._model, self._seed)
        try:
            moved = named_runtime(name).session(model, self._label).run(feeds)[figure.place.output]
        except (UnsupportedError, KeyError):
            return 0.0
        array = own[figure.place.output]
        return distance(array, moved) if moved.shape == array.shape else 0.0

    def _require_determinism(self, feeds: Tensors) -> None:
        start = time.perf_counter()
        first, second = self._probe.run(feeds), self._probe.run(feeds)
        self._seconds = (time.perf_counter() - start) / 2
        for name, array in first.items():
            if array.dtype.kind != "f":
                same = np.array_equal(array, second[name])
            else:
                scale = largest(array)
                slack = 1000 * max(self._eps, eps_of(array.dtype)) * scale
                same = array.shape == second[name].shape and (
                    distance(array, second[name]) <= slack
                )
            if not same:
                raise UnsupportedError(
                    f"{self._label}: output '{name}' changes from run to run on equal inputs, so "
                    "that nothing can be compared; remove what draws random numbers"
                )


class _Rounded:
    """ONNX's reference implementation in float64, with outputs rounded to the model's types."""

    def __init__(self, subject: Subject) -> None:
        self._inner = Reference().session(subject.source, subject.label)
        self._outputs = subject.signature.outputs

    def run(self, feeds: Tensors) -> dict[str, Any]:
        """Run the model once."""
        results = dict(self._inner.run(feeds))
        for name, array in results.items():
            dtype = self._outputs[name].dtype
            if dtype is not None and array.dtype.kind == "f":
                results[name] = array.astype(dtype.numpy())
        return results


def _session(name: str, subject: Subject, as_deployed: bool) -> Session:
    require_end(subject.model, subject.label)
    if name == REFERENCE:
        return _Rounded(subject)
    require_no_abort(subject.model, subject.label)
    return named_runtime(name, optimize=as_deployed).session(subject.source, subject.label)


def _disturbed(name: str, subject: Subject, as_deployed: bool, seed: int) -> Session | None:
    """Load A with the errors of its kernels added to its elementary functions, if any."""
    if name == REFERENCE:
        return None
    model = with_kernel_noise(subject.model, named_runtime(name), seed)
    if model is None:
        return None
    try:
        return named_runtime(name, optimize=as_deployed).session(model, subject.label)
    except UnsupportedError:
        return None  # the runtime lacks the ops for the errors in this type


def _session_or_obstacle(name: str, subject: Subject, as_deployed: bool) -> Session:
    """Load B; if onnxruntime cannot load it, return a session that fails at every size."""
    try:
        return _session(name, subject, as_deployed)
    except UnsupportedError as error:
        if name == REFERENCE or error.__cause__ is None or _has_foreign_ops(subject.model):
            raise  # the runtime is missing, or lacks operators that others may have
        return _Obstacle(error)


def _has_foreign_ops(model: ir.Model) -> bool:
    functions = {key[:2] for key in model.functions}
    return any(
        n.domain not in _DOMAINS and (n.domain, n.op_type) not in functions
        for n in nodes_of(model)
    )


class _Obstacle:
    """A model that does not run at all."""

    def __init__(self, error: UnsupportedError) -> None:
        self._error = error

    def run(self, feeds: Tensors) -> dict[str, Any]:
        """Raise the error of its loading."""
        raise self._error


def _overridable(a: ir.Model, b: ir.Model) -> dict[str, Any]:
    """Return the weights in plain floating point that are inputs of both models, by name."""
    shared = {v.name for v in a.graph.inputs} & {v.name for v in b.graph.inputs}
    return {
        name: value.const_value.numpy()
        for name, value in a.graph.initializers.items()
        if name in shared
        and name in b.graph.initializers
        and value.const_value is not None
        and value.const_value.dtype in _FLOATS
    }


def _label(what: str, size: Mapping[str, int]) -> str:
    return ", ".join([what, *(f"{name}={extent}" for name, extent in size.items())])


def _coarsest(model: ir.Model) -> float:
    """Return the machine epsilon of the coarsest type of the Casts in a model, 0 without one."""
    found = 0.0
    for node in nodes_of(model):
        attribute = node.attributes.get("to") if node.op_type == "Cast" else None
        if attribute is not None and not attribute.is_ref():
            found = max(found, _EPS.get(attribute.value, 0.0))
    return found
