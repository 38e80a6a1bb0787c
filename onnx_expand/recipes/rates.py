"""Schedules of the learning rate, as factors of the given rate."""

from __future__ import annotations

import math

__all__ = ["cosine", "one_cycle", "poly", "restarts", "step"]

# torch's OneCycleLR: the fraction of steps in which the rate grows, the initial rate as a fraction
# of the maximum, and the final rate as a fraction of the initial one.
_GROWING, _FIRST, _LAST = 0.3, 1 / 25, 1e-4


def step(epoch: float, epochs: int, milestones: tuple[int, ...], gamma: float) -> float:
    """Multiply by gamma at each milestone, or at each third of the epochs if there are none."""
    if milestones:
        return float(gamma ** sum(epoch >= milestone for milestone in milestones))
    return float(gamma ** int(3 * math.floor(epoch) // epochs))


def cosine(share: float) -> float:
    """Decrease from 1 to 0 along half a cosine as the share of the time goes from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def poly(share: float, power: float) -> float:
    """Return a power of the remaining share of the time."""
    return float((1 - share) ** power)


def restarts(epoch: float, period: float) -> float:
    """Restart half a cosine in each period, as torch's CosineAnnealingWarmRestarts."""
    return cosine(math.fmod(epoch, period) / period)


def one_cycle(epoch: float, epochs: int, steps: int) -> float:
    """Increase to 1 and decrease to nearly 0 along half cosines, as torch's OneCycleLR.

    Args:
        epoch: Epochs done, with a fraction for steps.
        epochs: Epochs of the run.
        steps: Steps in an epoch; 0 for continuous time.
    """
    total = epochs * steps
    # torch counts from the first step to the last one.
    now, end = (epoch * steps, total - 1) if total > 1 else (epoch, float(epochs))
    top = _GROWING * total - 1 if total > 1 else _GROWING * epochs
    if now <= top:
        return 1 + (_FIRST - 1) * cosine(now / top) if top > 0 else 1.0
    low = _FIRST * _LAST
    return low + (1 - low) * cosine(min(1.0, (now - top) / (end - top)))
