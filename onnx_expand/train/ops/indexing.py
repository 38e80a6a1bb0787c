"""Gather, scatter and slice elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from onnx_expand.train.host import integers
from onnx_expand.train.registry import op

Positions = list[int | float] | torch.Tensor


@op("Gather", weights=(0,))
def gather(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """Gather slices of x at some indices of an axis."""
    axis %= x.ndim
    flat = _positive(indices.reshape(-1), x.shape[axis])
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, flat).reshape(shape)


@op("GatherElements")
def gather_elements(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """Gather one element of x along an axis for each element of `indices`."""
    return x.gather(axis, _positive(indices, x.shape[axis]))


@op("GatherND")
def gather_nd(x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    """Gather slices of x at the coordinates in the last axis of `indices`."""
    outer, depth = x.shape[:batch_dims], indices.shape[-1]
    batch = [
        torch.arange(extent, device=x.device).reshape(
            [-1 if axis == i else 1 for axis in range(indices.ndim - 1)]
        )
        for i, extent in enumerate(outer)
    ]
    return x[(*batch, *(indices[..., i] for i in range(depth)))]


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("ScatterND", allowed={"reduction": {"none", *_REDUCTIONS}})
def scatter_nd(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, reduction: str = "none"
) -> torch.Tensor:
    """Replace the slices of x at some coordinates, or combine them with updates."""
    where = tuple(indices[..., i] for i in range(indices.shape[-1]))
    if reduction in {"none", "add"}:
        return x.index_put(where, updates, accumulate=reduction == "add")
    # A slice of x is a row of a matrix; each update addresses one row.
    depth = indices.shape[-1]
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, place in enumerate(where):
        rows = rows * x.shape[axis] + _positive(place, x.shape[axis])
    width = math.prod(x.shape[depth:])
    flat = x.reshape(-1, width)
    index = rows.reshape(-1, 1).expand(-1, width)
    how = _REDUCTIONS[reduction]
    return flat.scatter_reduce(0, index, updates.reshape(-1, width), how).reshape(x.shape)


@op("Scatter")
@op("ScatterElements", allowed={"reduction": {"none", *_REDUCTIONS}})
def scatter_elements(
    x: torch.Tensor,
    indices: torch.Tensor,
    updates: torch.Tensor,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> torch.Tensor:
    """Replace the elements of x at some indices of an axis, or combine them with updates."""
    index = _positive(indices, x.shape[axis])
    if reduction != "none":
        return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])
    return x.scatter(axis, index, updates)


@op("TensorScatter", allowed={"mode": {"linear", "circular"}})
def tensor_scatter(
    cache: torch.Tensor,
    update: torch.Tensor,
    first: torch.Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> torch.Tensor:
    """Write new entries into a cache along an axis, from a separate position for each sample."""
    axis %= cache.ndim
    places = torch.arange(update.shape[axis], device=cache.device)
    if first is not None:
        places = places + first.reshape(-1, 1)
    if mode == "circular":
        places = places % cache.shape[axis]
    shape = [1] * cache.ndim
    shape[0], shape[axis] = places.numel() // update.shape[axis], update.shape[axis]
    return cache.scatter(axis, places.reshape(shape).expand_as(update), update)


@op("Slice", static=(1, 2, 3, 4))
def slices(
    x: torch.Tensor,
    starts: Positions,
    ends: Positions,
    axes: Positions | None = None,
    steps: Positions | None = None,
) -> torch.Tensor:
    """Slice x from start to end (exclusive) by step, along some axes."""
    first, last = integers(starts), integers(ends)
    where: Sequence[int] = range(len(first)) if axes is None else integers(axes)
    strides = [1] * len(first) if steps is None else integers(steps)
    picks = [slice(None)] * x.ndim
    for axis, start, end, step in zip(where, first, last, strides, strict=True):
        if step > 0:
            picks[axis] = slice(start, end, step)
        else:
            # torch does not support negative steps.
            positions = range(*slice(start, end, step).indices(x.shape[axis]))
            x = x.index_select(
                axis, torch.tensor(list(positions), dtype=torch.int64, device=x.device)
            )
    return x[tuple(picks)]


@op("OneHot", static=(1,))
def one_hot(
    indices: torch.Tensor, depth: Positions, values: torch.Tensor, *, axis: int = -1
) -> torch.Tensor:
    """Create the one-hot encoding of indices, with the given values for off and on."""
    length = integers(depth)[0]
    axis = axis % (indices.ndim + 1)
    places = torch.arange(length, device=indices.device)
    places = places.reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    wanted = torch.where(indices < 0, indices + length, indices).unsqueeze(axis)
    return torch.where(places == wanted, values[1], values[0])


@op("Trilu", static=(1,))
def trilu(x: torch.Tensor, k: Positions | None = None, *, upper: int = 1) -> torch.Tensor:
    """Return the upper or lower triangle, with zeros elsewhere."""
    diagonal = 0 if k is None else integers(k)[0]
    return x.triu(diagonal) if upper else x.tril(diagonal)


@op("TopK", static=(1,))
def top_k(
    x: torch.Tensor,
    k: Positions,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
    outputs: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest or smallest elements along an axis, and their indices.

    The first of equal elements comes first, which `torch.topk` does not guarantee.
    """
    found = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = integers(k)[0]
    return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)


def _positive(indices: torch.Tensor, length: int) -> torch.Tensor:
    """Convert indices that count from the end to nonnegative ones."""
    return torch.where(indices < 0, indices + length, indices).to(torch.int64)


@op("Unique")
def unique(
    x: torch.Tensor, *, outputs: int, axis: int | None = None, sorted: int = 1
) -> tuple[torch.Tensor, ...]:
    """Return the unique elements or slices, first indices, inverse indices and counts."""
    flat = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis
    values, inverse, counts = torch.unique(
        flat, sorted=True, return_inverse=True, return_counts=True, dim=along
    )
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel())
    first = first.scatter_reduce(0, inverse, places, "amin")
    if not sorted:
        order = first.argsort()
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=x.device)
        values, first, counts = values.index_select(along, order), first[order], counts[order]
        inverse = rank[inverse]
    return values, first, inverse, counts
