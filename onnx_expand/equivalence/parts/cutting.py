"""Cut parts out of models as models of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_expand.equivalence.parts.cells import Cell
from onnx_expand.runtimes.base import Tensors

__all__ = [
    "constants_of",
    "cut",
    "exposed",
    "keep_outputs",
    "target",
]


_SUFFIX = "\u2009(computed)"


_SPARE = "\u2009(given)"


def target(name: str) -> str:
    """Return the name of a computed tensor in a cut model, where an input has the plain name."""
    return name + _SUFFIX


def cut(model: ir.Model, cells: Mapping[str, Cell], values: Tensors) -> ir.Model:
    """Return a model of the given cells side by side, each with its own inputs and output.

    Args:
        model: The model, which is not modified.
        cells: The cells by the name of their tensor.
        values: An array for each tensor that a cell reads, which determines type and shape.

    Returns:
        A model with these tensors as inputs, by their own names, and the tensors of the cells as
        outputs, by the names that `target` gives.
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
                # Other outputs of the node may still be computed.
                out.name = name + _SPARE
            if name in cells:
                out.name = target(name)
                outputs.append(out)
            out.shape = None  # may be outdated; shape inference derives it from the inputs
    for value in graph.inputs:
        if (name := value.name or "") in values:
            value.shape = ir.Shape(values[name].shape)
    graph.inputs.extend(given)
    graph.outputs[:] = outputs
    keep_outputs(copy, {target(name) for name in cells})
    return copy


def exposed(model: ir.Model, names: Mapping[str, ir.DataType]) -> ir.Model:
    """Return a copy of a model with inner tensors as additional outputs, by name and type."""
    copy = model.clone()
    known = {value.name or "" for value in copy.graph.outputs}
    for node in copy.graph:
        for out in node.outputs:
            name = out.name or ""
            if name in names and name not in known:
                out.dtype = out.dtype or names[name]
                copy.graph.outputs.append(out)
    return copy


def keep_outputs(model: ir.Model, names: Set[str]) -> None:
    """Restrict a model to the nodes that compute some of its outputs."""
    graph = model.graph
    graph.outputs[:] = [value for value in graph.outputs if value.name in names]
    RemoveUnusedNodesPass()(model)
    # Overridable weights are not overridden here.
    graph.inputs[:] = [v for v in graph.inputs if v.uses() and not v.is_initializer()]


def constants_of(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy of a model that computes only some of its constants.

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
