"""Decide which of two models is better, as far as the seeds are conclusive."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Comparison"]

_CONFIDENCE = 0.95
_MOST = 1000  # the largest number of seeds that is practical to train


@dataclass(frozen=True)
class Comparison:
    """The scores of two models trained from the same seeds.

    Attributes:
        metric: The name of the score.
        greater: Whether greater scores are better.
        names: The names of the two models.
        first: The scores of the first model, one for each seed.
        second: The scores of the second model.
    """

    metric: str
    greater: bool
    names: tuple[str, str]
    first: Sequence[float]
    second: Sequence[float]

    @property
    def differences(self) -> tuple[float, ...]:
        """First minus second, by seed."""
        return tuple(a - b for a, b in zip(self.first, self.second, strict=True))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean difference, by Student's t on the pairs."""
        count = len(self.first)
        if count < 2:
            return None
        center = statistics.mean(self.differences)
        reach = _reach(count, statistics.stdev(self.differences))
        return center - reach, center + reach

    @property
    def better(self) -> str | None:
        """The name of the better model, or None if the seeds are inconclusive."""
        interval = self.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return None
        return self.names[0] if (interval[0] > 0) == self.greater else self.names[1]

    @property
    def enough(self) -> int | None:
        """The number of seeds that would be conclusive, at equal mean and spread of differences.

        None for a single seed, which has no spread, or if the number would exceed a thousand.
        """
        if len(self.first) < 2:
            return None
        center, spread = statistics.mean(self.differences), statistics.stdev(self.differences)
        counts = range(2, _MOST + 1)
        return next((n for n in counts if _reach(n, spread) < abs(center)), None)

    def summary(self) -> str:
        """Return both scores, their difference and the conclusion, in one line."""
        count = len(self.first)
        scores = ", ".join(
            f"{name} {_spread(values, self.metric)}"
            for name, values in zip(self.names, (self.first, self.second), strict=True)
        )
        difference = _number(statistics.mean(self.differences), self.metric, sign=True)
        head = (
            f"{self.metric} of {count} seed{'s' * (count > 1)}: {scores}; difference {difference}"
        )
        if self.interval is None:
            return f"{head}; one seed is inconclusive; try --repeat 5"
        low, high = (_number(value, self.metric, sign=True) for value in self.interval)
        return f"{head}, 95 % interval {low} to {high}: {self._conclusion()}"

    def _conclusion(self) -> str:
        if self.better is not None:
            return f"{self.better} is better"
        if self.enough is None:
            return f"inconclusive, and even {_MOST:,} seeds would hardly suffice"
        return (
            f"inconclusive; about {self.enough} seeds would be conclusive if they differ "
            "as these do"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON types."""
        return {
            "metric": self.metric,
            "names": list(self.names),
            "scores": [list(self.first), list(self.second)],
            "differences": list(self.differences),
            "interval": None if self.interval is None else list(self.interval),
            "better": self.better,
            "enough": self.enough,
        }


def _reach(count: int, spread: float) -> float:
    """Return half the interval of a mean of `count` normal values of this standard deviation."""
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) * spread / math.sqrt(count)


def _spread(values: Sequence[float], metric: str) -> str:
    text = _number(statistics.mean(values), metric)
    if len(values) > 1:
        text += f" ± {_number(statistics.stdev(values), metric)}"
    return text


def _number(value: float, metric: str, *, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{value:{plus}.4g}" if "loss" in metric else f"{value:{plus}.2%}"
