"""Remove the activations that expand inserted between the layers of a chain, and no others."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.graph.editing import label
from onnx_expand.lower.units import activations

__all__ = ["StripNonlinear", "StripResult"]


@dataclass
class StripResult(ir.passes.PassResult):
    """The result of `StripNonlinear`."""

    removed: tuple[str, ...]


@dataclass(frozen=True)
class StripNonlinear(ir.passes.InPlacePass):
    """Turn the non-linear counterpart of an expansion into the linear one with its weights.

    The trained weights are kept: the paper reports them as the best initialisation of an expanded
    network.
    """

    def call(self, model: ir.Model) -> StripResult:
        """Remove the marked activations in place."""
        removed = []
        for node, _ in activations(model):
            value, graph = node.inputs[0], node.graph
            assert value is not None
            assert isinstance(graph, ir.Graph)
            constants = [v for v in node.inputs[1:] if v is not None]
            removed.append(label(node))
            node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            for constant in constants:
                unread = not constant.uses() and not constant.is_graph_output()
                if unread and constant.is_initializer() and not constant.is_graph_input():
                    del graph.initializers[constant.name or ""]
        return StripResult(model, bool(removed), tuple(removed))
