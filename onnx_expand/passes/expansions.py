"""The report of an expansion: the expanded and the skipped layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx_expand.cost import Inspection
from onnx_expand.documents import table
from onnx_expand.errors import Refusal
from onnx_expand.passes.plans import How
from onnx_expand.passes.report import Verification

__all__ = [
    "ExpandReport",
    "Expansion",
    "Skipped",
]


@dataclass(frozen=True)
class Expansion:
    """One layer that was expanded.

    Attributes:
        node: The layer's name.
        op: The layer's op type.
        kernel: Extents of the layer's kernel, empty for a matrix.
        how: The complete options of its expansion.
        result: The names of the nodes that replace it.
        widths: Channels before, between and after the layers of the chain, or main branch.
        parameters: Parameter counts before and after.
        macs: Multiply-accumulates before and after; None where a shape is not static.
        residual: With `preserve`, the relative norm of the error in the weight of the new layers.
        condition: With `preserve`, the ratio of the unit's fastest to its slowest learning
            direction, compared with a single layer; infinite if some directions cannot be learned.
        is_exact: Whether the new layers compute the same as the layer, up to rounding.
    """

    node: str
    op: str
    kernel: tuple[int, ...]
    how: How
    result: tuple[str, ...]
    widths: tuple[int, ...]
    parameters: tuple[int, int] = (0, 0)
    macs: tuple[int | None, int | None] = (None, None)
    residual: float | None = None
    condition: float | None = None
    is_exact: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the expansion as plain JSON types; an infinite condition is the text `inf`."""
        own = table(self)
        how = {name: value for name, value in own.pop("how").items() if value is not None}
        return {"exact": own.pop("is_exact"), **own, "how": how}


@dataclass(frozen=True)
class Skipped:
    """A layer that was not expanded, and the reason."""

    node: str
    refusal: Refusal


@dataclass(frozen=True)
class ExpandReport:
    """The result of expand, with the costs of the model before and after.

    Attributes:
        expanded: The expanded layers.
        skipped: The other layers, each with its reason.
        before: The model before expansion.
        after: The expanded model; for the initial values `contracted`, before contraction.
        init: The kind of initial values of the new layers.
        verification: Whether both models compute the same; the pass itself runs no model.
    """

    expanded: tuple[Expansion, ...]
    skipped: tuple[Skipped, ...]
    before: Inspection
    after: Inspection
    init: str = "random"
    verification: Verification = field(default_factory=Verification)

    @property
    def residual(self) -> float:
        """The largest relative norm of the error in a weight."""
        return max((e.residual or 0.0 for e in self.expanded), default=0.0)

    @property
    def is_exact(self) -> bool:
        """Whether the expanded model is meant to compute the same as the original."""
        return self.init == "preserve" and all(e.is_exact for e in self.expanded)

    @property
    def plan(self) -> dict[str, How]:
        """How each layer was expanded, by name; with this plan expand repeats the expansion."""
        return {e.node: e.how for e in self.expanded}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        own = table(self)
        skipped = [{"node": s.node, **s.refusal.as_dict()} for s in self.skipped]
        return {"schema": 1, **own, "skipped": skipped}
