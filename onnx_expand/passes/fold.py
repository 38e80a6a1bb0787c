"""Fold: merge linear stretches of a graph into the cheapest equivalent nodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from onnx_expand.cost import inspect_model
from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.budget import Budget
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.stored import values_of
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.bridges import Border
from onnx_expand.lower.units import (
    drop_incomplete,
    drop_note,
    has_note,
    is_given_back,
    nonlinear_units,
    note_folded,
)
from onnx_expand.model.collector import rare_collections
from onnx_expand.options import option, require, settle
from onnx_expand.passes.benchmark import Benchmark
from onnx_expand.passes.clean import Cleaned, Cleaner
from onnx_expand.passes.fastest import Variant, choose
from onnx_expand.passes.folding import FoldRun
from onnx_expand.passes.functions import (
    as_constants,
    body_of,
    calls_with_weights,
    inline_functions,
    inline_single_calls,
)
from onnx_expand.passes.provenance import begin, finish
from onnx_expand.passes.report import FoldReport, Kept, Site
from onnx_expand.passes.snapshot import Snapshot

__all__ = ["Fold", "FoldReport", "FoldResult", "Kept", "Site"]

_LOG = logging.getLogger("onnx_expand.passes")


_ROUNDS = 3  # of folding anew what folding made unknown

_GIVEN_BACK = Refusal(
    Reason.POLICY,
    "its expansions were folded before, so that it is what expand was given",
    hint="fold with --policy cheapest to merge more of it",
)


@dataclass
class FoldResult(ir.passes.PassResult):
    """The result of `Fold`, with its report."""

    report: FoldReport


@dataclass(frozen=True)
class Fold(ir.passes.InPlacePass):
    """Merge chains of linear nodes according to a policy.

    The model keeps its inputs, outputs and names. A result takes the names of the heaviest node
    that it replaces, or those recorded by expand. Weights with other consumers stay unchanged. All
    arithmetic is float64, rounded once to the model's type when a node is written.

    Attributes:
        image: The name of an input after which borders may be rewritten by the cheapest applicable
            method; for preprocessing.
        measure: Whether to inspect the model before and after, for the report.
        shapes: Extents of inputs at which the policy `latency` measures, by name.

    Raises:
        UsageError: An option has an invalid value. Texts are valid: `Fold("cheapest")`.
    """

    policy: Policy = option(
        Policy.AUTO,
        "cheapest: never more multiply-accumulates. always: all exact merges. marked: undo "
        "expansions only. latency: the fastest in onnxruntime here. auto: marked for a model "
        "that expand made, else cheapest.",
    )
    border: Border = option(
        Border.EXACT,
        "Where a bias meets a padded border. exact: leave the nodes apart. ones: append a channel "
        "of ones to the input. map: add an image of constants. pad: pad with the value that "
        "becomes zero. All are exact; the last three add nodes.",
    )
    image: str | None = None
    measure: bool = False
    provider: Literal["cpu", "cuda"] | None = option(
        None,
        "Where the policy latency measures; by default the first that this machine has.",
    )
    inline: bool = option(
        False,
        "Inline all local functions first. Functions that are called once are always inlined "
        "where something could merge.",
    )
    seconds: float = option(
        60.0,
        "How long the policy latency may measure. It stops when it is sure, and says how sure.",
    )
    threads: int = option(
        1,
        "Threads of an operator where the policy latency measures on the CPU. The time of several "
        "is that of the clock, which other programs disturb.",
    )
    shapes: Mapping[str, Sequence[int | str]] | None = None
    clean: bool = option(
        True,
        "Also remove duplicate, constant and unused computations and nodes that do nothing. "
        "The policy marked never does.",
    )
    provenance: bool = option(
        True,
        "Record in the metadata of new nodes which nodes of the source they replace "
        "(onnx_expand.folded_from).",
    )

    def __post_init__(self) -> None:
        settle(self)
        require(self, seconds=(1e-3, 1e6, "positive"), threads=(1, 1024, "from 1 to 1024"))

    def call(self, model: ir.Model) -> FoldResult:
        """Fold a model in place."""
        if self.policy is not Policy.LATENCY:
            return self._call(model)
        before = inspect_model(model) if self.measure else None
        shapes = self.shapes or {}
        benchmark = Benchmark(model, self.provider, shapes, self.seconds, self.threads)
        choice = choose(model, self._by_variant, benchmark)
        if choice.variant is None:
            kept, timed = choice.kept, choice.measured
            report = FoldReport(self.policy, (), kept, before, before, measured=timed)
            return FoldResult(model, False, report)
        result = self._call(model, choice.variant)
        report = result.report
        left = _op_types(model).keys()  # cleaning removes what does nothing, measured or not
        kept = tuple(k for k in choice.kept if not left.isdisjoint(k.nodes)) + report.kept
        report = replace(report, policy=self.policy, kept=kept, measured=choice.measured)
        return FoldResult(model, result.modified, report)

    def _by_variant(self, model: ir.Model, variant: Variant) -> tuple[Site, ...]:
        """Fold a model in place by a variant; return the sites."""
        return self._call(model, variant).report.sites

    @rare_collections()
    def _call(self, model: ir.Model, variant: Variant | None = None) -> FoldResult:
        """Fold a model in place, by a variant if there is one; return the result."""
        given, types = Snapshot.of(model), _op_types(model)
        begin(model)
        before = inspect_model(model) if self.measure else None
        policy, given_back = self.policy if variant is None else variant.policy, False
        if policy is Policy.AUTO:
            # A model that fold restored to what expand was given stays as it is when folded again.
            given_back = is_given_back(model)
            marked = drop_incomplete(model) or given_back
            policy = Policy.MARKED if marked else Policy.CHEAPEST
        was_expanded = has_note(model) or (policy is Policy.MARKED and self.policy is not policy)
        if policy is not Policy.MARKED:
            (inline_functions if self.inline else inline_single_calls)(model)
            types |= _op_types(model)
        policy, runs = self._all_runs(model, policy, variant, types)
        remains = drop_incomplete(model)
        if policy is not Policy.MARKED:
            drop_note(model)
        elif was_expanded and not remains:
            note_folded(model)
        finish(model, state=self.provenance)
        after = inspect_model(model) if self.measure else None
        kept = [kept for run in runs for kept in run.kept]
        kept += [call for graph in model.graphs() for call in calls_with_weights(graph, model)]
        kept += [Kept.of(nodes, why) for nodes, why in nonlinear_units(model)]
        sites = _with_op_types([site for run in runs for site in run.sites], types, model)
        if given_back and not sites:
            kept.insert(0, Kept((model.graph.name or "the model",), _GIVEN_BACK))
        copies = tuple(copy for run in runs for copy in run.copies)
        cleaned = sum((run.cleaner.done for run in runs), Cleaned())
        report = FoldReport(policy, sites, tuple(kept), before, after, copies, cleaned)
        _LOG.info("fold, policy %s: %d sites folded, %d kept", policy, len(sites), len(kept))
        return FoldResult(model, Snapshot.of(model) != given, report)

    def _all_runs(
        self, model: ir.Model, policy: Policy, variant: Variant | None, types: dict[str, str]
    ) -> tuple[Policy, list[FoldRun]]:
        """Fold until nothing is left that a run made foldable; add to the op types by label.

        Returns:
            The policy of the last run, and all runs.
        """
        runs = last = self._runs(model, policy, variant)
        if variant is not None and policy is Policy.ALWAYS:
            policy, variant = Policy.CHEAPEST, None  # where `always` was locked
            last = self._runs(model, policy)
            runs = _followed(runs, last)
        for _ in range(_ROUNDS if policy is not Policy.MARKED else 0):
            if not last[0].sites or not _knows_other(model, last[0]):
                break
            last = self._runs(model, policy, variant)
            runs = _followed(runs, last)
        if policy is not Policy.MARKED and not self.inline:
            # Folding may place maps next to calls, where they may merge with maps of the bodies.
            while model.functions and inline_single_calls(model):
                types |= _op_types(model)
                runs = _followed(runs, self._runs(model, policy, variant))
        return policy, runs

    def _runs(
        self, model: ir.Model, policy: Policy, variant: Variant | None = None
    ) -> list[FoldRun]:
        """Fold the graphs of a model and of its functions."""
        runs = [self._fold(model, policy, variant)]
        for function in model.functions.values() if policy is not Policy.MARKED else ():
            body = body_of(function, model)
            runs.append(self._fold(body, policy, variant, runs[0].facts.budget))
            as_constants(function.graph)
        return runs

    def _fold(
        self,
        model: ir.Model,
        policy: Policy,
        variant: Variant | None = None,
        budget: Budget | None = None,
    ) -> FoldRun:
        """Fold all graphs of a model except its functions."""
        cleans = self.clean and policy is not Policy.MARKED
        cleaner = _cleaner(model, budget, cleans=cleans)
        run = FoldRun(model, policy, self.border, self.image, cleaner)
        if variant is not None:
            run.locked = variant.locked
        run.fold_graphs(None if variant is None else variant.width, cleans=cleans)
        for graph in list(model.graphs()):
            run.explain(graph)
        if run.sites or cleaner.done:
            run.facts.correct_shapes(model)
        run.rewriter.finish()
        return run


def _followed(runs: list[FoldRun], others: list[FoldRun]) -> list[FoldRun]:
    """Return runs and those after them, which examined again what the first ones kept."""
    for run in runs:
        run.kept.clear()
    return [*runs, *others]


def _knows_other(model: ir.Model, run: FoldRun) -> bool:
    """Return whether folding changed what nodes tell about the extents of a value that is left.

    The scales of a BatchNormalization tell the number of its channels, also for what comes before;
    a constant target of a Reshape tells more than a computed one. What cost less at one extent may
    cost more where it is unknown.
    """
    if not (run.facts.is_told or run.cleaner.done.constants or run.states):
        return False
    facts = Facts(model, budget=run.facts.budget)
    return any(
        facts.count_known(value) != run.facts.count_known(value)
        for graph in model.graphs()
        for value in values_of(graph)
    )


def _cleaner(model: ir.Model, budget: Budget | None, *, cleans: bool) -> Cleaner:
    """Create the cleaner of a model, after one round of cleaning if wanted."""
    cleaner = Cleaner(model, Facts(model, budget=budget), Rewriter(model))
    for graph in list(model.graphs()) if cleans else ():
        cleaner.clean(graph, maps=False)
    if cleaner.informs:
        cleaner.facts = Facts(model, budget=cleaner.facts.budget)
    return cleaner


def _op_types(model: ir.Model) -> dict[str, str]:
    """Map the label of each node to its op type."""
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    return {label(node): node.op_type for graph in graphs for node in graph}


def _with_op_types(
    sites: Sequence[Site], before: Mapping[str, str], model: ir.Model
) -> tuple[Site, ...]:
    """Add the op types of their nodes to sites."""
    after = _op_types(model)
    return tuple(
        replace(
            site,
            ops=tuple(before[name] for name in site.nodes if name in before),
            result_ops=tuple(after[name] for name in site.result if name in after),
        )
        for site in sites
    )
