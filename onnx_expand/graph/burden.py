"""Detect models whose constants would take excessive time or memory to evaluate."""

from __future__ import annotations

import onnx_ir as ir

from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, ops_with

__all__ = ["overloaded"]

_LIGHT = ops_with(Trait.MOVES) | {"Constant"}


def overloaded(model: ir.Model) -> str:
    """Return why a model should not be run; empty if there is no objection.

    A few nodes that read only constants can take any time and memory, in each run if optimizations
    are off. What a useful model computes from its weights stays within a budget that grows with
    them.

    Args:
        model: The model, which is not changed.
    """
    bodies = [ir.Model(f.graph, ir_version=model.ir_version) for f in model.functions.values()]
    budget = None
    for part in (model, *bodies):
        suspects = _fixed_nodes(part)
        if all(node.op_type in _LIGHT for node in suspects):
            continue
        facts = Facts(part, budget=budget)
        budget = facts.budget
        obstacle = _obstacle(suspects, facts)
        if obstacle:
            return obstacle
    return ""


def _obstacle(suspects: list[ir.Node], facts: Facts) -> str:
    """Return the node that exhausts the budget, if any."""
    for node in suspects:
        facts.is_constant(node.outputs[0] if node.outputs else None)
        if facts.budget.exhausted:
            name = node.name or node.outputs[0].name
            return (
                f"'{name}' ({node.op_type}) computes too much from constants alone to be run here"
            )
    return ""


def _fixed_nodes(model: ir.Model) -> list[ir.Node]:
    """Yield the nodes that depend on constants alone, in order."""
    found: list[ir.Node] = []
    fixed: set[ir.Value] = set()
    for graph in model.graphs():
        fixed.update(graph.initializers.values())
        for node in graph:
            if not node.domain and all(v is None or v in fixed for v in node.inputs):
                found.append(node)
                fixed.update(node.outputs)
    return found
