"""Two models side by side: inputs that A can run on, what both make of them, A's own rounding."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
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
from onnx_expand.equivalence.files import given_inputs, read_inputs
from onnx_expand.equivalence.inputs import Limits, Regime, draw, nudge, plan_sizes
from onnx_expand.equivalence.ports import with_plain_ports
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
_SCALES = (100.0, 10.0, 1.0)
_INTEGERS = (4, 2)
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
    ) -> None:
        self.rule = rule
        self._limits = limits
        self._label = left.label
        self._signature = left.signature
        self._seed = seed
        self._eps = _coarsest(left.model)
        self._sessions = {
            first if first == second else f"{first}/{second}": tuple(
                _session(name, guest, as_deployed)
                for name, guest in ((first, left), (second, right))
            )
            for first, second in providers
        }
        self._probe = next(iter(self._sessions.values()))[0]
        self._disturbed = {
            name: _disturbed(first, left, as_deployed, seed) or self._sessions[name][0]
            for name, (first, _) in zip(self._sessions, providers, strict=True)
        }

    def given(self, inputs: Given) -> list[tuple[str, Tensors]]:
        """Inputs that came from elsewhere, as A takes them."""
        if isinstance(inputs, str | os.PathLike):
            samples = read_inputs(inputs)
        else:
            samples = [(f"given {i + 1}", dict(sample)) for i, sample in enumerate(inputs)]
        found: list[tuple[str, Tensors]] = list(given_inputs(iter(samples), self._signature))
        if not found:
            raise UsageError("inputs: there are none")
        self._require_determinism(found[0][1])
        return found

    def inputs(self, samples: int) -> list[tuple[str, Tensors]]:
        """Inputs that A can run on, with their names."""
        sizes, integers = self._sizes()
        random = (Regime.NORMAL, Regime.UNIFORM, Regime.LARGE)
        regimes = [(regime, turn + 1) for turn in range(samples) for regime in random]
        found: list[tuple[str, Tensors]] = []
        last = [(Regime.ZEROS, 1), (Regime.DENORMAL, 1)]
        for place, (regime, turn) in enumerate([*regimes, *last]):
            size = sizes[place % len(sizes)]
            label = ", ".join([f"{regime} {turn}", *(f"{k}={v}" for k, v in size.items())])
            feeds: Tensors = {}
            finite = -1.0
            # Inputs that make A overflow tell how A overflows, not what it computes.
            for scale in _SCALES[::-1] if regime == Regime.LARGE else _SCALES[:1]:
                rng = np.random.default_rng([self._seed, place])
                drawn = draw(
                    self._signature, size, regime, rng, scale=scale, integers=integers,
                    limits=self._limits,
                )  # fmt: skip
                share = _finite(self._probe.run(drawn))
                if share < finite:
                    break
                feeds, finite = drawn, share
            found.append((label, feeds))
        self._require_determinism(found[0][1])
        return found

    def verdict(
        self, inputs: Sequence[tuple[str, Tensors]], reference: Session | None, basis: str
    ) -> Verdict:
        """Run both on all inputs and compare.

        Raises:
            NoReferenceError: The reference does not compute what A does.
        """
        figures = [
            figure
            for sample, feeds in inputs
            for figure in self._measure(sample, feeds, reference)
        ]
        return Verdict.of(figures, basis, tuple(self._sessions), dict(inputs))

    def _measure(self, sample: str, feeds: Tensors, reference: Session | None) -> Iterator[Figure]:
        truth = {} if reference is None else _in_float64(reference, feeds)
        for provider, (left, right) in self._sessions.items():
            results, others = left.run(feeds), right.run(feeds)
            noise = {} if self.rule.fixed else self._noise(provider, feeds, results)
            lost = [name for name in (*results, *others) if name not in results.keys() & others]
            for name in lost:
                where = "A" if name in results else "B"
                yield missing(Place(name, sample, provider), where)
            for name, a in results.items():
                if name in lost:
                    continue
                eps = max(self._eps, _eps(a.dtype))
                moved, want = noise.get(name, 0.0), truth.get(name)
                if want is not None and not trusted(a, want, moved, eps):
                    raise NoReferenceError(f"the reference computes another '{name}' than A")
                place = Place(name, sample, provider)
                yield compare(place, a, others[name], want, moved, eps, self.rule)

    def _noise(self, provider: str, feeds: Tensors, results: Tensors) -> dict[str, float]:
        """By how much each output moves when inputs and kernels move by what they are off."""
        session = self._disturbed[provider]
        noise = dict.fromkeys(results, 0.0)
        coarsest = max([self._eps, *(_eps(array.dtype) for array in results.values())])
        fine = {name: array for name, array in feeds.items() if _eps(array.dtype) <= coarsest}
        for turn in range(_NUDGES):
            rng = np.random.default_rng([self._seed, turn])
            moved = session.run({**feeds, **nudge(fine, rng)})
            for name, array in results.items():
                if array.dtype.kind == "f" and array.shape == moved[name].shape:
                    noise[name] = max(noise[name], distance(array, moved[name]))
        return noise

    def _sizes(self) -> tuple[list[dict[str, int]], int]:
        """Sizes for the symbolic dimensions at which A runs, and a bound for its integers."""
        failure: UnsupportedError | None = None
        tried = []
        for pair in plan_sizes(self._signature):
            sizes = [pair[0]] if pair[0] == pair[1] else list(pair)
            tried.append("/".join(_sizes_text(size) for size in sizes))
            for integers in _INTEGERS:
                try:
                    for size in sizes:
                        rng = np.random.default_rng(self._seed)
                        args = (self._signature, size, Regime.NORMAL, rng)
                        self._probe.run(draw(*args, integers=integers, limits=self._limits))
                except UnsupportedError as error:
                    failure = failure or error
                else:
                    return sizes, integers
        assert failure is not None
        if any(tried):
            raise UnsupportedError(f"{failure}; tried {', '.join(tried)}") from failure
        raise failure

    def _require_determinism(self, feeds: Tensors) -> None:
        first, second = self._probe.run(feeds), self._probe.run(feeds)
        for name, array in first.items():
            if array.dtype.kind != "f":
                same = np.array_equal(array, second[name])
            else:
                scale = float(np.max(np.abs(array), where=np.isfinite(array), initial=0.0))
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


def _finite(results: Tensors) -> float:
    total = sum(array.size for array in results.values() if array.dtype.kind == "f")
    finite = sum(
        int(np.isfinite(array).sum()) for array in results.values() if array.dtype.kind == "f"
    )
    return finite / total if total else 1.0


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes.items())
