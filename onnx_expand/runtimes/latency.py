"""Measure the latency of models in turns, and how sure the ratio of two latencies is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import UsageError
from onnx_expand.runtimes.base import Session, Tensors

__all__ = ["Ratio", "block", "latency", "ratio_of", "timings"]

_WARM_UP = 0.2  # the fraction of the time for runs that are not counted
_FEWEST = 5
_PATIENCE = 20.0  # by how much a clock of the processor may lag behind the time of day


class Ratio(NamedTuple):
    """The ratio of two times, and its interval."""

    middle: float
    low: float
    high: float


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
        clock: Returns the time in seconds. `time.thread_time` excludes everything but the thread
            that calls, in which a session of one thread runs.

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


def block(
    make: Mapping[str, Callable[[], Session]],
    feeds: Mapping[str, Tensors],
    number: int,
    *,
    seconds: float,
    fewest: int = _FEWEST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Measure new sessions in turns, made and run in an order that the block's number decides.

    Two sessions of one model differ by 1 to 4 %, which no number of runs of one session shows.
    Differences between models are therefore measured over blocks.

    Args:
        make: Makes a session, by name.
        feeds: As for `timings`, like the other arguments.
        number: The number of the block.
        seconds: Measuring time, without the time that it takes to make the sessions.
        fewest: Smallest number of runs of each session.
        clock: Returns the time in seconds.
    """
    order = np.random.default_rng(number).permutation(sorted(make))
    sessions = {str(name): make[str(name)]() for name in order}
    return timings(sessions, feeds, seconds=seconds, fewest=fewest, clock=clock)


def ratio_of(own: Sequence[float], first: Sequence[float], *, sure: float = 0.95) -> Ratio:
    """Estimate the ratio of two times from pairs that were measured together.

    The estimate is that of Hodges and Lehmann, the median of all means of two of the logarithms,
    and the interval inverts Wilcoxon's signed-rank test (Hollander and Wolfe, Nonparametric
    Statistical Methods, section 3.3). If both times have one distribution, the interval misses 1
    with a probability of at most 1 - `sure`, whatever the distribution is. Less than six pairs
    have no finite interval of 95 %.

    Args:
        own: Times of the one.
        first: Times of the other; the n-th times of both belong together.
        sure: The confidence of the interval.
    """
    pair = np.stack([np.asarray(own, np.float64), np.asarray(first, np.float64)])
    # A time of 0 is a run shorter than one tick of the clock: use a tick instead.
    tick = float(np.min(pair[pair > 0], initial=1.0))
    logs = np.log(np.maximum(pair[0], tick) / np.maximum(pair[1], tick))
    rows, columns = np.triu_indices(len(logs))
    means = np.sort((logs[rows] + logs[columns]) / 2)
    below = int(np.searchsorted(_signed_ranks(len(logs)), (1 - sure) / 2, side="right"))
    low, high = (0.0, np.inf) if not below else np.exp([means[below - 1], means[-below]])
    return Ratio(float(np.exp(np.median(means))), float(low), float(high))


@functools.cache
def _signed_ranks(count: int) -> npt.NDArray[np.float64]:
    """Return the cumulative probabilities of the sum of ranks with random signs."""
    chances = np.ones(1)
    for rank in range(1, count + 1):
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    return np.cumsum(chances)


def _rounds(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Tensors],
    seconds: float,
    fewest: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end, latest = clock() + seconds, time.perf_counter() + _PATIENCE * seconds
    done = 0
    while done < fewest or (clock() < end and time.perf_counter() < latest):
        for name, session in sessions.items():
            start = clock()
            session.run(feeds[name])
            times[name].append(clock() - start)
        done += 1
    return times
