"""What to merge, and by which figures."""

from __future__ import annotations

from enum import StrEnum

from onnx_expand.cost import Cost

__all__ = ["Policy"]


class Policy(StrEnum):
    """What to merge."""

    AUTO = "auto"
    """`marked` for a model that went through expand, `cheapest` for any other."""
    CHEAPEST = "cheapest"
    """The fewest multiply-accumulates, then elementwise steps, then parameters, then nodes."""
    ALWAYS = "always"
    """The fewest nodes, then multiply-accumulates, then elementwise steps, then parameters."""
    MARKED = "marked"
    """What expand made, and nothing else: the model is given back as it was."""
    LATENCY = "latency"
    """The least time, measured in onnxruntime on this machine."""

    @property
    def columns(self) -> tuple[int, ...]:
        """The order in which macs, parameters, nodes and elementwise steps are minimized."""
        return (2, 0, 3, 1) if self is Policy.ALWAYS else (0, 3, 1, 2)

    @property
    def counting(self) -> Policy:
        """The policy that decides where nothing is measured."""
        return Policy.CHEAPEST if self is Policy.LATENCY else self

    def key(self, cost: Cost) -> tuple[int, ...]:
        """What this policy minimizes."""
        figures = (cost.macs, cost.parameters, cost.nodes, cost.elementwise)
        return tuple(figures[column] for column in self.columns)
