"""Policies: what to merge, and which cost to minimize."""

from __future__ import annotations

from enum import StrEnum

from onnx_expand.cost import Cost
from onnx_expand.linear.terms.base import Price

__all__ = ["Policy"]


class Policy(StrEnum):
    """What to merge."""

    AUTO = "auto"
    """`marked` for a model made by expand, `cheapest` for any other."""
    CHEAPEST = "cheapest"
    """The fewest multiply-accumulates, then the least other time on the stated machine."""
    ALWAYS = "always"
    """The fewest nodes, then multiply-accumulates, then elementwise steps, then parameters."""
    MARKED = "marked"
    """Only the nodes made by expand: the original model is restored."""
    LATENCY = "latency"
    """The least time, measured in onnxruntime on this machine; no graph is folded by it."""

    def prefers(self, after: Price, before: Price) -> bool:
        """Return whether a price is lower: except for `always`, with no more products anywhere."""
        falls = self.key(after.cost) < self.key(before.cost)
        return falls and (self is Policy.ALWAYS or after.never_more(before))

    def key(self, cost: Cost) -> tuple[int, ...]:
        """Return the sort key that this policy minimizes."""
        if self is Policy.ALWAYS:
            return (cost.nodes, cost.macs, cost.elementwise, cost.parameters)
        return (cost.macs, cost.overhead)
