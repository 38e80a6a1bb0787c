"""Parts of models as models of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_expand.equivalence.cells import Cell
from onnx_expand.runtimes.base import Tensors

__all__ = [
    "constants_of",
    "cut",
    "keep_outputs",
    "target",
]


_SUFFIX = "\u2009(computed)"


_SPARE = "\u2009(given)"


def target(name: str) -> str:
    """What a cut model calls a tensor that it computes, since it is given one of that name."""
    return name + _SUFFIX


def cut(model: ir.Model, cells: Mapping[str, Cell], values: Tensors) -> ir.Model:
    """The cells of a model side by side, each between inputs and an output of its own.

    Args:
        model: The model, which is not changed.
        cells: The cells, by the name of their tensor.
        values: An array for each tensor that a cell reads; it decides type and shape.

    Returns:
        A model from these tensors, by their own names, to those of the cells, called as `target`
        says.
    """
    copy = model.clone()
    graph = copy.graph
    bounds = set[str]().union(*(cell.inputs for cell in cells.values()))
    outputs, given = [], []
    for node in graph:
        for out in node.outputs:
            name = out.name or ""
            if name in bounds:
                value = _given(name, values[name])
                convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
                given.append(value)
                # Another output of the node may be computed still.
                out.name = name + _SPARE
            if name in cells:
                out.name = target(name)
                outputs.append(out)
            out.shape = None  # it may be stale, and follows from those of the inputs
    for value in graph.inputs:
        if (name := value.name or "") in values:
            value.shape = ir.Shape(values[name].shape)
    graph.inputs.extend(given)
    graph.outputs[:] = outputs
    keep_outputs(copy, {target(name) for name in cells})
    return copy


def keep_outputs(model: ir.Model, names: Set[str]) -> None:
    """Remove from a model all that does not compute some of its outputs."""
    graph = model.graph
    graph.outputs[:] = [value for value in graph.outputs if value.name in names]
    RemoveUnusedNodesPass()(model)
    # Weights that a caller could replace are not replaced here.
    graph.inputs[:] = [v for v in graph.inputs if v.uses() and not v.is_initializer()]


def constants_of(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of a model that computes nothing but some of its constants.

    Args:
        model: A model.
        names: Values that nodes of its main graph compute from constants.
    """
    copy = model.clone()
    values = {out.name: out for node in copy.graph for out in node.outputs}
    copy.graph.outputs[:] = [values[name] for name in names]
    keep_outputs(copy, set(names))
    return copy


def _given(name: str, array: Any) -> ir.Value:
    return ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
    )
