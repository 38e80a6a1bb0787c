"""Time whole models in turns on equal inputs, to decide which is faster by more than noise.

On the CPU the models run on one thread and the process time is measured, which other load on the
machine disturbs least.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.inputs.demands import demands_of
from onnx_expand.equivalence.inputs.drawing import Limits, Regime
from onnx_expand.equivalence.inputs.extents import known_shapes
from onnx_expand.equivalence.inputs.probe import Probe
from onnx_expand.equivalence.inputs.signature import Signature
from onnx_expand.equivalence.inputs.sizes import symbols_of
from onnx_expand.errors import UnsupportedError
from onnx_expand.progress import tell
from onnx_expand.runtimes import OnnxRuntime, Tensors, detect_providers, timings
from onnx_expand.runtimes.latency import ratio_of

__all__ = ["Contest", "Result"]

_SECONDS = 2.0
_BLOCKS = 12  # of sessions of each model
_ROUNDS = 3  # the minimum number of rounds in a block, however long they take
# Candidates for extents that are neither static nor given, at a batch size of one.
_EXTENTS = (224, 128, 64, 32)
_AGAIN = " again"


@dataclass(frozen=True)
class Result:
    """The times of several models, measured in turns.

    Attributes:
        times: Seconds by model name; the n-th times of all models were taken together.
        noise: The relative difference that one model shows from itself.
    """

    times: Mapping[str, Sequence[float]]
    noise: float

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """Return the ratio of one model's time to another's, with a 95 % interval."""
        return ratio_of(self.times[name], self.times[other])

    def is_faster(self, name: str, other: str) -> bool:
        """Return whether one model is faster than another by more than noise."""
        return self.ratio(name, other)[2] < 1 - self.noise


@dataclass
class Contest:
    """Time models that take the same inputs.

    Attributes:
        source: The model that defines the inputs.
        provider: `cpu` or `cuda`.
        shapes: Extents of inputs by name; a string is a symbolic extent.
        seconds: The approximate duration of one measurement.
    """

    source: ir.Model
    provider: str | None = None
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    seconds: float = _SECONDS

    def __post_init__(self) -> None:
        self.provider = self.provider or next(iter(detect_providers()), "cpu")
        threads = 1 if self.provider == "cpu" else None
        self._runtime = OnnxRuntime(self.provider, optimize=True, threads=threads)
        self.feeds = self._inputs()

    @property
    def extents(self) -> str:
        """The extents of the inputs, for messages."""
        shapes = ("x".join(map(str, array.shape)) or "1" for array in self.feeds.values())
        return ", ".join(shapes)

    def time(self, models: Mapping[str, ir.Model]) -> Result:
        """Time models in turns, the first of them twice.

        Two sessions of one model differ by 1 to 4 %. Each block therefore has sessions of its own,
        and the times are the medians of the blocks, so that intervals include that difference.

        Raises:
            UnsupportedError: A model does not run.
        """
        first = next(iter(models))
        asked = {**models, first + _AGAIN: models[first]}
        tell(f"timing {len(models)} models")
        times: dict[str, list[float]] = {name: [] for name in asked}
        names = list(asked)
        for block in range(_BLOCKS):
            turned = names[block % len(names) :] + names[: block % len(names)]
            sessions = {name: self._runtime.session(asked[name], name) for name in turned}
            found = timings(
                sessions,
                dict.fromkeys(sessions, self.feeds),
                seconds=self.seconds / _BLOCKS,
                fewest=_ROUNDS,
                clock=time.process_time if self.provider == "cpu" else time.perf_counter,
            )
            for name, values in found.items():
                times[name].append(float(np.median(values)))
        low, high = ratio_of(times[first + _AGAIN], times[first])[1:]
        return Result(times, max(abs(low - 1), abs(high - 1)))

    def _inputs(self) -> Tensors:
        """Return random inputs on which the source runs as it is timed, at realistic extents.

        A runtime that optimizes takes declared shapes at their word, so that a model may run at
        fewer extents than without optimizations.
        """
        signature = Signature.of(self.source)
        session = self._runtime.session(self.source, "model")
        extents = known_shapes(self.source, signature, self.shapes)
        signature = signature.with_shapes(extents)
        probe = Probe(signature, session, None, Limits(demands_of(self.source)), 0)
        batches, others = symbols_of(signature)
        for extent in _EXTENTS:
            sizes = {**dict.fromkeys(batches, 1), **dict.fromkeys(others, extent)}
            try:
                return probe.feeds(sizes, Regime.NORMAL, 0)
            except UnsupportedError:
                continue
        return probe.feeds(probe.size(), Regime.NORMAL, 0)
