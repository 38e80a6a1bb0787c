"""Whether two models compute the same, up to rounding.

Both run in onnxruntime, with its graph optimizations off, on the same inputs. How far they may be
apart is measured, not chosen. The *floor* is what rounding does to A itself: the distance of its
results from those of the same weights in float64, or what one unit in the last place of its inputs
changes, whichever is more. B's distance from A's float64 values may be `factor` times that floor.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.bounds import integer_bounds
from onnx_expand.equivalence.compare import (
    FACTOR,
    Figure,
    Place,
    Rule,
    compare,
    distance,
    trusted,
)
from onnx_expand.equivalence.files import given_inputs, read_inputs
from onnx_expand.equivalence.inputs import Limits, Regime, draw, nudge, plan_sizes
from onnx_expand.equivalence.signature import Signature
from onnx_expand.equivalence.verdict import Verdict
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.model import ModelLike, load, read
from onnx_expand.runtimes.base import Session, Source, Tensors
from onnx_expand.runtimes.ort import OnnxRuntime, detect_providers
from onnx_expand.runtimes.reference import Reference

__all__ = ["FACTOR", "Figure", "Verdict", "check"]

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
) -> Verdict:
    """Compare what two models compute.

    Args:
        a: The model that is right by definition: a path, `onnx.ModelProto`, `onnx_ir.Model` or
            `onnx_graphsurgeon.Graph`.
        b: The model to compare with it, of any of these kinds.
        samples: How many inputs of each kind (normal, uniform, large) to try, besides zeros.
            Symbolic dimensions take two sizes in turn.
        seed: Decides the inputs.
        providers: Of `cpu`, `cuda`, `tensorrt` and `reference`, ONNX's own implementation; what
            works on this machine of the first two when missing.
        rtol: Overrides the measured tolerance: |a - b| <= atol + rtol * |a|.
        atol: As `rtol`.
        factor: How many times the measured rounding of A B may be away.
        inputs: Inputs to run on instead of random ones: a path as `read_inputs` takes it, or
            mappings from input names to arrays.
        ranges: Smallest and largest number of random inputs, by name; "" is all inputs.
        shapes: Extents of random inputs, by name; a string is a symbolic extent.
        providers_b: Where B runs, one for each of `providers`; the same when missing.
        as_deployed: Let onnxruntime optimize both graphs.

    Returns:
        The verdict, which is true when they compute the same. Models whose inputs or outputs
        differ are different; that is no error.

    Raises:
        UsageError: An option has a value that makes no sense.
        ModelError: A model cannot be read, or is not valid.
        UnsupportedError: onnxruntime or a provider is missing, or onnxruntime cannot run a model.
    """
    _validate(samples, rtol, atol, factor)
    left, right = _Guest.of(a, "A"), _Guest.of(b, "B")
    differences = left.signature.differences(right.signature)
    if differences:
        return Verdict(False, tuple(differences), (), "signatures", ())
    if providers is not None and (isinstance(providers, str) or not providers):
        raise UsageError(f"providers is {providers!r}; give a list, such as ['cpu']")
    names = detect_providers() if providers is None else _unique(providers, providers_b)
    seconds = names if providers_b is None else tuple(providers_b)
    if len(seconds) != len(names):
        raise UsageError(f"B has {len(seconds)} providers, A {len(names)}; give one for each")
    limits = Limits(integer_bounds(left.model), ranges or {}, _shapes(left, shapes or {}))
    bench = _Bench(
        left, right, list(zip(names, seconds, strict=True)), Rule(factor, rtol, atol), seed,
        limits, as_deployed,
    )  # fmt: skip
    drawn = bench.inputs(samples) if inputs is None else bench.given(inputs)
    if bench.rule.fixed:
        return bench.verdict(drawn, None, f"rtol {rtol or 0:g}, atol {atol or 0:g}")
    try:
        return bench.verdict(drawn, _reference(left), "float64 reference")
    except _NoReferenceError as error:
        return bench.verdict(drawn, None, f"one unit in the last place of A's inputs; {error}")


def _unique(first: Sequence[str], second: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(first) if second is not None else tuple(dict.fromkeys(first))


def _shapes(
    guest: _Guest, shapes: Mapping[str, Sequence[int | str]]
) -> dict[str, tuple[int | str, ...]]:
    """The extents that were asked for, by name.

    Raises:
        UsageError: There is no such input, or it has other extents.
    """
    found = {}
    for name, wanted in shapes.items():
        port = guest.signature.inputs.get(name)
        if port is None:
            known = ", ".join(guest.signature.inputs)
            raise UsageError(f"shape: there is no input '{name}'; the inputs are {known}")
        own = port.symbols()
        fits = port.shape is None or (
            len(own) == len(wanted)
            and all(not isinstance(o, int) or o == w for o, w in zip(own, wanted, strict=True))
        )
        if not fits:
            raise UsageError(f"shape: input '{name}' has extents {list(own)}, not {list(wanted)}")
        symbols = (
            own if port.shape is not None else tuple(f"{name}[{i}]" for i in range(len(wanted)))
        )
        found[name] = tuple(
            w if isinstance(w, int) else o for w, o in zip(wanted, symbols, strict=True)
        )
    return found


class _NoReferenceError(Exception):
    """The model cannot be had in float64, for the reason in the message."""


@dataclass(frozen=True)
class _Guest:
    """One of the two models.

    Attributes:
        letter: A or B.
        label: How messages name it.
        source: What runtimes load: the file itself where there is one that they can read.
        model: The model.
        signature: Its inputs and outputs.
    """

    letter: str
    label: str
    source: Source
    model: ir.Model
    signature: Signature

    @classmethod
    def of(cls, given: ModelLike, letter: str) -> _Guest:
        if isinstance(given, str | os.PathLike):
            path = Path(given)
            model = load(path)
            source: Source = path if path.suffix in _BINARY else model
            return cls(letter, f"{letter} ({path})", source, model, Signature.of(model))
        model = read(given)
        name = model.graph.name or "model"
        return cls(letter, f"{letter} ({name})", model, model, Signature.of(model))


class _Bench:
    """Both models, ready to run on each provider."""

    def __init__(
        self,
        left: _Guest,
        right: _Guest,
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
            _NoReferenceError: The reference does not compute what A does.
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
            noise = {} if self.rule.fixed else self._noise(left, feeds, results)
            for name, a in results.items():
                eps = max(self._eps, _eps(a.dtype))
                moved, want = noise.get(name, 0.0), truth.get(name)
                if want is not None and not trusted(a, want, moved, eps):
                    raise _NoReferenceError(f"the reference computes another '{name}' than A")
                place = Place(name, sample, provider)
                yield compare(place, a, others[name], want, moved, eps, self.rule)

    def _noise(self, session: Session, feeds: Tensors, results: Tensors) -> dict[str, float]:
        """By how much each output moves when the inputs move by a unit in the last place."""
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

    def __init__(self, guest: _Guest) -> None:
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


def _session(name: str, guest: _Guest, as_deployed: bool) -> Session:
    if name == REFERENCE:
        return _Rounded(guest)
    return OnnxRuntime(name, optimize=as_deployed).session(guest.source, guest.label)


def _reference(guest: _Guest) -> Session:
    try:
        return Reference().session(guest.source, guest.label)
    except UnsupportedError as error:
        raise _NoReferenceError(str(error)) from error


def _in_float64(reference: Session, feeds: Tensors) -> Tensors:
    try:
        return reference.run(feeds)
    except UnsupportedError as error:
        raise _NoReferenceError(str(error)) from error


def _validate(samples: int, rtol: float | None, atol: float | None, factor: float) -> None:
    if samples < 1:
        raise UsageError(f"samples is {samples}; it must be at least 1")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} is {value}; it must be finite and not negative")
    if not 0 < factor < math.inf:
        raise UsageError(f"factor is {factor}; it must be finite and positive")


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
