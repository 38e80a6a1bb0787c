"""The pass `Clean` and the order of its steps."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.shapes import BODY
from onnx_expand.passes.clean.constants import lift_constants, write_constants
from onnx_expand.passes.clean.duplicates import merge_duplicates
from onnx_expand.passes.clean.noops import drop_dead, drop_noops
from onnx_expand.passes.clean.outcome import Cleaned
from onnx_expand.passes.clean.pairs import join_pairs
from onnx_expand.passes.clean.slices import join_slices
from onnx_expand.passes.extents import state_extents
from onnx_expand.passes.functions import as_constants, body_of
from onnx_expand.passes.snapshot import Snapshot

__all__ = ["Clean", "CleanResult", "Cleaner"]

_PLAIN_INITIALIZERS = 4  # the first IR version in which an initializer need not be a graph input
_ROUNDS = 8  # merging a pair may make its consumers equal; one round follows whole chains


class Cleaner:
    """Clean the graphs of one model.

    Attributes:
        done: The changes made so far.
        informs: Whether the changes may allow inferring more than `facts` contains.
    """

    def __init__(self, model: ir.Model, facts: Facts, rewriter: Rewriter) -> None:
        self.facts, self.rewriter = facts, rewriter
        # A function body has no initializers; in old files every initializer is a graph input.
        old = model.ir_version is not None and model.ir_version < _PLAIN_INITIALIZERS
        self._lifts = not old and not model.meta.get(BODY)
        self.done = Cleaned()
        self.informs = False

    def clean(self, graph: ir.Graph, *, maps: bool = True) -> Cleaned:
        """Clean one graph, without the subgraphs of its nodes.

        Args:
            graph: The graph.
            maps: Whether to include values that fold handles itself: weights, and the outputs of
                no-op nodes in floating point.

        Returns:
            The changes to this graph; `done` accumulates those of all graphs.
        """
        facts, rewriter = self.facts, self.rewriter
        unread = tuple(drop_dead(graph, rewriter))
        constants, grown = write_constants(graph, facts, rewriter, maps=maps)
        for gone, _ in state_extents(graph, facts, rewriter, everywhere=True):
            constants += gone
            self.informs = True
        lifted = tuple(lift_constants(graph, facts, rewriter)) if self._lifts else ()
        joined = tuple(join_slices(graph, facts, rewriter))
        duplicates, idle = tuple[str, ...](), tuple[str, ...]()
        for _ in range(_ROUNDS):
            merged = tuple(merge_duplicates(graph, facts, rewriter))
            dropped = tuple(drop_noops(graph, facts, rewriter, maps=maps))
            pairs = tuple(join_pairs(graph, facts, rewriter))
            duplicates, idle, joined = duplicates + merged, idle + dropped, joined + pairs
            if not merged and not dropped and not pairs:
                break
        done = Cleaned(constants, duplicates, joined, idle, unread, lifted, grown)
        self.done += done
        return done


@dataclass
class CleanResult(ir.passes.PassResult):
    """The result of `Clean`, with its changes."""

    cleaned: Cleaned


@dataclass(frozen=True)
class Clean(ir.passes.InPlacePass):
    """Remove duplicate and unused nodes, replace constant nodes by initializers and drop no-ops.

    Computed values stay equal bit by bit, except that the sign of a zero may change. The inputs,
    outputs, their names and shapes, the opset imports and the metadata do not change. Nodes that
    are random, contain subgraphs or belong to domains unknown to ONNX are never merged.
    """

    def call(self, model: ir.Model) -> CleanResult:
        """Clean a model in place."""
        given, done = Snapshot.of(model), Cleaned()
        budget = None
        parts = [model, *(body_of(f, model) for f in model.functions.values())]
        for part in parts:
            facts, rewriter = Facts(part, budget=budget), Rewriter(part)
            budget = facts.budget
            cleaner = Cleaner(part, facts, rewriter)
            for graph in list(part.graphs()):
                cleaner.clean(graph)
            if cleaner.done:
                facts.correct_shapes(part)
            rewriter.finish()
            if part is not model:
                as_constants(part.graph)
            done += cleaner.done
        return CleanResult(model, Snapshot.of(model) != given, done)
