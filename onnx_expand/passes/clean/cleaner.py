"""The pass, and the order of its steps."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.graph.editing import Rewriter
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.shapes import BODY
from onnx_expand.passes.clean.constants import lift_constants, write_constants
from onnx_expand.passes.clean.duplicates import merge_duplicates
from onnx_expand.passes.clean.idle import drop_idle, drop_unread
from onnx_expand.passes.clean.outcome import Cleaned
from onnx_expand.passes.clean.slices import join_slices
from onnx_expand.passes.extents import state_extents
from onnx_expand.passes.functions import as_constants, body_of
from onnx_expand.passes.snapshot import Snapshot

__all__ = ["Clean", "CleanResult", "Cleaner"]

_PLAIN_INITIALIZERS = 4  # the first file format with initializers that are no inputs
_ROUNDS = 8  # a merged pair may make its readers alike; one round follows whole chains


class Cleaner:
    """Cleans the graphs of one model.

    Args:
        model: The model.
        facts: What is known about it.
        rewriter: What rewrites it.

    Attributes:
        done: What was done so far.
        informs: Whether more may be known of the model now than `facts` says.
    """

    def __init__(self, model: ir.Model, facts: Facts, rewriter: Rewriter) -> None:
        self.facts, self.rewriter = facts, rewriter
        # A body has no initializers, and old files have none that are no inputs.
        old = model.ir_version is not None and model.ir_version < _PLAIN_INITIALIZERS
        self._lifts = not old and not model.meta.get(BODY)
        self.done = Cleaned()
        self.informs = False

    def clean(self, graph: ir.Graph, *, maps: bool = True) -> Cleaned:
        """Clean one graph; those within its nodes are cleaned by calls of their own.

        Args:
            graph: The graph.
            maps: Whether to treat what fold treats itself, too: weights, and nodes that hand on
                numbers which maps treat.

        Returns:
            What was done; `done` has the sum of all graphs.
        """
        facts, rewriter = self.facts, self.rewriter
        unread = tuple(drop_unread(graph, rewriter))
        constants, grown = write_constants(graph, facts, rewriter, maps=maps)
        for gone, _ in state_extents(graph, facts, rewriter, everywhere=True):
            constants += gone
            self.informs = True
        lifted = tuple(lift_constants(graph, facts, rewriter)) if self._lifts else ()
        duplicates = tuple(join_slices(graph, facts, rewriter))
        idle: tuple[str, ...] = ()
        for _ in range(_ROUNDS):
            merged = tuple(merge_duplicates(graph, facts, rewriter))
            dropped = tuple(drop_idle(graph, facts, rewriter, maps=maps))
            duplicates, idle = duplicates + merged, idle + dropped
            if not merged and not dropped:
                break
        done = Cleaned(constants, duplicates, idle, unread, lifted, grown)
        self.done += done
        return done


@dataclass
class CleanResult(ir.passes.PassResult):
    """The result of `Clean`, with what it did."""

    cleaned: Cleaned


@dataclass(frozen=True)
class Clean(ir.passes.InPlacePass):
    """Drop what is computed twice, for nobody or from constants alone, and what does nothing.

    Every number stays as it is, bit by bit. So do inputs, outputs, their names and shapes, the
    operator set and what the model says of itself. Nodes that are random, that run bodies or that
    belong to domains unknown to ONNX are never merged.
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
                facts.settle(part)
            rewriter.finish()
            if part is not model:
                as_constants(part.graph)
            done += cleaner.done
        return CleanResult(model, Snapshot.of(model) != given, done)
