"""Find the sizes and values on which a model runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.inputs.definition import Definition
from onnx_expand.equivalence.inputs.demand import Meaning
from onnx_expand.equivalence.inputs.demands import demands_of
from onnx_expand.equivalence.inputs.drawing import REACHES, SCALES, Limits, Regime, draw
from onnx_expand.equivalence.inputs.extents import known_shapes
from onnx_expand.equivalence.inputs.signature import Signature
from onnx_expand.equivalence.inputs.sizes import PLANNED, Sizes, extents_at, plan_sizes
from onnx_expand.errors import UnsupportedError
from onnx_expand.runtimes.base import Session, Tensors

__all__ = ["Probe"]

_NAMED = 3  # sizes listed in a note
_VAST = 1 << 20  # elements in all inputs
# The limit if a model runs at no smaller size, which some image models need.
_VASTEST = 1 << 24


@dataclass
class Probe:
    """A model that is tried on inputs until it runs.

    Attributes:
        signature: The signature of the model.
        session: The model.
        other: The model that it is compared with, if any.
        limits: The constraints on its inputs.
        seed: Seed of the inputs.
        definition: Decides at which sizes the model is defined; by default wherever it runs.
        notes: What was found about sizes and values, in sentences.
    """

    signature: Signature
    session: Session
    other: Session | None
    limits: Limits
    seed: int = 0
    definition: Definition | None = None
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._has_free = _has_free_integers(self.signature, self.limits)

    @classmethod
    def of(
        cls,
        model: ir.Model,
        session: Session,
        shapes: Mapping[str, Sequence[int | str]],
        seed: int = 0,
    ) -> Probe:
        """Return the probe of a single model, with the extents that its graph or `shapes` tells.

        Raises:
            UsageError: A shape is invalid.
        """
        signature = Signature.of(model)
        signature = signature.with_shapes(known_shapes(model, signature, shapes))
        return cls(signature, session, None, Limits(demands_of(model)), seed)

    def sizes(self) -> list[Sizes]:
        """Return the sizes at which the model runs, best first.

        Raises:
            UnsupportedError: It runs at none of the tried sizes.
        """
        tried: list[Sizes] = []
        found = list(self._running(tried))
        self._note([size for size in tried if size not in found])
        return found

    def size(self) -> Sizes:
        """Return the best size at which the model runs.

        Raises:
            UnsupportedError: It runs at none of the tried sizes.
        """
        return next(self._running([]))

    def _running(self, tried: list[Sizes]) -> Iterator[Sizes]:
        failure: UnsupportedError | None = None
        is_found = False
        compared = self.limits.extents
        planned = PLANNED + len(compared)
        for place, choices in enumerate(plan_sizes(self.signature, compared)):
            if is_found and place >= planned:
                return
            for size in choices:
                if self._is_vast(size, _VAST if place < planned else _VASTEST):
                    continue
                if not self._is_defined(size):
                    continue
                tried.append(size)
                try:
                    self.feeds(size, Regime.NORMAL, place)
                except UnsupportedError as error:
                    failure = failure or error
                    continue
                is_found = True
                yield size
                break
        if not is_found:
            if failure is None:
                raise UnsupportedError(
                    "its inputs are too large to try at any size; specify extents with --shape"
                )
            texts = [_text(size) for size in tried if size]
            more = f"; tried {', '.join(texts)}; specify extents with --shape" if texts else ""
            raise UnsupportedError(f"{failure}{more}") from failure

    def feeds(self, size: Sizes, regime: Regime, place: int) -> Tensors:
        """Return inputs of one size and kind on which the model runs.

        Large values are scaled down until the model does not overflow: overflowing outputs show
        how the model overflows rather than what it computes.

        Raises:
            UnsupportedError: It runs on none of the tried inputs.
        """
        failure: UnsupportedError | None = None
        best: Tensors | None = None
        finite = -1.0
        for scale, reach in self._steps(regime):
            feeds = self._draw(size, regime, place, scale, reach)
            try:
                share = _finite(self.session.run(feeds))
            except UnsupportedError as error:
                failure = failure or error
                continue
            if share > finite:
                best, finite = feeds, share
            if finite == 1.0:
                break
        if best is None:
            assert failure is not None
            raise failure
        return best

    def _is_vast(self, size: Sizes, most: int) -> bool:
        """Return whether the inputs would have too many elements to be tried."""
        ports = self.signature.inputs.values()
        shapes = [extents_at(p.symbols(), size) for p in ports if p.shape is not None]
        return bool(size) and sum(map(math.prod, shapes)) > most

    def _is_defined(self, size: Sizes) -> bool:
        """Return whether the model is defined at a size, even if a runtime accepts it."""
        if self.definition is None or not size:
            return True
        ports = (p for p in self.signature.inputs.values() if p.shape is not None)
        return self.definition.holds({p.name: extents_at(p.symbols(), size) for p in ports})

    def _draw(self, size: Sizes, regime: Regime, place: int, scale: float, reach: int) -> Tensors:
        rng = np.random.default_rng([self.seed, place])
        return draw(
            self.signature, size, regime, rng,
            scale=scale, reach=reach, turn=place, limits=self.limits,
        )  # fmt: skip

    def _steps(self, regime: Regime) -> Iterator[tuple[float, int]]:
        """Yield the scales and reaches to try, the largest first."""
        great = regime in {Regime.LARGE, Regime.EDGES}
        scales = SCALES if great else SCALES[:1]
        reaches = REACHES if self._has_free else REACHES[:1]
        yield scales[0], reaches[0]
        for reach in reaches[1:]:
            yield scales[0], reach
        for scale in scales[1:]:
            yield scale, reaches[-1]
        for scale in scales[1:]:
            yield scale, reaches[0]

    def _note(self, failed: list[Sizes]) -> None:
        """Note the sizes at which only the other model runs, which is not a difference."""
        runs = []
        for size in failed if self.other is not None else ():
            try:
                assert self.other is not None
                self.other.run(self._draw(size, Regime.NORMAL, 0, SCALES[0], REACHES[-1]))
            except UnsupportedError:
                continue
            runs.append(_text(size))
        if runs:
            more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
            where = ", ".join(runs[:_NAMED])
            self.notes.append(f"B runs at sizes where A does not, such as {where}{more}")


def _has_free_integers(signature: Signature, limits: Limits) -> bool:
    """Return whether some integer inputs have no known bounds."""
    for port in signature.inputs.values():
        demand = limits.demands.get(port.name)
        is_free = demand is None or demand.meaning in {Meaning.ANY, Meaning.DIVISOR}
        if port.dtype is not None and port.dtype.is_integer() and is_free:
            return True
    return False


def _finite(results: Tensors) -> float:
    """Return the fraction of finite values."""
    arrays = [array for array in results.values() if array.dtype.kind == "f"]
    total = sum(array.size for array in arrays)
    return sum(int(np.isfinite(a).sum()) for a in arrays) / total if total else 1.0


def _text(size: Mapping[str, int]) -> str:
    return " ".join(f"{name}={extent}" for name, extent in size.items())
