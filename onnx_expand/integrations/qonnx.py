"""QONNX: fold as a transformation of a `ModelWrapper`.

Nodes of QONNX's own domain (Quant, BipolarQuant, Trunc) are not linear and stay; what is folded
lies between them. Annotations of tensors (datatypes, layouts) go with the tensors that stay.
"""

from __future__ import annotations

from typing import Any

from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation

import onnx_expand

__all__ = ["FoldLinear"]


class FoldLinear(Transformation):  # type: ignore[misc]  # qonnx has no types
    """Merge linear nodes, as `onnx_expand.fold` does.

    Args:
        options: The options of `onnx_expand.fold`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    def apply(self, model: ModelWrapper) -> tuple[ModelWrapper, bool]:
        """Fold a model; the second value asks for no further run, since folding needs one."""
        folded = onnx_expand.fold(model.model, **self._options)
        return ModelWrapper(folded), False
