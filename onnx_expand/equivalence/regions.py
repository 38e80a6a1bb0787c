"""Each stretch that differs between two models, by itself, held to its forward error bound.

The end of a deep network forgives what its rounding hides. So every part in which the two models
differ is run alone besides, on the values that reach it in A, and its result may be no further
from A's in float64 than rounding in A and in B can take them. That is a bound, no estimate: a
part beyond it computes something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.cells import (
    Cell,
    common_tensors,
    constants_of,
    cut,
    differing_cells,
    is_symbolic,
    keep_outputs,
    known_from_extents,
    target,
)
from onnx_expand.equivalence.compare import number
from onnx_expand.equivalence.linearity import forms, work
from onnx_expand.equivalence.magnitude import (
    Rounding,
    computed_constants,
    make_absolute,
    roundings,
)
from onnx_expand.equivalence.probing import Bench, Task, prove
from onnx_expand.equivalence.proofs import Finding, Proof
from onnx_expand.errors import UnsupportedError
from onnx_expand.runtimes.base import Runtime, Tensors
from onnx_expand.runtimes.ort import OnnxRuntime
from onnx_expand.runtimes.reference import Reference, ReferenceSession
from onnx_expand.values import Facts

__all__ = ["Grade", "Region", "compare_regions", "run_inner"]

Array = npt.NDArray[Any]

# Tensors of one name that are this far apart, by their largest value, are not the same one.
_STRANGERS = 0.01
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
    facts = Facts(a)
    types = common_tensors(a, b, facts)
    values = dict(run_inner(a, types, feeds, OnnxRuntime(providers[0])))
    others = run_inner(b, types, feeds, OnnxRuntime(providers[1]))
    names = types.keys() & values.keys() & others.keys()
    same = {name for name in names if _are_close(values[name], others[name])}
    ends = {value.name or "" for value in a.graph.outputs}
    parts = differing_cells(a, b, same | (ends & names))
    # What is no sum of rounded numbers must be the same, which whoever compares the outputs sees.
    cells = {cell.tensor: cell for cell in parts if values[cell.tensor].dtype.kind == "f"}
    values |= feeds
    found = {
        name: "it reads values of the graph that are no numbers"
        for name, cell in cells.items()
        if not cell.inputs <= values.keys()
    }
    bounded: dict[str, tuple[Rounding, Rounding]] = {}
    run = {name: cell for name, cell in cells.items() if name not in found}
    measured: dict[str, Region] = {}
    if run:
        left, right = (_Side(cut(model, run, values)) for model in (a, b))
        for name in run:
            pair = left.roundings[target(name)], right.roundings[target(name)]
            obstacle = next((text for text in pair if isinstance(text, str)), "")
            if obstacle:
                found[name] = obstacle
            else:
                bounded[name] = cast("tuple[Rounding, Rounding]", pair)
    if bounded:
        measured = _measure(left, right, run, bounded, values, providers[1], slack)
    if bounded and probe:
        findings = _probe(a, facts, (left, right), run, bounded, values)
        measured = {
            name: replace(region, proof=found.proof, fault=found.fault, reason=found.reason)
            for name, region in measured.items()
            for found in [findings[name]]
        }
    return tuple(
        measured.get(name)
        or Region(name, cell.nodes_a, cell.nodes_b, providers[1], obstacle=found[name])
        for name, cell in cells.items()
    )


class _Side:
    """The parts of one model, cut out."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._facts = Facts(model)
        self.roundings = roundings(model, self._facts)
        self.forms = forms(model, self._facts)
        self.work = work(model, self._facts)
        self._sessions: list[ReferenceSession] = []

    @property
    def weights(self) -> int:
        """How many numbers the parts hold."""
        held = (value.const_value for value in self._model.graph.initializers.values())
        return sum(tensor.size for tensor in held if tensor is not None)

    def sessions(self) -> tuple[ReferenceSession, ReferenceSession]:
        """In float64: as it is, and absolutely; after both have run."""
        exact, absolute = self._sessions
        return exact, absolute

    def keep(self, names: Iterable[str]) -> None:
        """Leave out what does not compute these tensors."""
        keep_outputs(self._model, {target(name) for name in names})

    def run(self, values: Tensors, runtime: Runtime) -> Tensors:
        """Run the parts on what they read."""
        return _run(self._model, values, runtime)

    def run_exactly(self, values: Tensors) -> Tensors:
        """Run the parts in float64."""
        return self._in_double(values)

    def load_exactly(self) -> None:
        """Prepare to run the parts in float64, before they are taken absolutely."""
        self._sessions.append(Reference().session(self._model, "the parts that differ"))

    def _in_double(self, values: Tensors) -> Tensors:
        session = Reference().session(self._model, "the parts that differ")
        self._sessions.append(session)
        return session.run({v.name or "": values[v.name or ""] for v in self._model.graph.inputs})

    def run_absolutely(self, values: Tensors, unit: float) -> Tensors:
        """Run the parts with all numbers taken absolutely; they are no good for `run` after."""
        drift = self._drift(values, unit)
        make_absolute(self._model, self._facts, drift)
        positive = {
            name: np.abs(array) if array.dtype.kind == "f" else array
            for name, array in values.items()
        }
        return self._in_double(positive)

    def _drift(self, values: Tensors, unit: float) -> dict[str, npt.NDArray[np.float64]]:
        """How far constants that the model computes are off in its own types, in roundoffs.

        Arithmetic of weights is no sum of products; what it loses is measured.
        """
        names = computed_constants(self._model, self._facts)
        if not names:
            return {}
        alone = constants_of(self._model, names)
        exact, own = (_run(alone, values, r) for r in (Reference(), OnnxRuntime("cpu")))
        return {n: np.abs(exact[n] - own[n].astype(np.float64)) / unit for n in names}


def _are_close(x: Array, y: Array) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.dtype.kind != "f" or x.size == 0:
        return bool(np.array_equal(x, y))
    with np.errstate(invalid="ignore"):
        gap = np.max(np.abs(x.astype(np.float64) - y), where=np.isfinite(x - y), initial=0.0)
    scale = np.max(np.abs(x), where=np.isfinite(x), initial=0.0)
    return bool(gap <= _STRANGERS * scale)


def _measure(
    left: _Side,
    right: _Side,
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
    others = right.run(values, OnnxRuntime(provider))
    right.load_exactly()
    unit = min(rounding.unit for pair in bounded.values() for rounding in pair if rounding.unit)
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


def _probe(
    a: ir.Model,
    facts: Facts,
    sides: tuple[_Side, _Side],
    cells: Mapping[str, Cell],
    bounded: Mapping[str, tuple[Rounding, Rounding]],
    values: Tensors,
) -> dict[str, Finding]:
    """Probe the cells that are affine in both models; the others are told why they are not."""
    settled = known_from_extents(a, facts)
    found: dict[str, Finding] = {}
    tasks: dict[str, Task] = {}
    for name, pair in bounded.items():
        both = [side.forms[target(name)] for side in sides]
        reads = [n for n in cells[name].inputs if values[n].dtype.kind != "f" and n not in settled]
        reason = next((form.obstacle for form in both if form.obstacle), "")
        if reads:
            reason = f"it reads '{reads[0]}', whose numbers are no extents"
        if reason:
            found[name] = Finding(reason=reason)
            continue
        size = sum(side.work[target(name)] for side in sides)
        is_open = is_symbolic(a, facts, cells[name].inputs)
        tasks[name] = Task(cells[name], (both[0], both[1]), pair, size, is_open)
    if tasks and sum(side.weights for side in sides) > _WEIGHTS:
        return found | dict.fromkeys(tasks, Finding(reason="the weights are too many to probe"))
    if tasks:
        try:
            (exact_a, sizes_a), (exact_b, sizes_b) = (side.sessions() for side in sides)
        except UnsupportedError as error:
            return found | dict.fromkeys(tasks, Finding(reason=str(error)))
        found |= prove(tasks, Bench(exact_a, exact_b, sizes_a, sizes_b), values)
    return found


def _run(model: ir.Model, values: Tensors, runtime: Runtime) -> Tensors:
    feeds = {value.name or "": values[value.name or ""] for value in model.graph.inputs}
    return runtime.session(model, "the parts that differ").run(feeds)


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
