"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from onnx_expand.train.host import integers
from onnx_expand.train.registry import op

Axes = int | Sequence[int] | torch.Tensor | None


def _axes(x: torch.Tensor, axes: Axes, noop: int) -> tuple[int, ...]:
    """Return the axes to reduce; without any these are all axes, or none if `noop` is set."""
    given = () if axes is None else tuple(integers(axes))
    if given or noop:
        return given
    return tuple(range(x.ndim))


def _exact(x: torch.Tensor) -> torch.Tensor:
    """Convert integers to float64, in which onnxruntime adds and multiplies them."""
    return x.double() if x.dtype in {torch.int32, torch.int64} else x


def _as(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a result to its own type: truncate to integers and saturate."""
    if dtype == y.dtype or dtype not in {torch.int32, torch.int64}:
        return y.to(dtype)
    limits = torch.iinfo(dtype)
    inside = y.clamp(limits.min, limits.max).to(dtype)
    # float64 cannot represent the largest int64; a value rounded up to 2^63 would become negative.
    inside = torch.where(y >= float(limits.max), limits.max, inside)
    return torch.where(y.isnan(), limits.min, inside)


def _total(exact: torch.Tensor, axes: Axes, keepdims: int, noop: int) -> torch.Tensor:
    dims = _axes(exact, axes, noop)
    return exact.sum(dim=dims, keepdim=bool(keepdims), dtype=exact.dtype) if dims else exact


@op("ReduceSum", static=(1,))
def reduce_sum(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the sum."""
    if not _axes(x, axes, noop_with_empty_axes):
        return x  # float64 would not hold every int64
    return _as(_total(_exact(x), axes, keepdims, noop_with_empty_axes), x.dtype)


@op("ReduceMean", static=(1,))
def reduce_mean(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the mean."""
    dims = _axes(x, axes, noop_with_empty_axes)
    return _as(_exact(x).mean(dim=dims, keepdim=bool(keepdims)), x.dtype) if dims else x


@op("ReduceMax", static=(1,))
def reduce_max(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the maximum."""
    dims = _axes(x, axes, noop_with_empty_axes)
    if dims and any(x.shape[dim] == 0 for dim in dims):
        return _of_nothing(x, dims, keepdims, largest=False)
    return x.amax(dim=dims, keepdim=bool(keepdims)) if dims else x


@op("ReduceMin", static=(1,))
def reduce_min(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the minimum."""
    dims = _axes(x, axes, noop_with_empty_axes)
    if dims and any(x.shape[dim] == 0 for dim in dims):
        return _of_nothing(x, dims, keepdims, largest=True)
    return x.amin(dim=dims, keepdim=bool(keepdims)) if dims else x


def _of_nothing(
    x: torch.Tensor, dims: Sequence[int], keepdims: int, *, largest: bool
) -> torch.Tensor:
    """Return the neutral element: the largest or smallest value of the type."""
    if x.dtype.is_floating_point:
        limit: float = math.inf if largest else -math.inf
    elif x.dtype == torch.bool:
        limit = largest
    else:
        limit = torch.iinfo(x.dtype).max if largest else torch.iinfo(x.dtype).min
    return x.sum(dim=list(dims), keepdim=bool(keepdims), dtype=x.dtype).fill_(limit)


@op("ReduceProd", static=(1,))
def reduce_prod(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the product."""
    dims = _axes(x, axes, noop_with_empty_axes)
    if not dims:
        return x
    dtype, x = x.dtype, _exact(x)
    for axis in sorted((dim % x.ndim for dim in dims), reverse=True):
        x = x.prod(dim=axis, keepdim=bool(keepdims), dtype=x.dtype)
    return _as(x, dtype)


@op("ReduceL1", static=(1,))
def reduce_l1(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the sum of absolute values."""
    total = _total(_exact(x).abs(), axes, keepdims, noop_with_empty_axes)
    return _as(total, x.dtype)


@op("ReduceL2", static=(1,))
def reduce_l2(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the Euclidean norm."""
    squares = _total(_exact(x).square(), axes, keepdims, noop_with_empty_axes)
    return _as(squares.sqrt(), x.dtype)


@op("ReduceSumSquare", static=(1,))
def reduce_sum_square(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the sum of squares."""
    total = _total(_exact(x).square(), axes, keepdims, noop_with_empty_axes)
    return _as(total, x.dtype)


@op("ReduceLogSum", static=(1,))
def reduce_log_sum(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the logarithm of the sum."""
    total = _total(_exact(x), axes, keepdims, noop_with_empty_axes)
    return _as(total.log(), x.dtype)


@op("ReduceLogSumExp", static=(1,))
def reduce_log_sum_exp(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    """Compute the logarithm of the sum of exponentials."""
    dims = _axes(x, axes, noop_with_empty_axes)
    exact = _exact(x)
    sums = torch.logsumexp(exact, dim=dims, keepdim=bool(keepdims)) if dims else exact
    return _as(sums, x.dtype)


@op("ArgMax")
def arg_max(
    x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> torch.Tensor:
    """Return the index of the largest element along an axis."""
    if not select_last_index:
        return x.argmax(dim=axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - x.flip(axis).argmax(dim=axis, keepdim=bool(keepdims))


@op("ArgMin")
def arg_min(
    x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> torch.Tensor:
    """Return the index of the smallest element along an axis."""
    if not select_last_index:
        return x.argmin(dim=axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - x.flip(axis).argmin(dim=axis, keepdim=bool(keepdims))
