"""Whole models, timed in turns on equal inputs: which of them is faster by more than noise.

On the CPU one thread runs, and the time of the process counts: what else the machine does
meanwhile disturbs it least.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.equivalence.demands import demands_of
from onnx_expand.equivalence.extents import known_shapes
from onnx_expand.equivalence.inputs import Limits, Regime
from onnx_expand.equivalence.probe import Probe
from onnx_expand.equivalence.signature import Signature
from onnx_expand.equivalence.sizes import symbols_of
from onnx_expand.errors import UnsupportedError
from onnx_expand.progress import tell
from onnx_expand.runtimes import OnnxRuntime, Tensors, detect_providers, timings
from onnx_expand.runtimes.latency import ratio_of

__all__ = ["Contest", "Result"]

_SECONDS = 2.0
_ROUNDS = 12  # at least, however long they take
# What stands for an extent that is not static, where nobody says: a batch of one, and these.
_EXTENTS = (224, 128, 64, 32)
_AGAIN = " again"


@dataclass(frozen=True)
class Result:
    """The times of some models, taken in turns.

    Attributes:
        times: The n-th of all were taken together, in seconds, by name.
        noise: By how much two sessions of one model seemed to differ, as a share.
    """

    times: Mapping[str, Sequence[float]]
    noise: float

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """How long one takes by how long another does, with a 95 % interval."""
        return ratio_of(self.times[name], self.times[other])

    def is_faster(self, name: str, other: str) -> bool:
        """Whether one is faster than another by more than noise."""
        return self.ratio(name, other)[2] < 1 - self.noise


@dataclass
class Contest:
    """Times models that take the same inputs.

    Attributes:
        source: The model whose inputs they are.
        provider: `cpu` or `cuda`.
        shapes: Extents of inputs, by name; a string is a symbolic extent.
        seconds: How long one measurement takes, about.
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
        """The sizes of the inputs, for messages."""
        shapes = ("x".join(map(str, array.shape)) or "1" for array in self.feeds.values())
        return ", ".join(shapes)

    def time(self, models: Mapping[str, ir.Model]) -> Result:
        """Time models, the first of them twice, in turns.

        Raises:
            UnsupportedError: One does not run.
        """
        first = next(iter(models))
        asked = {**models, first + _AGAIN: models[first]}
        sessions = {name: self._runtime.session(m, name) for name, m in asked.items()}
        tell(f"timing {len(models)} models")
        times = timings(
            sessions,
            dict.fromkeys(sessions, self.feeds),
            seconds=self.seconds,
            fewest=_ROUNDS,
            clock=time.process_time if self.provider == "cpu" else time.perf_counter,
        )
        low, high = ratio_of(times[first + _AGAIN], times[first])[1:]
        return Result(times, max(abs(low - 1), abs(high - 1)))

    def _inputs(self) -> Tensors:
        """Random inputs on which the source runs, of the sizes at which it will be used."""
        signature = Signature.of(self.source)
        session = OnnxRuntime("cpu").session(self.source, "model")
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
