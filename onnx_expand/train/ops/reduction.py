"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from onnx_expand.train.host import integers
from onnx_expand.train.registry import op

Axes = int | Sequence[int] | torch.Tensor | None
Dims = tuple[int, ...]


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


def _sum(x: torch.Tensor, dims: Dims, keepdim: bool) -> torch.Tensor:
    return x.sum(dims, keepdim, dtype=x.dtype)


def _product(x: torch.Tensor, dims: Dims, keepdim: bool) -> torch.Tensor:
    for axis in sorted((dim % x.ndim for dim in dims), reverse=True):
        x = x.prod(axis, keepdim, dtype=x.dtype)
    return x


def _largest(x: torch.Tensor, dims: Dims, keepdim: bool) -> torch.Tensor:
    return (
        _of_nothing(x, dims, keepdim, largest=False) if _empty(x, dims) else x.amax(dims, keepdim)
    )


def _smallest(x: torch.Tensor, dims: Dims, keepdim: bool) -> torch.Tensor:
    return (
        _of_nothing(x, dims, keepdim, largest=True) if _empty(x, dims) else x.amin(dims, keepdim)
    )


def _empty(x: torch.Tensor, dims: Dims) -> bool:
    return any(x.shape[dim] == 0 for dim in dims)


def _of_nothing(x: torch.Tensor, dims: Dims, keepdim: bool, *, largest: bool) -> torch.Tensor:
    """Return the neutral element: the largest or smallest value of the type."""
    if x.dtype.is_floating_point:
        limit: float = math.inf if largest else -math.inf
    elif x.dtype == torch.bool:
        limit = largest
    else:
        limit = torch.iinfo(x.dtype).max if largest else torch.iinfo(x.dtype).min
    return x.sum(dims, keepdim, dtype=x.dtype).fill_(limit)


class _Reduction(NamedTuple):
    """What to compute along the axes, of each element before, and of each result after."""

    along: Callable[[torch.Tensor, Dims, bool], torch.Tensor]
    before: Callable[[torch.Tensor], torch.Tensor] | None = None
    after: Callable[[torch.Tensor], torch.Tensor] | None = None


_REDUCTIONS = {
    "ReduceL1": _Reduction(_sum, before=torch.abs),
    "ReduceL2": _Reduction(_sum, before=torch.square, after=torch.sqrt),
    "ReduceLogSum": _Reduction(_sum, after=torch.log),
    "ReduceLogSumExp": _Reduction(torch.logsumexp),
    "ReduceMax": _Reduction(_largest),
    "ReduceMean": _Reduction(torch.mean),
    "ReduceMin": _Reduction(_smallest),
    "ReduceProd": _Reduction(_product),
    "ReduceSum": _Reduction(_sum),
    "ReduceSumSquare": _Reduction(_sum, before=torch.square),
}


def reduce(
    x: torch.Tensor,
    axes: Axes = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    operator: str,
) -> torch.Tensor:
    """Compute one of the reductions of ONNX; without axes, its elementwise part."""
    along, before, after = _REDUCTIONS[operator]
    dims = _axes(x, axes, noop_with_empty_axes)
    if not dims and before is after is None and along is not torch.logsumexp:
        return x  # float64 would not hold every int64
    y = x if along in {_largest, _smallest} else _exact(x)
    y = y if before is None else before(y)
    y = along(y, dims, bool(keepdims)) if dims else y
    return _as(y if after is None else after(y), x.dtype)


for _name in _REDUCTIONS:
    op(_name, static=(1,), operator=_name)(reduce)


@op("ArgMax", largest=True)
@op("ArgMin", largest=False)
def arg_extreme(
    x: torch.Tensor,
    *,
    axis: int = 0,
    keepdims: int = 1,
    select_last_index: int = 0,
    largest: bool,
) -> torch.Tensor:
    """Return the index of the largest or smallest element along an axis."""
    search = torch.argmax if largest else torch.argmin
    if not select_last_index:
        return search(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - search(x.flip(axis), axis, bool(keepdims))
