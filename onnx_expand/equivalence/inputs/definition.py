"""Decide at which sizes a model is defined, among those at which onnxruntime runs it.

A Concat of an empty tensor with others that differ along another axis is invalid ONNX. onnxruntime
nevertheless counts the channels of the empty tensor and leaves uninitialized memory in their
place, which cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.shapes import Inference

__all__ = ["Definition"]

_SMALL = 8  # input extents from this on make no tensor empty


class Definition:
    """Decides at which sizes a model is defined."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._joins = [n for n in model.graph if n.domain == "" and n.op_type == "Concat"]

    def holds(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Return whether the model is defined for inputs of some shapes, as far as is known."""
        small = any(0 < extent <= _SMALL for shape in shapes.values() for extent in shape[1:])
        if not self._joins or not small:
            return True
        inference = Inference(self._model, shapes=shapes)
        inference.run()
        return all(_fits(node, inference) for node in self._joins)


def _fits(node: ir.Node, inference: Inference) -> bool:
    """Return whether the operands of a Concat have equal extents along all other axes."""
    operands = [() if v is None else inference.dims.get(v, ()) for v in node.inputs]
    known = [tuple(d for d in dims if isinstance(d, int)) for dims in operands]
    rank = len(operands[0]) if operands else 0
    if not rank or any(len(dims) != rank for dims in known):
        return True
    axis = int_of(node, "axis", missing=1) % rank
    return len({dims[:axis] + dims[axis + 1 :] for dims in known}) == 1
