"""Numbers in the types of tensors: rounded once, and refused where a type cannot hold them."""

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
    """Refuse a map that cannot be written in a type.

    Args:
        affine: The map.
        dtype: The type.
        held: Gives the `least_channel` of the maps that it is made of.

    Raises:
        RefusedError: A number does not fit the type, or an attribute ONNX's integers.
    """
    _check_scale(affine, dtype, held)
    _check_attributes(affine)
    for array in (affine.weight, affine.bias):
        if array is None:
            continue
        for number in (float(array.max(initial=0.0)), float(array.min(initial=0.0))):
            _rounded(np.asarray(number), dtype)


def _check_attributes(affine: AffineConv) -> None:
    """Refuse a map whose attributes do not fit ONNX's integers."""
    numbers = (*affine.strides, *affine.dilations, *affine.pads, *affine.extension)
    if max(map(abs, numbers), default=0) >= 1 << 63:
        raise RefusedError(
            Refusal(Reason.GEOMETRY, f"its strides, dilations or pads {numbers} are too large")
        )


def constant(array: Array, name: str, dtype: ir.DataType, spill: Spill | None = None) -> ir.Value:
    """A value that holds an array, rounded once to a type.

    Args:
        array: The numbers.
        name: What to call it.
        dtype: The type.
        spill: Where a large one goes, if not into memory.

    Raises:
        RefusedError: A number does not fit the type.
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


_BLOCK = 1 << 24  # bytes in float64 that are rounded at a time


def _check_scale(affine: AffineConv, dtype: ir.DataType, held: Callable[[], float]) -> None:
    """Refuse weights of which all that one channel writes, or reads, is too small for a type.

    That loses nothing where the type holds these very numbers, where what is lost is nothing
    beside the channel's bias, and where the source's own numbers are as small.
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


_LARGE_INPUT = 2.0**40  # what an input may be, for what is lost of its weight to count as nothing
_SMALLER = 4.0  # numbers that are not smaller by more than this are as small as the source's


def least_channel(affine: AffineConv) -> float:
    """The least, over channels, of the largest weight with which one is written, or read."""
    numbers = affine.weight.reshape(affine.group, -1, *affine.weight.shape[1:])
    return min(map(_least, _largest(numbers)))


def _largest(numbers: Array) -> tuple[Array, Array]:
    """The largest magnitudes in [group, n, m, *kernel]: [group, n] and [group, m]."""
    inner = tuple(range(3, numbers.ndim))
    # Magnitudes of all numbers would be as large as the weight.
    found = [
        np.maximum(numbers.max(axis=axes, initial=0.0), -numbers.min(axis=axes, initial=0.0))
        for axes in ((2, *inner), (1, *inner))
    ]
    return found[0], found[1]


def _least(numbers: Array) -> float:
    """The least number above zero."""
    return float(np.min(numbers, initial=np.inf, where=numbers > 0))


def _refuse_numbers(number: float, dtype: ir.DataType) -> NoReturn:
    raise RefusedError(
        Refusal(
            Reason.OVERFLOW,
            f"merged weights come to {number:.3g}, which {dtype} does not hold",
            {"weight": number},
            "fold the model in a wider type",
        )
    )
