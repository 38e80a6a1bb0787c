"""Compare each part that differs between two models separately with its forward error bound.

The rounding errors of a deep network can hide differences at its outputs. Therefore every part in
which the two models differ is also run alone, on the values that reach it in A. Its result may
differ from A's in float64 by at most the rounding errors of A and B. This is a bound, not an
estimate: a part that exceeds it computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.compare import distance, largest
from onnx_expand.equivalence.parts.cells import (
    Cell,
    all_cells,
    common_tensors,
    dependent,
    differing_cells,
    inlined,
    unlike_ends,
)
from onnx_expand.equivalence.parts.cutting import cut, exposed
from onnx_expand.equivalence.parts.pair import Array, Pair
from onnx_expand.equivalence.parts.region import Region
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.facts import Facts
from onnx_expand.runtimes.base import Runtime, Tensors
from onnx_expand.runtimes.named import named_runtime
from onnx_expand.runtimes.reference import Reference

__all__ = [
    "Examination",
    "are_close",
    "examine",
    "run_inner",
]


# Tensors of a common name that differ by more, relative to their largest value, do not correspond.
_STRANGERS = 0.01
# A difference this small relative to the operands of a subtraction does not count.
_CANCELLED = 1e-5
_SEEN = 1e-3
_WIDER = 4  # widenings of a part


def run_inner(
    model: ir.Model, names: Mapping[str, ir.DataType], feeds: Tensors, runtime: Runtime
) -> Tensors:
    """Run a model with inner tensors as additional outputs.

    Raises:
        UnsupportedError: The runtime cannot run the model this way.
    """
    return runtime.session(exposed(model, names), "the inner tensors").run(feeds)


@dataclass(frozen=True)
class Examination:
    """The result of comparing two models part by part.

    Attributes:
        regions: The parts in which they differ.
        rest: Why the models also differ outside these parts; empty if all other nodes are equal.
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
    """Compare the parts in which two models differ, and report other differences.

    Tensors of a common name with different values are not taken as corresponding: the nodes around
    them form one part.

    Args:
        a: The reference model.
        b: The model to compare.
        feeds: An array for every input.
        providers: The providers of A and B.
        slack: The allowed error as a multiple of the bound.
        probe: Whether to probe each affine part with random inputs, too.

    Returns:
        The parts in A's order; none if the graphs have equal nodes.

    Raises:
        UnsupportedError: A runtime cannot run a model in parts.
    """
    a, b = inlined(a), inlined(b)
    facts = Facts(a)
    types = common_tensors(a, b, facts)
    values = dict(run_inner(a, types, feeds, named_runtime(providers[0])))
    others = run_inner(b, types, feeds, named_runtime(providers[1]))
    shared = types.keys() & values.keys() & others.keys()
    same = {name for name in shared if are_close(values[name], others[name], _STRANGERS)}
    ends = {value.name or "" for value in a.graph.outputs}
    known = same | (ends & shared)
    # Tensors of different shapes do not correspond, and B cannot be run on A's.
    names = known | {n for n in shared if _fits(values[n], others[n])}
    values |= dict(feeds)
    others_of_name = names - known
    zeros = _cancelled(a, others_of_name, values, others)
    pair = Pair(a, b, facts, values, providers[1], slack)
    handed = _handed_on(pair, names, others_of_name - zeros)
    found = _compared(pair, known | zeros | handed, probe)
    wrong = {region.tensor for region in found.regions if not region.holds}
    wrong = {n for n in wrong - known if not _matters(pair, known | zeros | handed, n, others[n])}
    bounds = known | (zeros | handed) - wrong
    found = _compared(pair, bounds, probe) if wrong else found
    return _around(pair, bounds, found, same - ends)


def _around(pair: Pair, bounds: Set[str], found: Examination, near: Set[str]) -> Examination:
    """Widen failing parts around tensors that differ slightly, if the wider parts are proven.

    A small shift that A adds before a tensor and B after it leads to two different tensors of one
    name. The part around both is one map; if it is proven, the models do not differ there.
    """
    strangers = near & {region.tensor for region in found.regions if not region.holds}
    if not strangers:
        return found
    before = set(differing_cells(pair.a, pair.b, bounds))
    cells = differing_cells(pair.a, pair.b, bounds - strangers)
    wider = {cell.tensor: cell for cell in cells if cell not in before}
    if any(pair.values[name].dtype.kind != "f" for name in wider):
        return found
    fresh = pair.regions(wider, True)
    if not all(region.holds and region.proof is not None for region in fresh.values()):
        return found
    known = {region.tensor: region for region in found.regions} | fresh
    return replace(found, regions=tuple(known[c.tensor] for c in cells if c.tensor in known))


def _handed_on(pair: Pair, names: Set[str], strangers: Set[str]) -> set[str]:
    """Return the tensors of a common name and different values that both models process alike.

    Their consumers are equal in both or proven equal, and so are the consumers of those, so that
    nothing downstream compensates for the difference.
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


def _matters(pair: Pair, bounds: Set[str], name: str, other: Array) -> bool:
    """Return whether the common consumers of a tensor distinguish its values in A and B.

    A normalization ignores a shift, and Shape ignores values. The consumers do not distinguish
    them if their float64 results are equal for both values, but differ for an equally large random
    change.
    """
    own = pair.values[name]
    cells = {
        cell.tensor: cell
        for cell in all_cells(pair.a, pair.b, bounds)
        if name in cell.inputs <= pair.values.keys()
    }
    if not cells or not _fits(own, other):
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


def _compared(pair: Pair, bounds: Set[str], probe: bool) -> Examination:
    """Compare the parts between tensors that both models have."""
    parts = differing_cells(pair.a, pair.b, bounds)
    # Tensors other than floats must be equal, which the comparison of outputs checks.
    cells = {c.tensor: c for c in parts if pair.values[c.tensor].dtype.kind == "f"}
    exact = [f"'{c.tensor}' is not a tensor of floats" for c in parts if c.tensor not in cells]
    ends = unlike_ends(pair.a, pair.b, bounds)
    exact += [f"output '{name}' is not among them" for name in ends]
    found = pair.regions(cells, probe)
    for name, region in found.items():
        if region.fault and not cells[name].alike:
            found[name] = _settled(pair, region, cells[name], bounds)
    return Examination(tuple(found.values()), next(iter(exact), ""))


def _settled(pair: Pair, region: Region, cell: Cell, bounds: Set[str]) -> Region:
    """Settle the region of a cell whose nodes read different tensors in the two models.

    Such tensors may depend on each other and are not independent inputs. The cell is widened until
    both models read the same tensors; otherwise it is not proven.
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
    """Return the tensors whose difference is negligible relative to the tensors they depend on."""
    found = set()
    for node in a.graph:
        read = [values[v.name or ""] for v in node.inputs if v is not None and v.name in values]
        floats = [array for array in read if array.dtype.kind == "f"]
        scale = max((float(np.max(np.abs(array), initial=0.0)) for array in floats), default=0.0)
        for name in {out.name or "" for out in node.outputs} & names:
            x, y = values[name], others[name]
            alike = _fits(x, y) and x.dtype.kind == "f"
            if alike and distance(x, y) <= _CANCELLED * scale < np.inf:
                found.add(name)
    return found


def _fits(x: Array, y: Array) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype


def are_close(x: Array, y: Array, share: float) -> bool:
    """Return whether two tensors differ by at most a fraction of the first one's largest value."""
    if not _fits(x, y):
        return False
    if x.dtype.kind != "f" or x.size == 0:
        return bool(np.array_equal(x, y))
    with np.errstate(invalid="ignore"):
        gap = np.max(np.abs(x.astype(np.float64) - y), where=np.isfinite(x - y), initial=0.0)
    return bool(gap <= share * largest(x))
