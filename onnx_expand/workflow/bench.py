"""Measure the latency and memory of models."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.documents import table
from onnx_expand.equivalence.inputs.drawing import Regime
from onnx_expand.equivalence.inputs.probe import Probe
from onnx_expand.equivalence.inputs.signature import Signature
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.model import load
from onnx_expand.progress import tell
from onnx_expand.runtimes import OnnxRuntime, detect_providers, named_runtime
from onnx_expand.runtimes.base import Runtime, Session
from onnx_expand.runtimes.latency import block, ratio_of
from onnx_expand.runtimes.loops import require_end

__all__ = ["Bench", "Timing", "bench"]

_FEWEST, _BLOCKS, _MOST = 6, 12, 60  # blocks: the least for an interval, the usual, the most
_RUNS = 3  # of a session in a block, however long they take

# The peak memory before the model is loaded is subtracted.
_PROBE = (
    "import re, sys, numpy, onnxruntime as ort; "
    "peak = lambda: int(re.search('VmHWM:[^0-9]*([0-9]+)', open('/proc/self/status').read())[1]); "
    "before = peak(); options = ort.SessionOptions(); options.log_severity_level = 4; "
    "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider']); "
    "feeds = dict(numpy.load(sys.argv[2])); session.run(None, feeds); print(peak() - before)"
)


@dataclass(frozen=True)
class Timing:
    """One model on one provider.

    Attributes:
        model: The path of the model.
        provider: The provider that ran it.
        median: Median time of a run, in seconds.
        p95: 95th percentile of the time of a run, in seconds.
        ratio: The ratio to the first model's time, over blocks of new sessions.
        interval: 95 % interval of `ratio`.
        runs: Number of measured runs.
        memory: Additional peak memory of a process that runs the model on the CPU, in bytes; None
            if the system does not report it.
    """

    model: str
    provider: str
    median: float
    p95: float
    ratio: float
    interval: tuple[float, float]
    runs: int
    memory: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return these figures as plain JSON types."""
        return {
            "model": self.model,
            "provider": self.provider,
            "median_seconds": self.median,
            "p95_seconds": self.p95,
            "ratio": self.ratio,
            "ratio_interval": list(self.interval),
            "runs": self.runs,
            "memory_bytes": self.memory,
        }


@dataclass(frozen=True)
class Bench:
    """All timings, and the shapes of their inputs."""

    timings: tuple[Timing, ...]
    shapes: dict[str, list[int]]
    threads: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON types."""
        return {"schema": 1, **table(self)}


def bench(
    paths: Sequence[str],
    *,
    providers: Sequence[str] | None = None,
    seconds: float = 5.0,
    threads: int | None = None,
    optimize: bool = True,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    memory: bool = True,
    seed: int = 0,
) -> Bench:
    """Time models in turns (A B A B ...) on equal inputs.

    Args:
        paths: The models' files; the others are compared with the first one.
        providers: Names of providers, as for `check`; by default those of onnxruntime that work on
            this machine.
        seconds: Measuring time for each provider.
        threads: Number of threads that one operator may use.
        optimize: Whether onnxruntime optimizes the graphs, as deployed.
        shapes: Extents of inputs, by name; a string is a symbolic extent.
        memory: Whether to measure memory, in a separate process for each model.
        seed: Seed of the inputs.

    Raises:
        UsageError: There is no model, or an option has an invalid value.
        ModelError: A model cannot be read, or is invalid.
        UnsupportedError: onnxruntime or a provider is missing, or a model cannot run.
    """
    if not paths:
        raise UsageError("bench needs at least one model")
    names = [path if paths.count(path) == 1 else f"{path}#{i}" for i, path in enumerate(paths)]
    feeds: dict[str, Mapping[str, npt.NDArray[Any]]] = {}
    for name, path in zip(names, paths, strict=True):
        feeds[name] = _feeds(path, shapes or {}, seed, feeds.get(names[0]))
    found: list[Timing] = []
    for provider in providers or detect_providers():
        runtime = named_runtime(provider, optimize=optimize, threads=threads)
        pairs = zip(names, paths, strict=True)
        make = {name: partial(_session, runtime, path) for name, path in pairs}
        tell(f"timing on {provider}")
        blocks = _blocks(make, feeds, seconds)
        for name, path in zip(names, paths, strict=True):
            own, first = ([block[n] for block in blocks] for n in (name, names[0]))
            found.append(_timing(path, provider, own, first))
    if memory:
        used = {name: _memory(path, feeds[name]) for name, path in zip(names, paths, strict=True)}
        by_path = {path: used[name] for name, path in zip(names, paths, strict=True)}
        found = [replace(timing, memory=by_path[timing.model]) for timing in found]
    extents = {name: list(array.shape) for name, array in feeds[names[0]].items()}
    return Bench(tuple(found), extents, threads)


def _feeds(
    path: str,
    shapes: Mapping[str, Sequence[int | str]],
    seed: int,
    first: Mapping[str, npt.NDArray[Any]] | None,
) -> Mapping[str, npt.NDArray[Any]]:
    """Draw inputs as check does, or return those of the first model if this one runs on them."""
    model = load(path)
    require_end(model, path)
    inputs = Signature.of(model).inputs
    session = OnnxRuntime("cpu").session(model, path)
    if first is not None and first.keys() == inputs.keys():
        try:
            session.run(first)
        except UnsupportedError:
            pass  # the model needs inputs of other shapes or types
        else:
            return first
    own = {name: shape for name, shape in shapes.items() if name in inputs}
    probe = Probe.of(model, session, shapes if first is None else own, seed)
    return probe.feeds(probe.size(), Regime.NORMAL, 0)


def _session(runtime: Runtime, path: str) -> Session:
    return runtime.session(load(path), path)


def _blocks(
    make: Mapping[str, Callable[[], Session]],
    feeds: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    seconds: float,
) -> list[dict[str, list[float]]]:
    """Time new sessions block by block for some seconds."""
    if not 0 < seconds < float("inf"):
        raise UsageError(f"seconds is {seconds}; it must be positive and finite")
    found: list[dict[str, list[float]]] = []
    end = time.perf_counter() + seconds
    while len(found) < _FEWEST or (time.perf_counter() < end and len(found) < _MOST):
        found.append(block(make, feeds, len(found), seconds=seconds / _BLOCKS, fewest=_RUNS))
    return found


def _timing(
    path: str, provider: str, own: Sequence[list[float]], first: Sequence[list[float]]
) -> Timing:
    ratio, low, high = ratio_of([np.median(t) for t in own], [np.median(t) for t in first])
    runs = np.concatenate(own)
    return Timing(
        path,
        provider,
        float(np.median(runs)),
        float(np.quantile(runs, 0.95)),
        ratio,
        (low, high),
        len(runs),
    )


def _memory(path: str, feeds: Mapping[str, npt.NDArray[Any]]) -> int | None:
    """Measure the additional peak memory of a process that loads and runs a model, in bytes."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **feeds)  # type: ignore[arg-type]
        words = [sys.executable, "-c", _PROBE, path, str(inputs)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        return int(done.stdout) * 1024
    except ValueError:
        return (
            None  # a system without /proc, or a model that onnxruntime cannot load from its file
        )
