"""Prove with independent Gaussian inputs that two affine parts have the same weights.

Let D be the difference of the two parts' matrices, d one of its rows and z standard normal. Then
d.z is normal with standard deviation |d|, and over k independent probes the mean square q of d.z
is |d|^2 times a chi-square variable of k degrees of freedom, divided by k. By Chernoff's bound, a
row whose norm exceeds sqrt(q / y) passes with a probability of at most (y e^(1 - y))^(k/2)
(Vershynin, High-Dimensional Probability, 2018, section 2.3). Choosing y so that this equals the
allowed doubt, divided by the number of rows, proves that no row of D has a norm above sqrt(q / y),
hence that no weight differs by more. The bias is compared at the input zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.documents import table
from onnx_expand.equivalence.parts.magnitude import Rounding, gamma

__all__ = ["DOUBT", "Evidence", "Proof", "allowances", "conclude", "probes", "small_ball"]

Array = npt.NDArray[np.float64]

DOUBT = 1e-9
"""The probability with which the statement about a part may be wrong."""

_DOUBLE = 2.0**-53
_FEW = 4  # roundings of a weight that was composed in float64
_OWN = 8  # roundings of a weight that was composed in the model's type,
_PER_ROOT = 2  # plus this many per square root of the number of terms
_SPREAD = 3.0  # between two mean squares over the same probes
_MARGIN = 8.0  # between a bound on one probe and on all of them


@dataclass(frozen=True)
class Proof:
    """The statement that probes prove about a part that is affine in both models.

    Attributes:
        deviation: The largest possible difference of a weight, with a probability of 1 - 1e-9.
        relative: The same as a multiple of unit roundoff times the norm of the weight's row.
        shift: The largest possible difference of a bias.
        detects: A weight or bias that differs by more would have been found, as surely.
        probes: The number of inputs drawn at each size.
        sizes: The extents of the inputs, one text for each size.
    """

    deviation: float
    relative: float
    shift: float
    detects: float
    probes: int
    sizes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as strict JSON types."""
        own = table(self)
        relative = own.pop("relative")
        return {
            "statement": self.statement(), "doubt": DOUBT, "relative_deviation": relative, **own
        }  # fmt: skip

    def statement(self) -> str:
        """Return the statement in one sentence."""
        return (
            f"no weight is off by more than {self.deviation:.2g}, with confidence 1 - {DOUBT:g}, "
            f"and no bias by more than {self.shift:.2g}"
        )


@dataclass(frozen=True)
class Evidence:
    """The float64 results of both parts on the probes of one size.

    The first axis contains the inputs: zeros, the probes, and the sum of the first two probes.

    Attributes:
        a: The results of A.
        b: The results of B.
        sizes_a: The results of A with absolute values; the last input is |z1| + |z2| for the first
            two probes.
        sizes_b: The same of B.
        size: The extents, as text.
    """

    a: Array
    b: Array
    sizes_a: Array
    sizes_b: Array
    size: str


def small_ball(count: int, doubt: float) -> tuple[float, float]:
    """Return bounds of a chi-square variable of `count` degrees of freedom, divided by `count`.

    Returns:
        The value that it falls below, and the one that it exceeds, each with a probability of at
        most `doubt`.
    """
    target = 2 * math.log(doubt) / count  # the value of log y + 1 - y
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
    """Return the allowed relative difference between weights of A and B.

    Returns:
        The difference for a few roundings, which is what is proven, and for the roundings of
            composing the weight in the model's type, beyond which it is a different weight. The
            errors of sums of n terms grow with the square root of n (Higham and Mary, 2019).
    """
    unit = max(a.unit, b.unit)
    return _FEW * unit, (_OWN + _PER_ROOT * math.sqrt(a.terms + b.terms)) * unit


def probes(
    shapes: Mapping[str, Sequence[int]], count: int, seed: Sequence[int]
) -> dict[str, Array]:
    """Return zeros, `count` independent Gaussian arrays and the sum of the first two per input."""
    rng = np.random.default_rng(list(seed))
    found = {}
    for name, shape in sorted(shapes.items()):
        drawn = rng.standard_normal((count, *shape))
        found[name] = np.concatenate([np.zeros((1, *shape)), drawn, drawn[:1] + drawn[1:2]])
    return found


def magnitudes(drawn: Mapping[str, Array]) -> dict[str, Array]:
    """Return the same inputs, except that the last is an upper bound for any sign: |z1| + |z2|."""
    found = {}
    for name, array in drawn.items():
        found[name] = array.copy()
        found[name][-1] = np.abs(array[1]) + np.abs(array[2])
    return found


@dataclass(frozen=True)
class Finding:
    """The outcome of probing a part."""

    proof: Proof | None = None
    fault: str = ""
    reason: str = ""


def conclude(
    evidence: Sequence[Evidence], a: Rounding, b: Rounding, slack: float = 1.0
) -> Finding:
    """Conclude from the probes of all sizes.

    Args:
        evidence: The results at each size.
        a: The roundings in A's part.
        b: The roundings in B's part.
        slack: The allowed difference as a multiple of the one that rounding explains.
    """
    count = len(evidence[0].a) - 2
    rows = sum(one.a[0].size for one in evidence)
    low, _ = small_ball(count, DOUBT / max(1, rows))
    few, most = allowances(a, b)
    worst = _Worst(math.sqrt(1 / low))
    # Two more roundings come from the sum of two probes and from the arithmetic on the results.
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
        certain: The factor that turns a root mean square into a bound that holds with confidence.
        beyond: The largest deviation as a multiple of the one that a proof allows.
    """

    certain: float
    deviation: float = 0.0
    relative: float = 0.0
    shift: float = 0.0
    detects: float = 0.0
    beyond: float = 0.0

    def add(self, one: Evidence, sizes: Array, slack: Array, few: float, most: float) -> str:
        """Add the results at one size; return the difference there, if there is one."""
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
    """Yield the inputs one by one, for parts that cannot process them side by side."""
    for place in range(len(next(iter(drawn.values())))):
        yield {name: array[place] for name, array in drawn.items()}
