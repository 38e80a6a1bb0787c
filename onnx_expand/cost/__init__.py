"""The cost of nodes, and the machine model that weights its terms."""

from onnx_expand.cost.machine import MACHINE, Machine
from onnx_expand.cost.nodes import Cost, Inspection, inspect_model, node_counts, parameters_of

__all__ = [
    "MACHINE",
    "Cost",
    "Inspection",
    "Machine",
    "inspect_model",
    "node_counts",
    "parameters_of",
]
