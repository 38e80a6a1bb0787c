"""Run the differing parts of two models side by side and compare them with their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.compare import FACTOR
from onnx_expand.equivalence.parts.cells import Cell, is_symbolic, known_from_extents
from onnx_expand.equivalence.parts.cutting import cut, target
from onnx_expand.equivalence.parts.magnitude import Rounding
from onnx_expand.equivalence.parts.probing import AffinePart, PreparedPair, prove
from onnx_expand.equivalence.parts.proofs import Finding
from onnx_expand.equivalence.parts.region import Region
from onnx_expand.equivalence.parts.sides import Side
from onnx_expand.graph.facts import Facts
from onnx_expand.progress import tell
from onnx_expand.runtimes.base import Tensors
from onnx_expand.runtimes.named import named_runtime

__all__ = [
    "Array",
    "Pair",
]


Array = npt.NDArray[Any]


_WEIGHTS = 1 << 26  # elements, each stored four times in float64 while parts are probed


@dataclass(frozen=True)
class Pair:
    """Two models whose parts are compared on the values that reach them in A."""

    a: ir.Model
    b: ir.Model
    facts: Facts
    values: Tensors
    provider: str
    slack: float

    def regions(self, cells: Mapping[str, Cell], probe: bool) -> dict[str, Region]:
        """Compare cells, all in one run."""
        found = {
            name: "it reads values of the graph that are no numbers"
            for name, cell in cells.items()
            if not cell.inputs <= self.values.keys()
        }
        bounded: dict[str, tuple[Rounding, Rounding]] = {}
        run = {name: cell for name, cell in cells.items() if name not in found}
        measured: dict[str, Region] = {}
        if run:
            tell(f"comparing {len(run)} parts")
            left, right = (Side(cut(model, run, self.values)) for model in (self.a, self.b))
            for name in run:
                pair = left.roundings[target(name)], right.roundings[target(name)]
                obstacle = next((text for text in pair if isinstance(text, str)), "")
                obstacle = obstacle or _coarser(pair, self.values[name].dtype)
                if obstacle:
                    found[name] = obstacle
                else:
                    bounded[name] = cast("tuple[Rounding, Rounding]", pair)
        if bounded:
            args = (bounded, self.values, self.provider, self.slack)
            measured = _measure(left, right, run, *args)
        if bounded and probe:
            findings = self._probe((left, right), run, bounded)
            measured = {
                name: replace(region, proof=f.proof, fault=f.fault, reason=f.reason)
                for name, region in measured.items()
                for f in [findings[name]]
            }
        return {
            name: measured.get(name)
            or Region(name, cell.nodes_a, cell.nodes_b, self.provider, obstacle=found[name])
            for name, cell in cells.items()
        }

    def _probe(
        self,
        sides: tuple[Side, Side],
        cells: Mapping[str, Cell],
        bounded: Mapping[str, tuple[Rounding, Rounding]],
    ) -> dict[str, Finding]:
        """Probe the cells that are affine in both models; report why the others are not."""
        settled = known_from_extents(self.a, self.facts)
        found: dict[str, Finding] = {}
        parts: dict[str, AffinePart] = {}
        for name, pair in bounded.items():
            both = sides[0].dependences[target(name)], sides[1].dependences[target(name)]
            names = cells[name].inputs - settled
            reads = [n for n in names if self.values[n].dtype.kind != "f"]
            reason = next((one.obstacle for one in both if one.obstacle), "")
            if reads:
                reason = f"it reads '{reads[0]}', whose numbers are no extents"
            if reason:
                found[name] = Finding(reason=reason)
                continue
            size = sum(side.work[target(name)] for side in sides)
            is_open = is_symbolic(self.a, self.facts, cells[name].inputs)
            parts[name] = AffinePart(cells[name], both, pair, size, is_open, self.slack)
        if parts and sum(side.weights for side in sides) > _WEIGHTS:
            why = Finding(reason="the weights are too many to probe")
            return found | dict.fromkeys(parts, why)
        if parts:
            (exact_a, sizes_a), (exact_b, sizes_b) = (side.sessions() for side in sides)
            found |= prove(parts, PreparedPair(exact_a, exact_b, sizes_a, sizes_b), self.values)
        return found


def _coarser(pair: tuple[Rounding | str, Rounding | str], dtype: np.dtype[Any]) -> str:
    """Return why B's own rounding does not count, if it is to a coarser type than A's."""
    a, b = (rounding.unit for rounding in pair if isinstance(rounding, Rounding))
    own = float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" else 0.0
    return "B rounds to a coarser type than A" if b > max(a, own) else ""


def _measure(
    left: Side,
    right: Side,
    cells: Mapping[str, Cell],
    bounded: Mapping[str, tuple[Rounding, Rounding]],
    values: Tensors,
    provider: str,
    slack: float,
) -> dict[str, Region]:
    """Run the cells that have a bound, all in one run."""
    for side in (left, right):
        side.keep(bounded)
    truth = left.run_exactly(values)
    others = right.run(values, named_runtime(provider))
    right.load_exactly()
    units = (rounding.unit for pair in bounded.values() for rounding in pair)
    # A bound without rounding does not grow with the unit.
    unit = min(filter(None, units), default=2.0**-53)
    magnitudes = [side.run_absolutely(values, unit) for side in (left, right)]
    found = {}
    for name, (rounding_a, rounding_b) in bounded.items():
        key = target(name)
        if truth[key].shape != others[key].shape:
            cell = cells[name]
            found[name] = Region(name, cell.nodes_a, cell.nodes_b, provider, np.inf, 0.0, np.inf)
            continue
        # One more rounding accounts for B's weights.
        with_weights = Rounding(rounding_b.terms + 1, rounding_b.unit)
        bound = rounding_a.gamma * magnitudes[0][key] + with_weights.gamma * magnitudes[1][key]
        bound = slack * bound + float(np.finfo(others[key].dtype).tiny)
        arrays = truth[key], values[name], others[key]
        found[name] = _region(cells[name], provider, arrays, bound, slack)
    return found


def _region(
    cell: Cell, provider: str, arrays: tuple[Array, Array, Array], bound: Array, slack: float
) -> Region:
    """Compare the results of one part with its bound.

    Args:
        cell: The part.
        provider: The provider on which B's part ran.
        arrays: The results in float64, in A and in B.
        bound: The largest distance of B's result from float64 that rounding in A and B explains.
        slack: The allowed error as a multiple of the bound, or of A's own error.
    """
    x, a, y = arrays
    nodes = (cell.tensor, cell.nodes_a, cell.nodes_b, provider)
    if x.shape != y.shape:
        return Region(*nodes, np.inf, 0.0, np.inf)
    if provider not in {"cpu", "reference"} and bound.size:
        # Kernels that transform their windows (Winograd, FFT) mix the errors of neighbours.
        bound = np.full(bound.shape, np.max(bound))
    with np.errstate(invalid="ignore"):
        error = np.abs(x - y.astype(np.float64))
    # Where A overflows, B may overflow or not.
    known = np.isfinite(x) & np.isfinite(bound) & (bound < np.finfo(y.dtype).max)
    if not known.any():
        return Region(*nodes)
    error = np.where(known & ~np.isfinite(error), np.inf, np.where(known, error, 0.0))
    ratio = np.divide(error, bound, out=np.zeros_like(error), where=known)
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    scale = float(np.max(np.abs(x), where=known, initial=0.0))
    with np.errstate(invalid="ignore"):
        floor = float(np.max(np.abs(x - a.astype(np.float64)), where=known, initial=0.0))
    allowed = FACTOR * slack * max(floor, float(np.finfo(y.dtype).eps) * scale)
    largest = float(np.max(error))
    strain = largest / allowed if allowed else float(np.inf if largest else 0.0)
    vague = float(np.median(bound[known])) > scale
    numbers = float(error[at]), float(bound[at]), float(ratio[at])
    return Region(*nodes, *numbers, strain=strain, vague=vague)
