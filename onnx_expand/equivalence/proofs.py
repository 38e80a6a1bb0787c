"""Proofs that two affine parts have the same weights, from independent Gaussian inputs.

Let D be the difference of the two parts' matrices, d one of its rows, z standard normal. Then
d.z is normal with deviation |d|, and over k independent probes the mean square q of d.z is |d|^2
times a chi-square of k degrees, divided by k. A row whose norm is more than sqrt(q / y) passes
with a probability of at most (y e^(1 - y))^(k/2), by Chernoff's bound (Vershynin,
High-Dimensional Probability, 2018, section 2.3). So the y that makes this the doubt that is left,
divided by the number of rows, gives the statement: no row is off by more than sqrt(q / y) in
norm, hence no weight is off by more. What is added to the products is compared at zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.equivalence.compare import number
from onnx_expand.equivalence.magnitude import Rounding, gamma

__all__ = ["DOUBT", "Evidence", "Proof", "allowances", "conclude", "probes", "small_ball"]

Array = npt.NDArray[np.float64]

DOUBT = 1e-9
"""The probability with which the statement about a part may be wrong."""

_DOUBLE = 2.0**-53
_FEW = 4  # roundings of a weight that was composed in float64
_OWN = 8  # roundings of one that was composed in the model's type,
_PER_ROOT = 2  # besides so many for the root of the number of terms
_SPREAD = 3.0  # between two mean squares over the same probes
_MARGIN = 8.0  # between a bound on one probe and on all of them


@dataclass(frozen=True)
class Proof:
    """What probes say of a part that is affine in both models.

    Attributes:
        deviation: No weight is off by more, with a probability of 1 - 1e-9.
        relative: The same in roundings of the norm of its row: the unit roundoff of the model's
            type, times the norm.
        shift: No bias is off by more.
        detects: A weight or bias that is off by more than this would have been found, as surely.
        probes: How many inputs were drawn at each size.
        sizes: The extents of the inputs, one text for each size.
    """

    deviation: float
    relative: float
    shift: float
    detects: float
    probes: int
    sizes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """This proof as strict JSON types."""
        return {
            "statement": self.statement(),
            "deviation": number(self.deviation),
            "relative_deviation": number(self.relative),
            "shift": number(self.shift),
            "detects": number(self.detects),
            "doubt": DOUBT,
            "probes": self.probes,
            "sizes": list(self.sizes),
        }

    def statement(self) -> str:
        """What is proven, in one sentence."""
        return (
            f"no weight is off by more than {self.deviation:.2g}, with confidence 1 - {DOUBT:g}, "
            f"and no bias by more than {self.shift:.2g}"
        )


@dataclass(frozen=True)
class Evidence:
    """What both parts make of the probes of one size, in float64.

    The first axis is that of the inputs: zeros, the probes, and the sum of the first two.

    Attributes:
        a: Of A.
        b: Of B.
        sizes_a: Of A with all numbers taken absolutely; the last input is that of the two
            probes taken absolutely.
        sizes_b: Of B.
        size: The extents, as text.
    """

    a: Array
    b: Array
    sizes_a: Array
    sizes_b: Array
    size: str


def small_ball(count: int, doubt: float) -> tuple[float, float]:
    """Bounds of a chi-square of `count` degrees, divided by them.

    Returns:
        What it falls short of, and what it exceeds, with a probability of at most `doubt` each.
    """
    target = 2 * math.log(doubt) / count  # of log y + 1 - y
    return _solve(target, 0.0, 1.0), _solve(target, 1.0, 2.0 - 2 * target)


def _solve(target: float, low: float, high: float) -> float:
    rises = low == 0.0
    for _ in range(200):
        middle = (low + high) / 2
        value = math.log(middle) + 1 - middle if middle > 0 else -math.inf
        if (value < target) == rises:
            low = middle
        else:
            high = middle
    return low if rises else high


def allowances(a: Rounding, b: Rounding) -> tuple[float, float]:
    """By how much, relative to its terms, a weight of B may differ from one of A.

    Returns:
        With a few roundings of its own, which is what is proven, and with those of composing it
        in the model's type, beyond which it is another weight. The errors of sums of n terms grow
        with the root of n (Higham and Mary, 2019).
    """
    unit = max(a.unit, b.unit)
    return _FEW * unit, (_OWN + _PER_ROOT * math.sqrt(a.terms + b.terms)) * unit


def probes(
    shapes: Mapping[str, Sequence[int]], count: int, seed: Sequence[int]
) -> dict[str, Array]:
    """For each input zeros, `count` independent Gaussian arrays, and the sum of the first two."""
    rng = np.random.default_rng(list(seed))
    found = {}
    for name, shape in sorted(shapes.items()):
        drawn = rng.standard_normal((count, *shape))
        found[name] = np.concatenate([np.zeros((1, *shape)), drawn, drawn[:1] + drawn[1:2]])
    return found


def magnitudes(drawn: Mapping[str, Array]) -> dict[str, Array]:
    """The same inputs, the last of them large enough for any sign: |z1| + |z2|."""
    found = {}
    for name, array in drawn.items():
        found[name] = array.copy()
        found[name][-1] = np.abs(array[1]) + np.abs(array[2])
    return found


@dataclass(frozen=True)
class Finding:
    """What probing a part found.

    Attributes:
        proof: What is proven, if anything is.
        fault: What differs, empty if nothing does.
        reason: Why nothing is proven and nothing differs.
    """

    proof: Proof | None = None
    fault: str = ""
    reason: str = ""


def conclude(
    evidence: Sequence[Evidence], a: Rounding, b: Rounding, slack: float = 1.0
) -> Finding:
    """What the probes of all sizes say.

    Args:
        evidence: One for each size.
        a: What the numbers of A's part went through.
        b: What those of B's did.
        slack: How many times what rounding explains a difference may be.
    """
    count = len(evidence[0].a) - 2
    rows = sum(one.a[0].size for one in evidence)
    low, _ = small_ball(count, DOUBT / max(1, rows))
    few, most = allowances(a, b)
    worst = _Worst(math.sqrt(1 / low))
    # Two roundings more are those of the sum of two probes, and of what is made of results.
    arithmetic = _MARGIN * (gamma(a.terms + 2, _DOUBLE) + gamma(b.terms + 2, _DOUBLE))
    for one in evidence:
        if any(x.shape != one.a.shape for x in (one.b, one.sizes_a, one.sizes_b)):
            text = f"it has extents {list(one.a.shape[1:])} in A and {list(one.b.shape[1:])} in B"
            return Finding(fault=f"{text} at {one.size}")
        sizes = np.maximum(one.sizes_a, one.sizes_b)
        if not all(np.isfinite(x).all() for x in (one.a, one.b, sizes)):
            return Finding(reason="its results are not finite in float64")
        own = arithmetic * sizes[-1] + float(np.finfo(np.float64).tiny)
        for letter, y in (("A", one.a), ("B", one.b)):
            if np.any(np.abs(y[-1] - y[1] - y[2] + y[0]) > 4 * own):
                return Finding(reason=f"it is not affine in {letter} at {one.size}")
        fault = worst.add(one, sizes, own, few, slack * most)
        if fault:
            return Finding(fault=fault)
    unit = max(a.unit, b.unit)
    relative = worst.relative / unit if unit else 0.0
    if worst.beyond > 1:
        return Finding(
            reason=f"a weight or bias is off by up to {max(worst.deviation, worst.shift):.2g}, "
            "which rounding weights does not explain; composing them in the model's type does"
        )
    texts = tuple(one.size for one in evidence)
    return Finding(Proof(worst.deviation, relative, worst.shift, worst.detects, count, texts))


@dataclass
class _Worst:
    """The largest of each figure over all outputs and sizes so far.

    Attributes:
        certain: By what a root mean square is multiplied to be a bound that holds for certain.
        beyond: The largest deviation, in units of what a proof allows.
    """

    certain: float
    deviation: float = 0.0
    relative: float = 0.0
    shift: float = 0.0
    detects: float = 0.0
    beyond: float = 0.0

    def add(self, one: Evidence, sizes: Array, slack: Array, few: float, most: float) -> str:
        """Take in one size; what differs there, if anything does."""
        off = one.b - one.a
        shift = np.abs(off[0])
        gap = np.sqrt(np.mean(np.square(off[1:-1] - off[0]), axis=0))
        norm = np.sqrt(np.mean(np.square(sizes[1:-1] - sizes[0]), axis=0))
        bound = self.certain * (gap + slack)
        self.deviation = max(self.deviation, _largest(bound))
        self.shift = max(self.shift, _largest(shift + slack))
        share = np.divide(bound, norm, out=np.zeros_like(bound), where=norm > 0)
        self.relative = max(self.relative, _largest(share))
        limit = few * _SPREAD * norm + slack
        self.detects = max(self.detects, _largest(self.certain * (limit + slack)))
        biases = few * sizes[0] + slack
        self.detects = max(self.detects, _largest(biases + slack))
        self.beyond = max(self.beyond, _largest(gap / limit), _largest(shift / biases))
        for found, allowed, text in (
            (shift, most * sizes[0] + slack, "a bias"),
            (gap, most * _SPREAD * norm + slack, "a weight"),
        ):
            excess = found / allowed
            if np.any(excess > 1):
                at = np.unravel_index(int(np.argmax(excess)), excess.shape)
                return (
                    f"{text} of it is off by about {float(found[at]):.2g} at "
                    f"{[int(i) for i in at]} of an input of {one.size}, "
                    f"{float(excess[at]):.2g} times what rounding explains"
                )
        return ""


def _largest(array: Array) -> float:
    return float(np.max(array, initial=0.0))


def chunks(drawn: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The inputs one by one, for parts that do not take them side by side."""
    for place in range(len(next(iter(drawn.values())))):
        yield {name: array[place] for name, array in drawn.items()}
