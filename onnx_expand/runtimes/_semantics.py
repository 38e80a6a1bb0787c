"""Operators for onnx's reference evaluator whose own version implements another opset.

The evaluator finds classes by the names of operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as _Resize

__all__ = ["SEMANTICS"]

Array = npt.NDArray[Any]
_SINCE = 13  # the first opset that normalizes one axis, not all axes from one on


class Softmax(OpRun):
    """Softmax; onnx's own normalizes one axis in all opsets."""

    def _run(self, x: Array, *, axis: int | None = None) -> tuple[Array]:
        rows, axis = _rows(self, x, axis)
        if not x.size:
            return (x,)
        powers = np.exp(rows - rows.max(axis=axis, keepdims=True))
        return ((powers / powers.sum(axis=axis, keepdims=True)).reshape(x.shape),)


class LogSoftmax(OpRun):
    """LogSoftmax; onnx's own takes the logarithm of values that may have underflowed to 0."""

    def _run(self, x: Array, *, axis: int | None = None) -> tuple[Array]:
        rows, axis = _rows(self, x, axis)
        if not x.size:
            return (x,)
        less = rows - rows.max(axis=axis, keepdims=True)
        total = np.exp(less).sum(axis=axis, keepdims=True)
        return ((less - np.log(total)).reshape(x.shape),)


class Hardmax(OpRun):
    """Hardmax; onnx's own uses one axis in all opsets."""

    def _run(self, x: Array, *, axis: int | None = None) -> tuple[Array]:
        rows, axis = _rows(self, x, axis)
        if not x.size:
            return (x,)
        y = np.zeros_like(rows)
        places = np.expand_dims(np.argmax(rows, axis=axis), axis)
        np.put_along_axis(y, places, np.ones((), x.dtype), axis=axis)
        return (y.reshape(x.shape),)


class Resize(_Resize):
    """Resize, except where implementations differ: those cases are refused."""

    def _run(  # type: ignore[override]
        self, x: Array, roi: Array | None, scales: Array | None = None, *rest: Any, **named: Any
    ) -> tuple[Array, ...]:
        mode = named.get("coordinate_transformation_mode") or "half_pixel"
        sizes = rest[0] if rest else named.get("sizes")
        axes = named.get("axes") or range(x.ndim)
        extents = [x.shape[axis] for axis in axes]
        if scales is not None and scales.size:
            places = [size * float(s) for size, s in zip(extents, scales, strict=True)]
            if any(not place.is_integer() for place in places):
                raise NotImplementedError("Resize to extents that are rounded")
            results = [int(place) for place in places]
        else:
            results = extents if sizes is None else [int(size) for size in sizes]
        shrinks = any(b == 1 != a for a, b in zip(extents, results, strict=True))
        if shrinks and mode in {"align_corners", "pytorch_half_pixel"}:
            raise NotImplementedError(f"Resize to one element in mode {mode}")
        found: tuple[Array, ...] = super()._run(x, roi, scales, *rest, **named)
        return found


SEMANTICS: list[type[OpRun]] = [Softmax, LogSoftmax, Hardmax, Resize]


def _rows(node: OpRun, x: Array, axis: int | None) -> tuple[Array, int]:
    """Return the array to normalize, and the axis along which to do so."""
    if node.run_params["opsets"].get("", 0) >= _SINCE:
        return x, -1 if axis is None else axis
    # The evaluator passes the default of the newest opset.
    stated = any(attribute.name == "axis" for attribute in node.onnx_node.attribute)
    start = axis % max(1, x.ndim) if stated and axis is not None else 1
    shape: Sequence[int] = x.shape
    return x.reshape(math.prod(shape[:start]), math.prod(shape[start:])), 1
