"""Time whole models in turns on equal inputs, until it is clear which one is faster.

Models are timed in blocks, each with new sessions in an order of its own. After 8, 12, 18, 27, 40
and 60 blocks the intervals of the ratios are looked at, each with a sixth of the probability of
an error of 5 % in all (Bonferroni), so that to stop as soon as they are clear claims nothing that
chance explains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.inputs.drawing import Regime
from onnx_expand.equivalence.inputs.probe import Probe
from onnx_expand.equivalence.inputs.sizes import symbols_of
from onnx_expand.errors import UnsupportedError
from onnx_expand.progress import tell
from onnx_expand.runtimes import OnnxRuntime, Tensors, detect_providers
from onnx_expand.runtimes.latency import Ratio, block, ratio_of

__all__ = ["Benchmark", "Timings"]

_LOOKS = (8, 12, 18, 27, 40, 60)  # numbers of blocks after which intervals are looked at
_SURE = 1 - 0.05 / len(_LOOKS)
_LITTLE = 0.005  # a gain that is not worth to be looked for
_PER_MODEL = 0.05  # seconds of runs of each model in a block
_FEWEST = 3  # runs of each model in a block, however long they take
# Candidates for extents that are neither static nor given, at a batch size of one.
_EXTENTS = (224, 128, 64, 32)


@dataclass(frozen=True)
class Timings:
    """The times of several models, measured in turns.

    Attributes:
        times: Seconds by model name, the median of each block; the n-th times of all models were
            taken together. A model that left the benchmark has fewer.
    """

    times: Mapping[str, Sequence[float]]

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return max(map(len, self.times.values()))

    @property
    def is_decisive(self) -> bool:
        """Whether there are enough blocks to decide anything."""
        return self.blocks >= _LOOKS[0]

    def ratio(self, name: str, other: str) -> Ratio:
        """Return the ratio of one model's time to another's, with its interval."""
        pairs = list(zip(self.times[name], self.times[other], strict=False))
        return ratio_of(*zip(*pairs, strict=True), sure=_SURE)

    def is_faster(self, name: str, other: str) -> bool:
        """Return whether one model is certainly faster than another."""
        return self.ratio(name, other).high < 1

    def is_clear(self, name: str, other: str) -> bool:
        """Return whether more blocks would not show a model to be faster by what matters."""
        ratio = self.ratio(name, other)
        return ratio.high < 1 or ratio.low > 1 - _LITTLE

    def fastest(self, names: Sequence[str]) -> tuple[str, bool]:
        """Return the first of some models than which no later one is certainly faster.

        Returns:
            Its name, and whether this is clear.
        """
        best, clear = names[0], True
        for name in names[1:]:
            if self.is_faster(name, best):
                best = name
            clear = clear and self.is_clear(name, best)
        return best, clear


@dataclass
class Benchmark:
    """Time models that take the same inputs.

    Attributes:
        source: The model that defines the inputs.
        provider: `cpu` or `cuda`.
        shapes: Extents of inputs by name; a string is a symbolic extent.
        seconds: How long all measurements may take; each takes at least eight blocks.
        threads: Threads of an operator on the CPU. The time of one thread is what it computes,
            which other work on the machine disturbs least; more threads are timed by the clock.
    """

    source: ir.Model
    provider: str | None = None
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    seconds: float = 60.0
    threads: int = 1

    def __post_init__(self) -> None:
        self.provider = self.provider or next(iter(detect_providers()), "cpu")
        on_cpu = self.provider == "cpu"
        self._runtime = OnnxRuntime(self.provider, True, self.threads if on_cpu else None)
        alone = on_cpu and self.threads == 1
        self._clock = time.thread_time if alone else time.perf_counter
        self._spent = 0.0
        self.feeds = self._inputs()

    @property
    def conditions(self) -> str:
        """Where the models are timed, for messages."""
        shapes = ("x".join(map(str, array.shape)) or "1" for array in self.feeds.values())
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{', '.join(shapes)} on {self.provider}{threads}"

    @property
    def left(self) -> float:
        """The seconds that are left for measurements."""
        return max(0.0, self.seconds - self._spent)

    def time(
        self,
        models: Mapping[str, ir.Model],
        clear: Callable[[Timings], Collection[str]] = lambda _: (),
        *,
        share: float = 1.0,
    ) -> Timings:
        """Time models in turns until it is clear what they are timed for.

        Args:
            models: The models.
            clear: The models that need no more blocks; all of them ends the benchmark.
            share: The part of the remaining time that may be used. If it is not all, and does not
                suffice to decide anything, the result is not decisive.

        Raises:
            UnsupportedError: A model does not run.
        """
        begin, allowed = time.perf_counter(), self.left * share
        times: dict[str, list[float]] = {name: [] for name in models}
        result, going = Timings(times), dict(models)
        for number in range(_LOOKS[-1]):
            spent = time.perf_counter() - begin
            blocks = max(number, _LOOKS[0])  # that are needed to decide anything
            if number and spent * blocks > allowed * number and (share < 1 or number >= blocks):
                break
            tell(f"timing {len(going)} models", round(self._spent + spent), round(self.seconds))
            for name, values in self._block(going, number).items():
                times[name].append(float(np.median(values)))
            if number + 1 in _LOOKS:
                for name in clear(result):
                    going.pop(name, None)
            if not going:
                break
        self._spent += time.perf_counter() - begin
        return result

    def _block(self, models: Mapping[str, ir.Model], number: int) -> Mapping[str, list[float]]:
        make = {n: partial(self._runtime.session, model, n) for n, model in models.items()}
        return block(
            make,
            dict.fromkeys(make, self.feeds),
            number,
            seconds=_PER_MODEL * len(make),
            fewest=_FEWEST,
            clock=self._clock,
        )

    def _inputs(self) -> Tensors:
        """Return random inputs on which the source runs as it is timed, at realistic extents.

        A runtime that optimizes takes declared shapes at their word, so that a model may run at
        fewer extents than without optimizations.
        """
        session = self._runtime.session(self.source, "model")
        probe = Probe.of(self.source, session, self.shapes)
        batches, others = symbols_of(probe.signature)
        for extent in _EXTENTS:
            sizes = {**dict.fromkeys(batches, 1), **dict.fromkeys(others, extent)}
            try:
                return probe.feeds(sizes, Regime.NORMAL, 0)
            except UnsupportedError:
                continue
        return probe.feeds(probe.size(), Regime.NORMAL, 0)
