"""Each stretch that differs between two models, by itself, held to its forward error bound.

The end of a deep network forgives what its rounding hides. So every part in which the two models
differ is run alone besides, on the values that reach it in A, and its result may be no further
from A's in float64 than rounding in A and in B can take them. That is a bound, no estimate: a
part beyond it computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.cells import (
    Cell,
    all_cells,
    common_tensors,
    cut,
    dependent,
    differing_cells,
    inlined,
    is_symbolic,
    known_from_extents,
    target,
    unlike_ends,
)
from onnx_expand.equivalence.compare import distance, number
from onnx_expand.equivalence.magnitude import (
    Rounding,
)
from onnx_expand.equivalence.probing import Bench, Task, prove
from onnx_expand.equivalence.proofs import Finding, Proof
from onnx_expand.equivalence.sides import Side
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.facts import Facts
from onnx_expand.progress import tell
from onnx_expand.runtimes.base import Runtime, Tensors
from onnx_expand.runtimes.named import named_runtime
from onnx_expand.runtimes.reference import Reference

__all__ = [
    "Examination",
    "Grade",
    "Region",
    "are_close",
    "compare_regions",
    "examine",
    "run_inner",
]

Array = npt.NDArray[Any]

# Tensors of one name that are this far apart, by their largest value, are not the same one.
_STRANGERS = 0.01
# As little as this of the numbers that a tensor is the difference of is no other tensor.
_CANCELLED = 1e-5
_SEEN = 1e-3
_WIDER = 4  # times a part is widened
_WEIGHTS = 1 << 26  # numbers, each held four times in float64 while parts are probed


class Grade(StrEnum):
    """How much is known of a part in which two models differ."""

    PROVEN = "proven"
    """Affine in both, with the same weights up to a stated deviation, and within its bound."""
    TESTED = "tested"
    """Within its forward error bound, on the values that reach it in A."""
    UNCHECKED = "unchecked"
    """Seen through the outputs of the models only."""


@dataclass(frozen=True)
class Region:
    """A part in which two models differ.

    Attributes:
        tensor: What it computes.
        nodes_a: The nodes of A.
        nodes_b: The nodes of B in their place.
        provider: Where B's ran.
        error: The largest distance of B's result from A's in float64, both given the same values.
        bound: What rounding can amount to, where the error is largest by it.
        ratio: The error over the bound; above 1 no rounding explains it.
        obstacle: Why there is no bound, empty if there is one.
        proof: What probes of this part alone prove, if anything.
        fault: What probes of this part alone found to differ, empty if nothing.
        reason: Why nothing is proven, empty if something is.
    """

    tensor: str
    nodes_a: tuple[str, ...]
    nodes_b: tuple[str, ...]
    provider: str
    error: float = 0.0
    bound: float = 0.0
    ratio: float = 0.0
    obstacle: str = ""
    proof: Proof | None = None
    fault: str = ""
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether rounding explains the error, as far as is known."""
        return not self.fault and (bool(self.obstacle) or self.ratio <= 1)

    @property
    def grade(self) -> Grade:
        """What is known of this part."""
        if self.obstacle:
            return Grade.UNCHECKED
        return Grade.TESTED if self.proof is None else Grade.PROVEN

    def summary(self) -> str:
        """The region in one line."""
        nodes = ", ".join(self.nodes_b) or "nothing"
        if self.fault:
            return f"'{self.tensor}', computed by {nodes} in B: {self.fault}"
        return (
            f"'{self.tensor}', computed by {nodes} in B, is {self.error:.2g} off for what reaches "
            f"it in A, where rounding is {self.bound:.2g} at most ({self.provider})"
        )

    def as_dict(self) -> dict[str, Any]:
        """This region as strict JSON types."""
        return {
            "tensor": self.tensor,
            "nodes_a": list(self.nodes_a),
            "nodes_b": list(self.nodes_b),
            "provider": self.provider,
            "error": number(self.error),
            "bound": number(self.bound),
            "ratio": number(self.ratio),
            "obstacle": self.obstacle,
            "grade": str(self.grade),
            "proof": None if self.proof is None else self.proof.as_dict(),
            "fault": self.fault,
            "reason": self.reason,
        }


def run_inner(
    model: ir.Model, names: Mapping[str, ir.DataType], feeds: Tensors, runtime: Runtime
) -> Tensors:
    """Run a model with tensors from within as further outputs.

    Args:
        model: The model, which is not changed.
        names: The tensors and their types.
        feeds: An array for every input.
        runtime: Where to run.

    Raises:
        UnsupportedError: The runtime cannot.
    """
    copy = model.clone()
    known = {value.name or "" for value in copy.graph.outputs}
    for node in copy.graph:
        for out in node.outputs:
            name = out.name or ""
            if name in names and name not in known:
                out.dtype = out.dtype or names[name]
                copy.graph.outputs.append(out)
    return runtime.session(copy, "the inner tensors").run(feeds)


def compare_regions(
    a: ir.Model,
    b: ir.Model,
    feeds: Tensors,
    providers: tuple[str, str],
    slack: float = 1.0,
    *,
    probe: bool = True,
) -> tuple[Region, ...]:
    """Compare the parts in which two models differ.

    Tensors of one name that have other numbers are not taken for the same: what lies around them
    is one part.

    Args:
        a: The model that is right by definition.
        b: The other one.
        feeds: An array for every input.
        providers: Where A and B run.
        slack: How many times its bound an error may be.
        probe: Whether to give each affine part inputs of its own, too.

    Returns:
        The parts in A's order, none where the two are the same node for node.

    Raises:
        UnsupportedError: A runtime cannot run a model in parts.
    """
    return examine(a, b, feeds, providers, slack, probe=probe).regions


@dataclass(frozen=True)
class Examination:
    """What a comparison of two models part by part found.

    Attributes:
        regions: The parts in which they differ.
        rest: Why these are not all in which they differ; empty if all else is node for node the
            same.
    """

    regions: tuple[Region, ...]
    rest: str = ""


def examine(
    a: ir.Model,
    b: ir.Model,
    feeds: Tensors,
    providers: tuple[str, str],
    slack: float = 1.0,
    *,
    probe: bool = True,
) -> Examination:
    """Compare the parts in which two models differ, and see what else does.

    Args and errors are those of `compare_regions`.
    """
    a, b = inlined(a), inlined(b)
    facts = Facts(a)
    types = common_tensors(a, b, facts)
    values = dict(run_inner(a, types, feeds, named_runtime(providers[0])))
    others = run_inner(b, types, feeds, named_runtime(providers[1]))
    names = types.keys() & values.keys() & others.keys()
    same = {name for name in names if are_close(values[name], others[name], _STRANGERS)}
    ends = {value.name or "" for value in a.graph.outputs}
    values |= dict(feeds)
    known = same | (ends & names)
    others_of_name = names - known
    zeros = _cancelled(a, others_of_name, values, others)
    pair = _Pair(a, b, facts, values, providers[1], slack)
    handed = _handed_on(pair, names, others_of_name - zeros)
    found = _compared(pair, known | zeros | handed, probe)
    wrong = {region.tensor for region in found.regions if not region.holds}
    wrong = {n for n in wrong - known if not _matters(pair, known | zeros | handed, n, others[n])}
    return _compared(pair, known | (zeros | handed) - wrong, probe) if wrong else found


def _handed_on(pair: _Pair, names: Set[str], strangers: Set[str]) -> set[str]:
    """Those tensors of one name and other numbers of which both models make the same.

    What reads them is alike in both, or proven, and so is what reads that: nothing behind them
    makes up for what they are apart.
    """
    if not strangers:
        return set()
    unlike = {c.tensor: c for c in differing_cells(pair.a, pair.b, names)}
    readers = {n: c for n, c in unlike.items() if c.inputs & strangers}
    floats = {n: c for n, c in readers.items() if pair.values[n].dtype.kind == "f"}
    proven = {n for n, r in pair.regions(floats, True).items() if r.holds and r.proof is not None}
    left = set(strangers)
    for name, cell in readers.items():
        if name not in proven:
            left -= cell.inputs
    cells = all_cells(pair.a, pair.b, names)
    for cell in reversed(cells):
        if cell.tensor in strangers - left:
            left -= cell.inputs
    return left


def _matters(pair: _Pair, bounds: Set[str], name: str, other: Array) -> bool:
    """Whether what reads a tensor in both models tells the two tensors of this name apart.

    A normalization does not see a shift, nor does Shape see numbers: what it makes of B's tensor
    is in float64 what it makes of A's, and of a tensor as far off at random it is not.
    """
    own = pair.values[name]
    cells = {
        cell.tensor: cell
        for cell in all_cells(pair.a, pair.b, bounds)
        if name in cell.inputs <= pair.values.keys()
    }
    if not cells or own.shape != other.shape or own.dtype != other.dtype:
        return False
    gap = other.astype(np.float64) - own
    drawn = np.random.default_rng(0).permutation(gap.reshape(-1)).reshape(gap.shape)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], gap.shape)
    needed = set[str]().union(*(cell.inputs for cell in cells.values()))
    feeds = {n: pair.values[n].astype(np.float64) if n == name else pair.values[n] for n in needed}
    try:
        session = Reference().session(cut(pair.a, cells, pair.values), "what reads a tensor")
        base, seen, chance = (
            session.run({**feeds, name: feeds[name] + step})
            for step in (0 * gap, gap, drawn * signs)
        )
    except UnsupportedError:
        return False
    return any(
        distance(base[key], seen[key]) > _SEEN * distance(base[key], chance[key]) for key in base
    )


def _compared(pair: _Pair, bounds: Set[str], probe: bool) -> Examination:
    """Compare the parts between tensors that both models have."""
    parts = differing_cells(pair.a, pair.b, bounds)
    # What is no sum of rounded numbers must be the same, which whoever compares the outputs sees.
    cells = {c.tensor: c for c in parts if pair.values[c.tensor].dtype.kind == "f"}
    exact = [f"'{c.tensor}' is no tensor of floats" for c in parts if c.tensor not in cells]
    ends = unlike_ends(pair.a, pair.b, bounds)
    exact += [f"output '{name}' is not among them" for name in ends]
    found = pair.regions(cells, probe)
    for name, region in found.items():
        if region.fault and not cells[name].alike:
            found[name] = _settled(pair, region, cells[name], bounds)
    return Examination(tuple(found.values()), next(iter(exact), ""))


@dataclass(frozen=True)
class _Pair:
    """Two models whose parts are compared on the values that reach them in A."""

    a: ir.Model
    b: ir.Model
    facts: Facts
    values: Tensors
    provider: str
    slack: float

    def regions(self, cells: Mapping[str, Cell], probe: bool) -> dict[str, Region]:
        """Compare cells, all at once."""
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
        """Probe cells that are affine in both models; the others are told why they are not."""
        settled = known_from_extents(self.a, self.facts)
        found: dict[str, Finding] = {}
        tasks: dict[str, Task] = {}
        for name, pair in bounded.items():
            both = [side.forms[target(name)] for side in sides]
            names = cells[name].inputs - settled
            reads = [n for n in names if self.values[n].dtype.kind != "f"]
            reason = next((form.obstacle for form in both if form.obstacle), "")
            if reads:
                reason = f"it reads '{reads[0]}', whose numbers are no extents"
            if reason:
                found[name] = Finding(reason=reason)
                continue
            size = sum(side.work[target(name)] for side in sides)
            is_open = is_symbolic(self.a, self.facts, cells[name].inputs)
            forms = both[0], both[1]
            tasks[name] = Task(cells[name], forms, pair, size, is_open, self.slack)
        if tasks and sum(side.weights for side in sides) > _WEIGHTS:
            why = Finding(reason="the weights are too many to probe")
            return found | dict.fromkeys(tasks, why)
        if tasks:
            (exact_a, sizes_a), (exact_b, sizes_b) = (side.sessions() for side in sides)
            found |= prove(tasks, Bench(exact_a, exact_b, sizes_a, sizes_b), self.values)
        return found


def _settled(pair: _Pair, region: Region, cell: Cell, bounds: Set[str]) -> Region:
    """The region of a cell that one model reads other tensors for than the other.

    These are no independent inputs: one may follow from another. The cell is widened until both
    read the same tensors, or is not proven.
    """
    left = replace(region, fault="", reason="its inputs follow from one another")
    for _ in range(_WIDER):
        gone = dependent(pair.a, cell.inputs) or cell.inputs - cell.shared
        bounds = bounds - gone
        wider = {c.tensor: c for c in all_cells(pair.a, pair.b, bounds)}
        if cell.tensor not in wider or wider[cell.tensor].inputs == cell.inputs:
            return left
        cell = wider[cell.tensor]
        (found,) = pair.regions({cell.tensor: cell}, True).values()
        if found.obstacle:
            return left
        if found.proof is not None or cell.alike:
            return replace(region, proof=found.proof, fault=found.fault, reason=found.reason)
    return left


def _cancelled(a: ir.Model, names: Set[str], values: Tensors, others: Tensors) -> set[str]:
    """Those of some tensors that are apart by what is nothing to the tensors they come from."""
    found = set()
    for node in a.graph:
        read = [values[v.name or ""] for v in node.inputs if v is not None and v.name in values]
        floats = [array for array in read if array.dtype.kind == "f"]
        scale = max((float(np.max(np.abs(array), initial=0.0)) for array in floats), default=0.0)
        for name in {out.name or "" for out in node.outputs} & names:
            x, y = values[name], others[name]
            alike = x.shape == y.shape and x.dtype == y.dtype and x.dtype.kind == "f"
            if alike and distance(x, y) <= _CANCELLED * scale < np.inf:
                found.add(name)
    return found


def are_close(x: Array, y: Array, share: float) -> bool:
    """Whether two tensors differ by at most a share of the largest number of the first."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.dtype.kind != "f" or x.size == 0:
        return bool(np.array_equal(x, y))
    with np.errstate(invalid="ignore"):
        gap = np.max(np.abs(x.astype(np.float64) - y), where=np.isfinite(x - y), initial=0.0)
    scale = np.max(np.abs(x), where=np.isfinite(x), initial=0.0)
    return bool(gap <= share * scale)


def _coarser(pair: tuple[Rounding | str, Rounding | str], dtype: np.dtype[Any]) -> str:
    """Why B's own rounding is no excuse: it is to a type that is coarser than A's."""
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
    """Run the cells that have a bound, all of them at once."""
    for side in (left, right):
        side.keep(bounded)
    truth = left.run_exactly(values)
    others = right.run(values, named_runtime(provider))
    right.load_exactly()
    units = (rounding.unit for pair in bounded.values() for rounding in pair)
    # Where nothing rounds, no bound grows with the unit.
    unit = min(filter(None, units), default=2.0**-53)
    magnitudes = [side.run_absolutely(values, unit) for side in (left, right)]
    found = {}
    for name, (rounding_a, rounding_b) in bounded.items():
        key = target(name)
        if truth[key].shape != others[key].shape:
            cell = cells[name]
            found[name] = Region(name, cell.nodes_a, cell.nodes_b, provider, np.inf, 0.0, np.inf)
            continue
        # One rounding more is that of B's weights.
        with_weights = Rounding(rounding_b.terms + 1, rounding_b.unit)
        bound = rounding_a.gamma * magnitudes[0][key] + with_weights.gamma * magnitudes[1][key]
        bound = slack * bound + float(np.finfo(others[key].dtype).tiny)
        found[name] = _region(cells[name], provider, truth[key], others[key], bound)
    return found


def _region(cell: Cell, provider: str, x: Array, y: Array, bound: Array) -> Region:
    nodes = (cell.tensor, cell.nodes_a, cell.nodes_b, provider)
    if x.shape != y.shape:
        return Region(*nodes, np.inf, 0.0, np.inf)
    if provider not in {"cpu", "reference"} and bound.size:
        # Kernels that transform their windows mix the errors of neighbours.
        bound = np.full(bound.shape, np.max(bound))
    with np.errstate(invalid="ignore"):
        error = np.abs(x - y.astype(np.float64))
    # Where A overflows, so may B, or not.
    known = np.isfinite(x) & np.isfinite(bound) & (bound < np.finfo(y.dtype).max)
    if not known.any():
        return Region(*nodes)
    error = np.where(known & ~np.isfinite(error), np.inf, np.where(known, error, 0.0))
    ratio = np.divide(error, bound, out=np.zeros_like(error), where=known)
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return Region(*nodes, float(error[at]), float(bound[at]), float(ratio[at]))
