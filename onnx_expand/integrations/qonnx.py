"""QONNX: fold as a transformation of a `ModelWrapper`.

Nodes of QONNX's own domain (Quant, BipolarQuant, Trunc) are not linear and stay; fold merges the
nodes between them. Annotations (datatypes, layouts) of the remaining tensors are preserved.
"""

from __future__ import annotations

from typing import Any

from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation

import onnx_expand

__all__ = ["FoldLinear"]


class FoldLinear(Transformation):  # type: ignore[misc]  # qonnx has no types
    """Merge linear nodes, as `onnx_expand.fold` does."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    def apply(self, model: ModelWrapper) -> tuple[ModelWrapper, bool]:
        """Fold a model; the second value is False, since a second run would change nothing."""
        folded = onnx_expand.fold(model.model, **self._options)
        return ModelWrapper(folded), False
