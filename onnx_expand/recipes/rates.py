"""Learning rates over time, as factors of the rate that was given."""

from __future__ import annotations

import math

__all__ = ["cosine", "one_cycle", "poly", "restarts", "step"]

# torch's OneCycleLR: the share of the steps in which the rate grows, from which share of the
# highest, and to which share of that it falls at the end.
_GROWING, _FIRST, _LAST = 0.3, 1 / 25, 1e-4


def step(epoch: float, epochs: int, milestones: tuple[int, ...], gamma: float) -> float:
    """Times gamma at each milestone; at each third of the epochs where there are none."""
    if milestones:
        return float(gamma ** sum(epoch >= milestone for milestone in milestones))
    return float(gamma ** int(3 * math.floor(epoch) // epochs))


def cosine(share: float) -> float:
    """Half a cosine, from 1 down to 0 as the share of the time goes from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def poly(share: float, power: float) -> float:
    """A power of the time that is left."""
    return float((1 - share) ** power)


def restarts(epoch: float, period: float) -> float:
    """Half a cosine in each period, as torch's CosineAnnealingWarmRestarts."""
    return cosine(math.fmod(epoch, period) / period)


def one_cycle(epoch: float, epochs: int, steps: int) -> float:
    """Up to 1 and down to nearly 0 along half cosines, as torch's OneCycleLR.

    Args:
        epoch: Epochs that are done, with a fraction for steps.
        epochs: Of the whole run.
        steps: Steps in an epoch; 0 where time is continuous.
    """
    total = epochs * steps
    # torch counts from the first step to the last one.
    now, end = (epoch * steps, total - 1) if total > 1 else (epoch, float(epochs))
    top = _GROWING * total - 1 if total > 1 else _GROWING * epochs
    if now <= top:
        return 1 + (_FIRST - 1) * cosine(now / top) if top > 0 else 1.0
    low = _FIRST * _LAST
    return low + (1 - low) * cosine(min(1.0, (now - top) / (end - top)))
