"""How long models take, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_expand.errors import UsageError
from onnx_expand.runtimes.base import Session, Tensors

__all__ = ["latency", "ratio_of", "timings"]

_WARM_UP = 0.2  # the share of the time that goes to runs which are not counted
_FEWEST = 5
_RESAMPLES = 2000


def latency(
    sessions: Mapping[str, Session], feeds: Tensors, *, seconds: float = 2.0
) -> dict[str, tuple[float, float]]:
    """Measure sessions on the same inputs, in turns.

    Runs alternate (A B A B ...), so that a machine that slows down or speeds up meanwhile does so
    for all of them. Prepare the sessions as they are deployed: `OnnxRuntime(optimize=True)`.

    Args:
        sessions: The sessions, by the name that the result has for them.
        feeds: An array for every input, by name.
        seconds: How long to measure, in all; every session runs at least five times.

    Returns:
        Median and 95th percentile, in seconds, by name.

    Raises:
        UsageError: There is no session, or no time.
        UnsupportedError: A session cannot run on these arrays.
    """
    same = dict.fromkeys(sessions, feeds)
    return {
        name: (float(np.median(values)), float(np.quantile(values, 0.95)))
        for name, values in timings(sessions, same, seconds=seconds).items()
    }


def timings(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Tensors],
    *,
    seconds: float = 2.0,
    fewest: int = _FEWEST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """The times of single runs, in turns; the n-th of all sessions were taken together.

    Args:
        sessions: The sessions, by name.
        feeds: For each session an array for every input.
        seconds: How long to measure, in all; a fifth of it warms up and is not counted.
        fewest: How often every session runs at least.
        clock: Tells the time in seconds. That of the process does not count what other processes
            take meanwhile; it counts all threads.

    Raises:
        UsageError: There is no session, or no time.
        UnsupportedError: A session cannot run on these arrays.
    """
    if not sessions:
        raise UsageError("latency needs at least one session")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"seconds is {seconds}; it must be positive and finite")
    _rounds(sessions, feeds, seconds * _WARM_UP, 1, clock)
    return _rounds(sessions, feeds, seconds * (1 - _WARM_UP), fewest, clock)


def ratio_of(
    own: Sequence[float], first: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """The ratio of two sessions' times, taken in turns.

    Args:
        own: Times of the one.
        first: Times of the other; the n-th of both were taken together.
        seed: Decides what is resampled.

    Returns:
        The median of the ratios of all turns, and a 95 % interval of it by resampling the turns.
    """
    pair = np.stack([np.asarray(own, np.float64), np.asarray(first, np.float64)])
    # A run within one tick of the clock takes no time by it: it took a tick at most.
    tick = float(np.min(pair[pair > 0], initial=1.0))
    ratios = np.maximum(pair[0], tick) / np.maximum(pair[1], tick)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[picks], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def _rounds(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Tensors],
    seconds: float,
    fewest: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = clock() + seconds
    done = 0
    while done < fewest or clock() < end:
        for name, session in sessions.items():
            start = clock()
            session.run(feeds[name])
            times[name].append(clock() - start)
        done += 1
    return times
