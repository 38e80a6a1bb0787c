"""Measure the latency of models in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_expand.errors import UsageError
from onnx_expand.runtimes.base import Session, Tensors

__all__ = ["latency", "ratio_of", "timings"]

_WARM_UP = 0.2  # the fraction of the time for runs that are not counted
_FEWEST = 5
_RESAMPLES = 2000


def latency(
    sessions: Mapping[str, Session], feeds: Tensors, *, seconds: float = 2.0
) -> dict[str, tuple[float, float]]:
    """Measure sessions on the same inputs, in turns.

    Runs alternate (A B A B ...), so that changes in the speed of the machine affect all sessions.
    Prepare the sessions as they are deployed: `OnnxRuntime(optimize=True)`.

    Args:
        sessions: The sessions, by the names for the result.
        feeds: An array for each input, by name.
        seconds: Total measuring time; each session runs at least five times.

    Returns:
        Median and 95th percentile, in seconds, by name.

    Raises:
        UsageError: There is no session, or the time is not positive.
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
    """Measure single runs in turns; the n-th times of all sessions belong to the same turn.

    Args:
        sessions: The sessions, by name.
        feeds: For each session an array for each input.
        seconds: Total measuring time; a fifth of it is a warm-up that is not counted.
        fewest: Smallest number of runs of each session.
        clock: Returns the time in seconds. `time.process_time` excludes other processes and adds
            up all threads.

    Returns:
        The times of the runs of each session, in seconds.

    Raises:
        UsageError: There is no session, or the time is not positive.
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
    """Estimate the ratio of the times of two sessions that were measured in turns.

    Args:
        own: Times of the session.
        first: Times of the session to compare with, by turn.
        seed: Seed of the resampling.

    Returns:
        The median of the ratios of all turns, and its 95 % interval by resampling the turns.
    """
    pair = np.stack([np.asarray(own, np.float64), np.asarray(first, np.float64)])
    # A time of 0 is a run shorter than one tick of the clock: use a tick instead.
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
