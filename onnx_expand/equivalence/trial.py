"""Two models side by side: inputs that A can run on, what both make of them, A's own rounding."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.compare import (
    Figure,
    Place,
    Rule,
    compare,
    distance,
    missing,
    trusted,
)
from onnx_expand.equivalence.elementary import with_kernel_noise
from onnx_expand.equivalence.exactness import exact_reference
from onnx_expand.equivalence.files import given_inputs, read_inputs
from onnx_expand.equivalence.inputs import Limits, Regime, nudge
from onnx_expand.equivalence.ports import with_plain_ports
from onnx_expand.equivalence.probe import Probe
from onnx_expand.equivalence.signature import Signature
from onnx_expand.equivalence.verdict import Verdict
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.model import ModelLike, load, read
from onnx_expand.runtimes.base import Session, Source, Tensors
from onnx_expand.runtimes.ort import OnnxRuntime
from onnx_expand.runtimes.reference import Reference

__all__ = ["Given", "Guest", "NoReferenceError", "Trial", "double_session"]

Given: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]]"

REFERENCE = "reference"
"""The provider that is no provider: ONNX's reference implementation, as a second opinion."""

_NUDGES = 6
_SIZES = 3  # that take part in all regimes; the others are tried once
_LOOSE = 20.0  # units in the last place: as much as this only a jump moves by
_UNITS = 2.0
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_BINARY = frozenset({"", ".onnx", ".pb"})
_EPS = {
    int(ir.DataType.FLOAT): 2.0**-23,
    int(ir.DataType.FLOAT16): 2.0**-10,
    int(ir.DataType.BFLOAT16): 2.0**-7,
}


class NoReferenceError(Exception):
    """The model cannot be had in float64, for the reason in the message."""


@dataclass(frozen=True)
class Guest:
    """One of the two models.

    Attributes:
        letter: A or B.
        label: How messages name it.
        source: What runtimes load: the file itself where there is one that they can read.
        model: The model.
        signature: Its inputs and outputs, as arrays hold them.
        own: Its inputs and outputs as they are.
    """

    letter: str
    label: str
    source: Source
    model: ir.Model
    signature: Signature
    own: Signature

    @classmethod
    def of(cls, given: ModelLike, letter: str) -> Guest:
        """Read one of the two.

        Raises:
            ModelError: It cannot be read.
        """
        path = Path(given) if isinstance(given, str | os.PathLike) else None
        own = load(path) if path is not None else read(given)
        model = with_plain_ports(own)
        label = f"{letter} ({path or own.graph.name or 'model'})"
        as_file = path is not None and path.suffix in _BINARY and model is own
        source: Source = path if path is not None and as_file else model
        return cls(letter, label, source, model, Signature.of(model), Signature.of(own))


class Trial:
    """Both models, ready to run on each provider."""

    def __init__(
        self,
        left: Guest,
        right: Guest,
        providers: Sequence[tuple[str, str]],
        rule: Rule,
        seed: int,
        limits: Limits,
        as_deployed: bool,
        shapes: Mapping[str, tuple[int | str, ...]],
    ) -> None:
        self.rule = rule
        self._limits = limits
        self._label = left.label
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
        self.notes: list[str] = []

    def given(self, inputs: Given) -> list[tuple[str, Tensors]]:
        """Inputs that came from elsewhere, as A takes them."""
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
        """Inputs that A can run on, with their names."""
        found: list[tuple[str, Tensors]] = []
        probe = Probe(self._signature, self._probe, self._other, self._limits, self._seed)
        sizes = probe.sizes()
        self.notes += probe.notes
        random = (Regime.NORMAL, Regime.UNIFORM, Regime.LARGE)
        regimes = [(regime, turn + 1) for turn in range(samples) for regime in random]
        regimes += [(Regime.EDGES, turn + 1) for turn in range(samples)]
        last = [(Regime.FINE, 1), (Regime.ZEROS, 1), (Regime.DENORMAL, 1)]
        used = sizes[:_SIZES]
        for place, (regime, turn) in enumerate([*regimes, *last]):
            # Each regime meets another size in each turn.
            size = used[(place + place // len(random)) % len(used)]
            found.append((_label(f"{regime} {turn}", size), probe.feeds(size, regime, place)))
        seen = {label.partition(", ")[2] for label, _ in found}
        for place, size in enumerate(sizes):
            label = _label("size", size)
            if label.partition(", ")[2] not in seen:
                feeds = probe.feeds(size, Regime.NORMAL, len(regimes) + place)
                found.append((label, feeds))
                self._light.add(label)
        self._require_determinism(found[0][1])
        return found

    def verdict(
        self, inputs: Sequence[tuple[str, Tensors]], reference: Session | None, basis: str
    ) -> Verdict:
        """Run both on all inputs and compare.

        Raises:
            NoReferenceError: The reference does not compute what A does.
        """
        figures: list[Figure] = []
        for sample, feeds in inputs:
            figures += self._measure(sample, feeds, reference, _floors(figures))
        verdict = Verdict.of(figures, basis, tuple(self._sessions), dict(inputs))
        return replace(verdict, notes=(*verdict.notes, *self.notes))

    def _measure(
        self,
        sample: str,
        feeds: Tensors,
        reference: Session | None,
        floors: Mapping[str, float],
    ) -> Iterator[Figure]:
        is_light = sample in self._light
        truth = {} if reference is None or is_light else _in_float64(reference, feeds)
        for provider, (left, right) in self._sessions.items():
            results = left.run(feeds)
            try:
                others = right.run(feeds)
            except UnsupportedError as error:
                for name in results:
                    yield _not_run(Place(name, sample, provider), error)
                continue
            noise, unstable = (
                ({}, {}) if self.rule.fixed else self._noise(provider, feeds, results)
            )
            lost = [name for name in (*results, *others) if name not in results.keys() & others]
            for name in lost:
                where = "A" if name in results else "B"
                yield missing(Place(name, sample, provider), where)
            for name, a in results.items():
                if name in lost:
                    continue
                eps = max(self._eps, _eps(a.dtype))
                moved, want, b = noise.get(name, 0.0), truth.get(name), others[name]
                if want is not None and not trusted(a, want, moved, eps):
                    raise NoReferenceError(f"the reference computes another '{name}' than A")
                if is_light and reference is not None:
                    moved = max(moved, floors.get(name, 0.0) * _largest(a))
                place = Place(name, sample, provider)
                if a.dtype.kind != "f" and not self.rule.fixed:
                    b = self._forgiven(name, a, b, unstable.get(name), want, feeds)
                figure = compare(place, a, b, want, moved, eps, self.rule)
                if (
                    figure.equal
                    and want is not None
                    and figure.floor > _LOOSE * eps * figure.scale
                ):
                    figure = self._strictly(figure, a, b, want, eps, feeds)
                yield figure

    def _forgiven(
        self,
        name: str,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        unstable: npt.NDArray[np.bool_] | None,
        want: npt.NDArray[Any] | None,
        feeds: Tensors,
    ) -> npt.NDArray[Any]:
        """B's integers with those of A where rounding alone decides, such as between two ranks."""
        if a.shape != b.shape or a.dtype != b.dtype or unstable is None or not unstable.any():
            return b
        exact = np.zeros(a.shape, np.bool_)
        other = None if want is None else self._unlike(feeds).get(name)
        if want is not None and other is not None and want.shape == other.shape == a.shape:
            exact = (want == a) & (other == b)
        return np.where(unstable & ~exact, a, b)

    def _strictly(
        self,
        figure: Figure,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        want: npt.NDArray[Any],
        eps: float,
        feeds: Tensors,
    ) -> Figure:
        """The figure anew where neither model rounds, though A jumps if its inputs move."""
        other = self._unlike(feeds).get(figure.place.output)
        if other is None or other.shape != b.shape or other.shape != want.shape:
            return figure
        slack = _UNITS * eps * np.maximum(np.abs(want), np.abs(other))
        with np.errstate(invalid="ignore"):
            exact = (np.abs(a - want) <= slack) & (np.abs(b - other) <= slack)
        if not exact.any():
            return figure
        only = np.where(exact, b, a)
        strict = compare(figure.place, a, only, None, 0.0, eps, self.rule)
        return figure if strict.equal else strict

    def _noise(
        self, provider: str, feeds: Tensors, results: Tensors
    ) -> tuple[dict[str, float], dict[str, npt.NDArray[np.bool_]]]:
        """What moves when inputs and kernels move by what they are off.

        Returns:
            By how much each output moves, and where those do that have no rounding.
        """
        session = self._disturbed[provider]
        noise = dict.fromkeys(results, 0.0)
        unstable = {
            n: np.zeros(a.shape, np.bool_) for n, a in results.items() if a.dtype.kind != "f"
        }
        coarsest = max([self._eps, *(_eps(array.dtype) for array in results.values())])
        fine = {name: array for name, array in feeds.items() if _eps(array.dtype) <= coarsest}
        is_still = all(array.dtype.kind != "f" for array in fine.values())
        if is_still and session is self._sessions[provider][0]:
            return noise, {}
        for turn in range(_NUDGES):
            rng = np.random.default_rng([self._seed, turn])
            moved = session.run({**feeds, **nudge(fine, rng)})
            for name, array in results.items():
                if name not in moved or array.shape != moved[name].shape:
                    continue
                if name in unstable:
                    unstable[name] |= array != moved[name]
                else:
                    noise[name] = max(noise[name], distance(array, moved[name]))
        return noise, unstable

    def _require_determinism(self, feeds: Tensors) -> None:
        first, second = self._probe.run(feeds), self._probe.run(feeds)
        for name, array in first.items():
            if array.dtype.kind != "f":
                same = np.array_equal(array, second[name])
            else:
                scale = _largest(array)
                slack = 1000 * max(self._eps, _eps(array.dtype)) * scale
                same = array.shape == second[name].shape and (
                    distance(array, second[name]) <= slack
                )
            if not same:
                raise UnsupportedError(
                    f"{self._label}: output '{name}' changes from run to run on equal inputs, so "
                    "that nothing can be compared; remove what draws random numbers"
                )


class _Rounded:
    """ONNX's reference implementation in float64, its outputs rounded to the model's types."""

    def __init__(self, guest: Guest) -> None:
        self._inner = Reference().session(guest.source, guest.label)
        self._outputs = guest.signature.outputs

    def run(self, feeds: Tensors) -> dict[str, Any]:
        """Run the model once."""
        results = dict(self._inner.run(feeds))
        for name, array in results.items():
            dtype = self._outputs[name].dtype
            if dtype is not None and array.dtype.kind == "f":
                results[name] = array.astype(dtype.numpy())
        return results


def _session(name: str, guest: Guest, as_deployed: bool) -> Session:
    if name == REFERENCE:
        return _Rounded(guest)
    return OnnxRuntime(name, optimize=as_deployed).session(guest.source, guest.label)


def _disturbed(name: str, guest: Guest, as_deployed: bool, seed: int) -> Session | None:
    """A, its elementary functions off by what their kernels are; None where none of them is."""
    if name == REFERENCE:
        return None
    model = with_kernel_noise(guest.model, OnnxRuntime(name), seed)
    if model is None:
        return None
    try:
        return OnnxRuntime(name, optimize=as_deployed).session(model, guest.label)
    except UnsupportedError:
        return None  # a type for which the runtime lacks what disturbs


def double_session(guest: Guest) -> Session:
    """A model in float64.

    Raises:
        NoReferenceError: The reference cannot load it.
    """
    try:
        return Reference().session(guest.source, guest.label)
    except UnsupportedError as error:
        raise NoReferenceError(str(error)) from error


def _session_or_obstacle(name: str, guest: Guest, as_deployed: bool) -> Session:
    """B's session; where onnxruntime cannot load it, that is so at every size."""
    try:
        return _session(name, guest, as_deployed)
    except UnsupportedError as error:
        if name == REFERENCE or error.__cause__ is None or _has_foreign_ops(guest.model):
            raise  # the runtime is missing, or lacks operators that others may have
        return _Obstacle(error)


def _has_foreign_ops(model: ir.Model) -> bool:
    functions = {key[:2] for key in model.functions}
    bodies: list[Any] = [model.graph, *model.functions.values()]
    nodes = [node for body in bodies for node in body.all_nodes()]
    return any(n.domain not in _DOMAINS and (n.domain, n.op_type) not in functions for n in nodes)


class _Obstacle:
    """A model that does not run at all."""

    def __init__(self, error: UnsupportedError) -> None:
        self._error = error

    def run(self, feeds: Tensors) -> dict[str, Any]:
        """Raise what its loading raised."""
        raise self._error


def _not_run(place: Place, error: UnsupportedError) -> Figure:
    problem = f"A runs, and B does not: {error}"
    return Figure(place, math.inf, math.inf, ratio=math.inf, problem=problem)


def _floors(figures: Sequence[Figure]) -> dict[str, float]:
    """The largest floor of each output on normal numbers so far, over its scale."""
    found: dict[str, float] = {}
    for figure in figures:
        if figure.scale and figure.place.sample.startswith(Regime.NORMAL):
            name = figure.place.output
            found[name] = max(found.get(name, 0.0), figure.floor / figure.scale)
    return found


def _largest(array: npt.NDArray[Any]) -> float:
    if array.dtype.kind != "f":
        return 0.0
    return float(np.max(np.abs(array), where=np.isfinite(array), initial=0.0))


def _label(what: str, size: Mapping[str, int]) -> str:
    return ", ".join([what, *(f"{name}={extent}" for name, extent in size.items())])


def _in_float64(reference: Session, feeds: Tensors) -> Tensors:
    try:
        return reference.run(feeds)
    except UnsupportedError as error:
        raise NoReferenceError(str(error)) from error


def _coarsest(model: ir.Model) -> float:
    """The eps of the coarsest type that the model casts to on the way, 0 without a cast."""
    found = 0.0
    bodies: list[Any] = [model.graph, *model.functions.values()]
    for node in (node for body in bodies for node in body.all_nodes() if node.op_type == "Cast"):
        attribute = node.attributes.get("to")
        if attribute is not None and not attribute.is_ref():
            found = max(found, _EPS.get(attribute.value, 0.0))
    return found


def _eps(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
