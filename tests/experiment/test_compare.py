"""A model is called better only as far as the seeds are conclusive."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

from onnx_expand.experiment.compare import Comparison


def compare(first: list[float], second: list[float], *, greater: bool = True) -> Comparison:
    """Compare accuracies, or losses."""
    metric = "accuracy" if greater else "test loss"
    return Comparison(metric, greater, ("big", "small"), first, second)


def test_a_clear_difference_is_reported() -> None:
    """If all seeds agree, the better model is named, by the direction of the score."""
    assert compare([0.9, 0.91, 0.92], [0.8, 0.81, 0.83]).better == "big"
    assert compare([0.9, 0.91, 0.92], [0.8, 0.81, 0.83], greater=False).better == "small"
    text = compare([0.9, 0.91, 0.92], [0.8, 0.81, 0.83]).summary()
    assert "big 91.00% ± 1.00%" in text
    assert text.endswith("big is better")


def test_noise_is_not_called_a_gain() -> None:
    """The interval contains zero, or there is one seed, or no difference: no claim is made."""
    noisy = compare([0.9, 0.8, 0.95], [0.85, 0.85, 0.85])
    assert noisy.better is None
    assert "inconclusive; about " in noisy.summary()
    assert compare([0.9], [0.1]).better is None
    assert "one seed is inconclusive" in compare([0.9], [0.1]).summary()
    assert compare([0.9, 0.9], [0.9, 0.9]).better is None


def test_the_interval_is_students() -> None:
    """Mean and width of the paired differences use scipy's quantiles for any number of seeds."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 31, 32, 40, 61, 121, 1000):
        first, second = rng.random(count), rng.random(count)
        interval = compare(list(first), list(second)).interval
        assert interval is not None
        gaps = first - second
        reach = stats.t.ppf(0.975, count - 1) * gaps.std(ddof=1) / math.sqrt(count)
        assert interval[0] == pytest.approx(gaps.mean() - reach, rel=1e-9)
        assert interval[1] == pytest.approx(gaps.mean() + reach, rel=1e-9)


def test_the_interval_covers_the_truth_as_often_as_stated() -> None:
    """Two equal models are called different in one of twenty comparisons."""
    rng = np.random.default_rng(1)
    pairs = rng.normal(0, 1, (2000, 2, 4))
    wrong = sum(compare(list(a), list(b)).better is not None for a, b in pairs)
    # 100 are expected; the deviation of such a count is 9.7.
    assert 60 < wrong < 140


def test_the_stated_number_of_seeds_suffices() -> None:
    """The least number whose interval, of equal mean and deviation, excludes zero."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    told = 0
    for count in (2, 3, 5, 8) * 10:
        first, second = rng.normal(0.5, 1, count), rng.normal(0, 1, count)
        found = compare(list(first), list(second))
        gaps = first - second
        ratio = abs(gaps.mean()) / gaps.std(ddof=1)

        def clear(n: int, ratio: float = ratio) -> bool:
            return bool(stats.t.ppf(0.975, n - 1) / math.sqrt(n) < ratio)

        if found.enough is None:
            assert not clear(1000)
            continue
        assert clear(found.enough)
        assert found.enough == 2 or not clear(found.enough - 1)
        told += found.better is None
        if found.better is None:
            assert found.enough > count
            assert f"about {found.enough} seeds would" in found.summary()
    assert told > 5
    assert compare([0.9, 0.9], [0.9, 0.9]).enough is None
    assert "1,000 seeds would hardly suffice" in compare([0.9, 0.9], [0.9, 0.9]).summary()
