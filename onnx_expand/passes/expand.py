"""Expand: replace linear layers by chains or sums of linear layers that train better."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnx_expand.cost import inspect_model, node_counts
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError
from onnx_expand.factorize import (
    CHAIN_STARTS,
    Filled,
    Options,
    Unit,
    factorize,
    parse_strategy,
    preserve,
    random_unit,
)
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import Linear
from onnx_expand.linear.policy import Policy
from onnx_expand.lower.units import note_expanded, unit_member
from onnx_expand.options import option, settle
from onnx_expand.passes.expansions import ExpandReport, Expansion, Skipped
from onnx_expand.passes.fold import Fold
from onnx_expand.passes.plan_files import load_plan, parse_kernel
from onnx_expand.passes.plans import How, Plan, Rule, Select
from onnx_expand.passes.selection import Candidate, survey, why_not
from onnx_expand.passes.snapshot import Snapshot
from onnx_expand.passes.writing import UnitWriter
from onnx_expand.progress import counted

__all__ = [
    "Expand",
    "ExpandResult",
]

_LOG = logging.getLogger("onnx_expand.passes")

Counts = dict[str, tuple[int, int | None]]


@dataclass
class ExpandResult(ir.passes.PassResult):
    """The result of `Expand`, with its report."""

    report: ExpandReport


_CONVOLUTIONS = {"Conv", "ConvTranspose"}
# CK+FC trained to a lower accuracy than CK, and FC alone to none distinguishable from the
# compact network's: docs/results.md.
_NOT_AUTO = "auto leaves fully connected layers beside convolutions"
_ASK = "select them with --include or --ops, or give --strategy ck+cl+fc"


@dataclass(frozen=True)
class Expand(ir.passes.InPlacePass):
    """Replace Conv, ConvTranspose, Gemm and MatMul nodes with constant weights by several nodes.

    Metadata of the new nodes record which node they replace, for fold.

    Raises:
        UsageError: An option has an invalid value, or the plan does not fit the model.
    """

    strategy: str = option(
        "auto",
        "cl: 1x1, k x k, 1x1. ck: 3x3 layers for a larger kernel. fc: matrices. acnet, repvgg, "
        "dbb, mobileone: sums of branches. lowrank: a narrow side path for fine-tuning. Of "
        "several joined with + the first that applies is used. auto is ck+cl, and fc "
        "where the model has no convolution, or options select the layer.",
        metavar="NAME[+NAME..]",
    )
    rate: float = option(4.0, "Inner widths as a multiple of the layer's own.")
    first_width: Literal["keep", "expand"] = option(
        "keep", "Input width of the first factor of the first convolutions."
    )
    include: str | None = option(
        None,
        "Only nodes whose name this regular expression matches. 1x1 convolutions are expanded "
        "only if they are selected by name or kernel.",
        metavar="RE",
    )
    exclude: str | None = option(None, "Only nodes whose name does not match.", metavar="RE")
    layers: int = option(3, "Layers for a fully connected one, 2 or 3.", flag="--fc-layers")
    seed: int = option(0, "Seed of the initial values, independent for each node.")
    init: Literal[
        "random", "variance", "matched", "orthogonal", "balanced", "preserve", "contracted"
    ] = option(
        "random",
        "random: as the framework starts each layer; to be trained. variance, matched, "
        "orthogonal, balanced: other random values for chains. preserve: compute the same as the "
        "model. contracted: the unexpanded model, with the weights of a random expansion "
        "contracted immediately.",
    )
    nonlinear: Literal["relu", "prelu"] | None = option(
        None, "Put activations between the layers of each chain; strip-nonlinear removes them."
    )
    norm: Literal["auto", "bn", "none"] = option(
        "auto",
        "Batch normalization in the branches of a sum. auto: bn as in the papers, but none with "
        "preserve, which the statistics of the first batch would undo.",
    )
    branches: int = option(4, "Copies of the layer in mobileone.")
    rank: int = option(8, "Inner width of the side path of lowrank.")
    plan: str | Plan | None = option(
        None,
        "Expand by a plan, named or from a file; the other options are its defaults.",
        metavar="NAME|F",
    )
    ops: Sequence[str] = option((), "Only Conv, ConvTranspose, Gemm or MatMul.", metavar="OP,..")
    kernels: Sequence[int | str | tuple[int, ...]] = option(
        (), "Only these kernels, such as 5,7x1.", metavar="K,.."
    )
    strides: Sequence[int] = option((), "Only convolutions of these strides.", metavar="S,..")
    depthwise: bool | None = option(None, "Only depthwise convolutions, or no depthwise ones.")
    residual: bool | None = option(None, "Only layers in residual blocks, or only others.")
    place: str | None = option(None, "Only first, inner or last layers; join with +.", metavar="P")
    path: Literal["contracting", "expanding"] | None = option(
        None, "Only layers before the first upsampling, or after it."
    )
    max_params_mult: float | None = option(
        None,
        "Limit the parameters to this multiple of the original; the layers that grow least are "
        "expanded first.",
        metavar="X",
    )
    max_residual: float = option(
        0.0, "Largest relative error of a layer's weight that preserve accepts."
    )
    _select: Select = field(init=False, repr=False)
    _how: How = field(init=False, repr=False)
    _plan: Plan | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        settle(self)
        kernels = tuple(map(parse_kernel, self.kernels))
        plan = load_plan(self.plan) if isinstance(self.plan, str) else self.plan
        object.__setattr__(self, "_how", How(**self._shared(How)))
        object.__setattr__(self, "_select", Select(**{**self._shared(Select), "kernels": kernels}))
        object.__setattr__(self, "_plan", plan)
        self._check_options()

    def _shared(self, kind: type) -> dict[str, Any]:
        """Return the options that are also fields of another class."""
        return {f.name: getattr(self, f.name) for f in fields(kind) if hasattr(self, f.name)}

    def _check_options(self) -> None:
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; it must not be negative")
        if self.nonlinear is not None and self.init != "random":
            raise UsageError(
                f"init {self.init} needs linear chains; leave out nonlinear or use init random"
            )
        if self.max_params_mult is not None and not self.max_params_mult >= 1:
            raise UsageError(f"max_params_mult is {self.max_params_mult}; it must be at least 1")
        if not 0 <= self.max_residual <= 1:
            raise UsageError(f"max_residual is {self.max_residual}; it lies between 0 and 1")

    def call(self, model: ir.Model) -> ExpandResult:
        """Expand a model in place.

        Raises:
            UsageError: The plan names nodes that the model does not have, or init is `contracted`
                and the model already contains expansions.
        """
        given = Snapshot.of(model)
        before, counts = inspect_model(model), node_counts(model)
        facts, rewriter = Facts(model), Rewriter(model)
        sites = survey(model, facts)
        self._check_model(sites)
        run = _Run(self, facts, UnitWriter(facts, rewriter, self.nonlinear), before.parameters)
        for site in counted("expanding", run.within_budget(self._chosen(sites, run))):
            run.expand(site)
        if run.expanded:
            facts.correct_shapes(model)
        rewriter.finish()
        after = inspect_model(model) if run.expanded else before
        expanded = run.report(counts, node_counts(model))
        if self.init == "contracted":
            Fold(Policy.MARKED).call(model)
        elif run.expanded:
            note_expanded(model)
        report = ExpandReport(expanded, tuple(run.skipped), before, after, self.init)
        _LOG.info("expand: %d layers expanded, %d not", len(expanded), len(run.skipped))
        return ExpandResult(model, Snapshot.of(model) != given, report)

    def _check_model(self, sites: Sequence[Candidate]) -> None:
        if self._plan is not None:
            unknown = set(self._plan.nodes) - {site.name for site in sites}
            if unknown:
                raise UsageError(
                    f"plan '{self._plan.name}': the model has no layer '{min(unknown)}'"
                )
        if self.init == "contracted" and any(unit_member(site.node) for site in sites):
            raise UsageError(
                "init contracted: the model already contains expansions; fold it first"
            )

    def _chosen(self, sites: Sequence[Candidate], run: _Run) -> list[_Choice]:
        """Choose the layers to expand; add the others to the skipped layers of the run."""
        counts: dict[Rule, int] = {}
        chosen = []
        convolved = any(site.node.op_type in _CONVOLUTIONS for site in sites)
        for site in sites:
            choice = self._choice(site, counts, convolved=convolved)
            if isinstance(choice, Refusal):
                run.skipped.append(Skipped(site.name, choice))
            elif choice is not None:
                chosen.append(choice)
        return chosen

    def _choice(
        self, site: Candidate, counts: dict[Rule, int], *, convolved: bool
    ) -> _Choice | Refusal | None:
        refusal = why_not(self._select, site)
        if refusal is not None:
            return refusal
        if unit_member(site.node) is not None:
            return Refusal(Reason.SELECTION, "it is part of an expansion already")
        linear = site.linear
        if not isinstance(linear, Linear) or linear.weight is None:
            return linear if isinstance(linear, Refusal) else None
        if len(linear.weight.uses()) > 1:
            hint = "give each reader its own copy of the weight"
            return Refusal(Reason.SHARED, f"others read '{linear.weight.name}' too", hint=hint)
        found = self._planned(site, linear, counts)
        if isinstance(found, Refusal):
            return found
        how = found.over(self._how)
        beside = convolved and site.node.op_type not in _CONVOLUTIONS
        named = self._plan is not None or self._select.names_layers
        if how.strategy == "auto" and beside and not named:
            return Refusal(Reason.SELECTION, _NOT_AUTO, hint=_ASK)
        unit = factorize(
            replace(linear.geometry, bias=linear.bias is not None),
            parse_strategy(how.strategy or ""),
            self._options(how, site),
        )
        if isinstance(unit, Refusal):
            return unit
        return _Choice(site, linear, unit, replace(how, strategy=unit.strategy))

    def _planned(self, site: Candidate, linear: Linear, counts: dict[Rule, int]) -> How | Refusal:
        """Return how the plan, or else the options, expand a layer."""
        plan = self._plan
        if plan is not None and site.name in plan.nodes:
            return plan.nodes[site.name]
        rules = (Rule(),) if plan is None else plan.rules
        reason = Refusal(Reason.SELECTION, "the plan does not name it")
        for rule in rules:
            refusal = why_not(rule.select, site) or self._pointwise(linear, rule.select)
            if refusal is None:
                counts[rule] = counts.get(rule, 0) + 1
                limit = rule.select.limit
                if limit is None or counts[rule] <= limit:
                    return rule.how
                refusal = Refusal(Reason.SELECTION, f"{limit} layers were selected before it")
            reason = refusal
        return reason

    def _pointwise(self, linear: Linear, select: Select) -> Refusal | None:
        asked = self._select
        named = asked.include or select.include or asked.kernels or select.kernels
        if linear.geometry.rank and set(linear.geometry.kernel) == {1} and not named:
            hint = "name it with --include, or ask for --kernels 1"
            return Refusal(Reason.SELECTION, "1x1 convolutions are left alone", hint=hint)
        return None

    def _options(self, how: How, site: Candidate) -> Options:
        assert how.rate is not None
        assert how.layers is not None
        assert how.branches is not None
        assert how.rank is not None
        keep = site.reads_image and how.first_width == "keep"
        norm = how.norm == "bn" or (how.norm == "auto" and self.init != "preserve")
        return Options(how.rate, keep, how.layers, norm, how.branches, how.rank)


@dataclass(frozen=True)
class _Choice:
    """A layer, and the unit that is to replace it."""

    site: Candidate
    linear: Linear
    unit: Unit
    how: How

    @property
    def growth(self) -> int:
        """The number of parameters that the unit has more than the layer."""
        geometry = replace(self.linear.geometry, bias=self.linear.bias is not None)
        return self.unit.parameters - geometry.parameters


class _Run:
    """One expansion of one model."""

    def __init__(self, options: Expand, facts: Facts, writer: UnitWriter, size: int) -> None:
        self.options, self.facts, self.writer, self.size = options, facts, writer, size
        self.skipped: list[Skipped] = []
        self.expanded: list[tuple[_Choice, Filled, list[ir.Node]]] = []

    def within_budget(self, choices: list[_Choice]) -> list[_Choice]:
        """Select choices within the parameter budget, in order of increasing growth."""
        most = self.options.max_params_mult
        if most is None:
            return choices
        left = most * self.size - self.size
        kept = set()
        for index, choice in sorted(enumerate(choices), key=lambda pair: pair[1].growth):
            if choice.growth <= left:
                left -= max(0, choice.growth)
                kept.add(index)
                continue
            message = (
                f"it would add {choice.growth:,} parameters, and {max(0, int(left)):,} are left"
            )
            numbers = {"growth": choice.growth, "left": int(left)}
            hint = "allow more with --max-params-mult, or lower --rate"
            refusal = Refusal(Reason.COST, message, numbers, hint)
            self.skipped.append(Skipped(choice.site.name, refusal))
        return [choice for index, choice in enumerate(choices) if index in kept]

    def expand(self, choice: _Choice) -> None:
        """Replace one layer, or record why it is skipped."""
        filled = self._filled(choice)
        written = filled
        if not isinstance(filled, Refusal):
            nodes = self.writer.replace(choice.linear, filled)
            if not isinstance(nodes, Refusal):
                # The model holds the values; keeping a second copy of all would fill the memory.
                self.expanded.append((choice, replace(filled, parts=()), nodes))
                return
            written = nodes
        assert isinstance(written, Refusal)
        self.skipped.append(Skipped(choice.site.name, written))

    def report(self, before: Counts, after: Counts) -> tuple[Expansion, ...]:
        """Report the expanded layers in order, with their costs before and after."""
        found = []
        for choice, filled, nodes in self.expanded:
            old = before[nodes[-1].outputs[0].name or ""]
            new = [after[node.outputs[0].name or ""] for node in nodes]
            macs = [products for _, products in new]
            found.append(
                Expansion(
                    choice.site.name,
                    choice.linear.node.op_type,
                    choice.linear.geometry.kernel,
                    choice.how,
                    tuple(map(label, nodes)),
                    filled.unit.widths,
                    (old[0], sum(size for size, _ in new)),
                    (old[1], None if None in macs else sum(m for m in macs if m is not None)),
                    filled.residual,
                    filled.condition,
                    filled.is_exact,
                )
            )
        return tuple(found)

    def _filled(self, choice: _Choice) -> Filled | Refusal:
        """Compute the initial values of a unit."""
        name, linear = choice.site.name, choice.linear
        rng = np.random.default_rng([self.options.seed, zlib.crc32(name.encode())])
        assert linear.weight is not None
        dtype = self.facts.tensor(linear.weight).dtype.numpy()

        def rounded(array: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
            with np.errstate(over="ignore", under="ignore"):
                return array.astype(dtype).astype(np.float64)

        try:
            target = linear.load()
        except RefusedError as error:
            return error.refusal
        if self.options.init != "preserve":
            start = self.options.init if self.options.init in CHAIN_STARTS else "random"
            return random_unit(choice.unit, target, rng, start)
        most = self.options.max_residual
        return preserve(choice.unit, target, rng, rounded, most=most)
