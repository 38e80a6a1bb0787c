"""Run two models on one input and compare them, relative to the rounding of the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.equivalence.compare import (
    Figure,
    Place,
    Tolerance,
    compare,
    distance,
    largest,
    missing,
    trusted,
)
from onnx_expand.equivalence.inputs.drawing import Regime, nudge
from onnx_expand.errors import UnsupportedError
from onnx_expand.runtimes.base import Session, Tensors

__all__ = ["Measurement", "NoReferenceError", "eps_of", "floors_of"]

_NUDGES = 6
_LOOSE = 20.0  # ulps: an output that moves by more than this has jumped
_UNITS = 2.0


class NoReferenceError(Exception):
    """The model has no float64 reference, for the reason in the message."""


class Measurement:
    """Both models, loaded.

    Args:
        tolerance: The criterion of equality.
        pairs: A and B by provider name.
        disturbed: A with the measured errors of its elementary functions added.
        unlike: B in float64 if it contains no rounded constants of its own, else no results.
        eps: The machine epsilon of the coarsest type to which A rounds.
        seed: Seed of the movements of the inputs.
        sizes: Inputs that are factors or counts, which do not move.
    """

    def __init__(
        self,
        tolerance: Tolerance,
        pairs: Mapping[str, tuple[Session, Session]],
        disturbed: Mapping[str, Session],
        unlike: Callable[[Tensors], Tensors],
        eps: float,
        seed: int,
        sizes: Collection[str] = (),
    ) -> None:
        self._sizes = sizes
        self.tolerance = tolerance
        self._pairs = pairs
        self._disturbed = disturbed
        self._unlike = unlike
        self._eps = eps
        self._seed = seed

    def figures(
        self,
        sample: str,
        feeds: Tensors,
        reference: Session | None,
        floors: Mapping[str, float],
        is_light: bool,
    ) -> Iterator[Figure]:
        """Run both models on one input.

        Args:
            sample: The name of the input.
            feeds: An array for every input.
            reference: A in float64, if available.
            floors: Floors over scales of outputs, measured on other inputs.
            is_light: Whether these floors suffice, so that A need not run in float64.

        Raises:
            NoReferenceError: The reference does not compute the same as A.
        """
        truth = {} if reference is None or is_light else _in_float64(reference, feeds)
        for provider, (left, right) in self._pairs.items():
            results = left.run(feeds)
            try:
                others = right.run(feeds)
            except UnsupportedError as error:
                for name in results:
                    yield _not_run(Place(name, sample, provider), error)
                continue
            is_quiet = self.tolerance.fixed or (
                is_light and reference is not None and bool(floors)
            )
            noise, unstable = ({}, {}) if is_quiet else self._noise(provider, feeds, results)
            lost = [name for name in (*results, *others) if name not in results.keys() & others]
            for name in lost:
                where = "A" if name in results else "B"
                yield missing(Place(name, sample, provider), where)
            for name, a in results.items():
                if name in lost:
                    continue
                eps = max(self._eps, eps_of(a.dtype))
                moved, want, b = noise.get(name, 0.0), truth.get(name), others[name]
                if want is not None and not trusted(a, want, moved, eps):
                    raise NoReferenceError(f"the reference computes another '{name}' than A")
                if is_light and reference is not None:
                    moved = max(moved, floors.get(name, 0.0) * largest(a))
                place = Place(name, sample, provider)
                if a.dtype.kind != "f" and not self.tolerance.fixed:
                    b = self._forgiven(name, a, b, unstable.get(name), want, feeds)
                figure = compare(place, a, b, want, moved, eps, self.tolerance)
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
        """Replace B's integers by A's where rounding alone decides, such as between two ranks."""
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
        """Compare strictly where both models are exact in float64, even if A jumps nearby."""
        other = self._unlike(feeds).get(figure.place.output)
        if other is None or other.shape != b.shape or other.shape != want.shape:
            return figure
        slack = _UNITS * eps * np.maximum(np.abs(want), np.abs(other))
        with np.errstate(invalid="ignore"):
            exact = (np.abs(a - want) <= slack) & (np.abs(b - other) <= slack)
        if not exact.any():
            return figure
        only = np.where(exact, b, a)
        strict = compare(figure.place, a, only, None, 0.0, eps, self.tolerance)
        return figure if strict.equal else strict

    def _noise(
        self, provider: str, feeds: Tensors, results: Tensors
    ) -> tuple[dict[str, float], dict[str, npt.NDArray[np.bool_]]]:
        """Measure the changes of outputs when inputs and kernels change by their errors.

        Returns:
            The change of each output, and where outputs without rounding change.
        """
        session = self._disturbed[provider]
        noise = dict.fromkeys(results, 0.0)
        unstable = {
            n: np.zeros(a.shape, np.bool_) for n, a in results.items() if a.dtype.kind != "f"
        }
        coarsest = max([self._eps, *(eps_of(array.dtype) for array in results.values())])
        fine = {
            name: array
            for name, array in feeds.items()
            if eps_of(array.dtype) <= coarsest and name not in self._sizes
        }
        is_still = all(array.dtype.kind != "f" for array in fine.values())
        if is_still and session is self._pairs[provider][0]:
            return noise, {}
        for turn in range(_NUDGES):
            rng = np.random.default_rng([self._seed, turn])
            try:
                moved = session.run({**feeds, **nudge(fine, rng)})
            except UnsupportedError:
                continue  # the model does not accept these inputs
            for name, array in results.items():
                if name not in moved or array.shape != moved[name].shape:
                    continue
                if name in unstable:
                    unstable[name] |= array != moved[name]
                else:
                    noise[name] = max(noise[name], distance(array, moved[name]))
        return noise, unstable


def _not_run(place: Place, error: UnsupportedError) -> Figure:
    problem = f"A runs, and B does not: {error}"
    return Figure(place, math.inf, math.inf, ratio=math.inf, problem=problem)


def floors_of(figures: Sequence[Figure]) -> dict[str, float]:
    """Return the largest floor of each output on normal inputs so far, over its scale."""
    found: dict[str, float] = {}
    for figure in figures:
        if figure.scale and figure.place.sample.startswith(Regime.NORMAL):
            name = figure.place.output
            found[name] = max(found.get(name, 0.0), figure.floor / figure.scale)
    return found


def _in_float64(reference: Session, feeds: Tensors) -> Tensors:
    try:
        return reference.run(feeds)
    except UnsupportedError as error:
        raise NoReferenceError(str(error)) from error


def eps_of(dtype: np.dtype[Any]) -> float:
    """Return the machine epsilon of a type; 0 for types without rounding."""
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
