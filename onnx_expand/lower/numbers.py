"""Round weights to the dtype of a tensor once, and refuse values that it cannot represent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.spill import LARGE, Spill

__all__ = ["check_numbers", "constant", "least_channel"]

Array = npt.NDArray[np.float64]


def check_numbers(
    affine: AffineConv, dtype: ir.DataType, held: Callable[[], float] = lambda: np.inf
) -> None:
    """Refuse a map that a dtype cannot represent.

    Args:
        affine: The map.
        dtype: The dtype.
        held: Returns the `least_channel` of the maps of which it is composed.

    Raises:
        RefusedError: A value exceeds the range of the dtype, or an attribute that of int64.
    """
    _check_scale(affine, dtype, held)
    _check_attributes(affine)
    for array in (affine.weight, affine.bias):
        if array is None:
            continue
        for number in (float(array.max(initial=0.0)), float(array.min(initial=0.0))):
            _rounded(np.asarray(number), dtype)


def _check_attributes(affine: AffineConv) -> None:
    """Refuse a map whose attributes exceed the range of int64."""
    numbers = (*affine.strides, *affine.dilations, *affine.pads, *affine.extension)
    if max(map(abs, numbers), default=0) >= 1 << 63:
        raise RefusedError(
            Refusal(Reason.GEOMETRY, f"its strides, dilations or pads {numbers} are too large")
        )


def constant(array: Array, name: str, dtype: ir.DataType, spill: Spill | None = None) -> ir.Value:
    """Return a constant value with an array rounded to a dtype.

    Args:
        array: The elements.
        name: The name of the value.
        dtype: The dtype.
        spill: The file that stores large constants; None to keep them in memory.

    Raises:
        RefusedError: An element exceeds the range of the dtype.
    """
    tensor: ir.TensorProtocol | None = None
    if spill is not None and array.nbytes >= LARGE and array.ndim:
        rows = max(1, _BLOCK // max(1, array.nbytes // max(1, len(array))))
        blocks = (_rounded(array[i : i + rows], dtype) for i in range(0, len(array), rows))
        tensor = spill.written(blocks, array.shape, dtype, name)
    if tensor is None:
        tensor = ir.Tensor(_rounded(array, dtype), dtype, name=name)
    return ir.val(name, const_value=tensor)


def _rounded(array: Array, dtype: ir.DataType) -> npt.NDArray[Any]:
    with np.errstate(over="ignore", under="ignore"):
        cast = array.astype(dtype.numpy(), order="C")
    if not np.all(np.isfinite(cast)):
        _refuse_numbers(float(np.max(np.abs(array))), dtype)
    return cast


_BLOCK = 1 << 24  # bytes of float64 that are rounded at a time


def _check_scale(affine: AffineConv, dtype: ir.DataType, held: Callable[[], float]) -> None:
    """Refuse a map in which all weights of an output or input channel underflow.

    Nothing is lost if rounding is exact, if the loss is negligible against the bias of the output
    channel, or if the source's own weights are as small.
    """
    smallest = float(ml_dtypes.finfo(dtype.numpy()).smallest_normal)  # type: ignore[no-untyped-call]
    numbers = affine.weight.reshape(affine.group, -1, *affine.weight.shape[1:])
    if min(map(_least, _largest(numbers))) >= smallest:
        return
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(dtype.numpy()).astype(np.float64)
        lost = np.abs(rounded - numbers)
    bias = np.zeros(affine.weight.shape[0]) if affine.bias is None else affine.bias
    margin = float(ml_dtypes.finfo(dtype.numpy()).eps) / _LARGE_INPUT  # type: ignore[no-untyped-call]
    rows = lost.sum(axis=tuple(range(2, lost.ndim)))
    kept = rows <= np.abs(bias).reshape(rows.shape) * margin
    lost[kept] = 0
    numbers = np.where(kept.reshape(*kept.shape, *(1,) * (numbers.ndim - 2)), 0.0, numbers)
    for found, losses in zip(_largest(numbers), _largest(lost), strict=True):
        least = _least(found[losses > 0])
        if least < smallest and least < held() / _SMALLER:
            _refuse_numbers(least, dtype)


_LARGE_INPUT = 2.0**40  # the largest input for which a lost weight must be negligible
_SMALLER = 4.0  # weights smaller by at most this factor count as small as the source's


def least_channel(affine: AffineConv) -> float:
    """Return the least, over output and input channels, of a channel's largest weight."""
    numbers = affine.weight.reshape(affine.group, -1, *affine.weight.shape[1:])
    return min(map(_least, _largest(numbers)))


def _largest(numbers: Array) -> tuple[Array, Array]:
    """Return the largest magnitudes in [group, n, m, *kernel]: [group, n] and [group, m]."""
    inner = tuple(range(3, numbers.ndim))
    # max and min avoid an array of magnitudes as large as the weight.
    found = [
        np.maximum(numbers.max(axis=axes, initial=0.0), -numbers.min(axis=axes, initial=0.0))
        for axes in ((2, *inner), (1, *inner))
    ]
    return found[0], found[1]


def _least(numbers: Array) -> float:
    """Return the least positive element, infinity if there is none."""
    return float(np.min(numbers, initial=np.inf, where=numbers > 0))


def _refuse_numbers(number: float, dtype: ir.DataType) -> NoReturn:
    raise RefusedError(
        Refusal(
            Reason.OVERFLOW,
            f"merged weights reach {number:.3g}, which {dtype} cannot represent",
            {"weight": number},
            "fold the model in a wider type",
        )
    )
