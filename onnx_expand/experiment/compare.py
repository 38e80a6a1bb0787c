"""Which of two models is better, said as far as the seeds tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Comparison"]

_CONFIDENCE = 0.95
_MOST = 1000  # seeds that anybody would train


@dataclass(frozen=True)
class Comparison:
    """The scores of two models that were trained from the same seeds.

    Attributes:
        metric: What the score is.
        greater: Whether more of it is better.
        names: What the two are called.
        first: The scores of the first, one for each seed.
        second: Those of the second.
    """

    metric: str
    greater: bool
    names: tuple[str, str]
    first: Sequence[float]
    second: Sequence[float]

    @property
    def differences(self) -> tuple[float, ...]:
        """First less second, seed by seed."""
        return tuple(a - b for a, b in zip(self.first, self.second, strict=True))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the mean difference is with 95 % confidence, by Student's t on the pairs."""
        count = len(self.first)
        if count < 2:
            return None
        center = statistics.mean(self.differences)
        reach = _reach(count, statistics.stdev(self.differences))
        return center - reach, center + reach

    @property
    def better(self) -> str | None:
        """The name of the better one; None where the seeds do not tell."""
        interval = self.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return None
        return self.names[0] if (interval[0] > 0) == self.greater else self.names[1]

    @property
    def enough(self) -> int | None:
        """How many seeds would tell, if all differed as much and were spread as these are.

        None where one seed says nothing of the spread, or so small a difference would take more
        than a thousand.
        """
        if len(self.first) < 2:
            return None
        center, spread = statistics.mean(self.differences), statistics.stdev(self.differences)
        counts = range(2, _MOST + 1)
        return next((n for n in counts if _reach(n, spread) < abs(center)), None)

    def summary(self) -> str:
        """Both scores, their difference, and the conclusion, in one line."""
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
            return f"{head}; one seed does not tell which is better; --repeat 5 may"
        low, high = (_number(value, self.metric, sign=True) for value in self.interval)
        return f"{head}, 95 % interval {low} to {high}: {self._conclusion()}"

    def _conclusion(self) -> str:
        if self.better is not None:
            return f"{self.better} is better"
        if self.enough is None:
            return f"that does not tell which is better, and {_MOST:,} seeds would hardly"
        return (
            f"that does not tell which is better; about {self.enough} seeds would, if they differ "
            "as these do"
        )

    def as_dict(self) -> dict[str, Any]:
        """This comparison as plain JSON types."""
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
    """Half the interval of a mean of so many normal values of that standard deviation."""
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
