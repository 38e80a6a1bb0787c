"""Ask tensors what they are at little cost.

onnx-ir decodes what a stored tensor says of itself whenever it is asked.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir

__all__ = ["decode_once", "is_external"]

_SMALL = 256  # elements; larger contents are not held a second time


class _Decoded(ir.serde.TensorProtoTensor):
    """A tensor of a proto whose shape, type and size do not change any more."""

    shape = functools.cached_property(lambda self: ir.Shape(self.raw.dims, frozen=True))
    dtype = functools.cached_property(lambda self: ir.DataType(self.raw.data_type))
    size = functools.cached_property(lambda self: math.prod(self.raw.dims))

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the contents, which are decoded once if they are small."""
        return self._small if self.size <= _SMALL else super().numpy()

    @functools.cached_property
    def _small(self) -> np.ndarray[Any, Any]:
        array = super().numpy()
        array.flags.writeable = False
        return array


def is_external(tensor: object) -> TypeGuard[ir.ExternalTensor]:
    """As `isinstance`, which takes much longer for onnx-ir's tensors since they are protocols."""
    return ir.ExternalTensor in type(tensor).__mro__


def decode_once(graph: ir.Graph) -> None:
    """Let the initializers of a graph, as read from a proto, remember what they decoded."""
    for value in graph.initializers.values():
        if type(value.const_value) is ir.serde.TensorProtoTensor:
            value.const_value = _Decoded(value.const_value.raw)
