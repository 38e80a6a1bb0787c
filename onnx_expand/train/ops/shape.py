"""Operators that read or change shapes, or create tensors from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.train.host import integers, numbers
from onnx_expand.train.registry import op

Sizes = list[int | float] | torch.Tensor


@op("Shape", host_rank=1)
def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> list[int]:
    """Return the extents, as Python ints."""
    return list(x.shape)[start:end]


@op("Size", host_rank=0)
def size(x: torch.Tensor) -> int:
    """Return the number of elements, as a Python int."""
    return x.numel()


@op("Reshape", static=(1,))
def reshape(x: torch.Tensor, shape: Sizes, *, allowzero: int = 0) -> torch.Tensor:
    """Reshape x; 0 keeps an extent, and -1 is inferred."""
    sizes = integers(shape)
    if not allowzero:
        sizes = [x.shape[i] if extent == 0 else extent for i, extent in enumerate(sizes)]
    return x.reshape(sizes)


@op("Flatten")
def flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """Reshape to a matrix: the axes before `axis`, and the others."""
    cut = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:cut]), math.prod(x.shape[cut:]))


@op("Squeeze", static=(1,))
def squeeze(x: torch.Tensor, axes: Sizes | None = None) -> torch.Tensor:
    """Remove some axes of extent 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


@op("Unsqueeze", static=(1,))
def unsqueeze(x: torch.Tensor, axes: Sizes) -> torch.Tensor:
    """Insert axes of extent 1."""
    given = integers(axes)
    rank = x.ndim + len(given)
    for axis in sorted(a % rank for a in given):
        x = x.unsqueeze(axis)
    return x


@op("Transpose")
def transpose(x: torch.Tensor, *, perm: Sequence[int] | None = None) -> torch.Tensor:
    """Permute the axes, by default in reverse order."""
    return x.permute(list(perm) if perm is not None else list(range(x.ndim))[::-1])


@op("Expand", static=(1,))
def expand(x: torch.Tensor, shape: Sizes) -> torch.Tensor:
    """Broadcast x with a shape."""
    wanted = integers(shape)
    rank = max(x.ndim, len(wanted))
    own = [1] * (rank - x.ndim) + list(x.shape)
    sizes = [1] * (rank - len(wanted)) + wanted
    return x.expand([n if size == 1 else size for n, size in zip(own, sizes, strict=True)])


@op("Tile", since=6, static=(1,))
def tile(x: torch.Tensor, repeats: Sizes) -> torch.Tensor:
    """Repeat x along each axis."""
    return x.repeat(integers(repeats))


@op("Concat", since=4)
def concat(*parts: torch.Tensor, axis: int) -> torch.Tensor:
    """Concatenate tensors along an axis."""
    return torch.cat(parts, dim=axis)


@op("Split", since=2, static=(1,))
def split(
    x: torch.Tensor,
    split: Sizes | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    outputs: int,
) -> tuple[torch.Tensor, ...]:
    """Split along an axis into given sizes, or into equal parts with a smaller last one."""
    if split is not None:
        return torch.split(x, integers(split), dim=axis)
    return torch.split(x, -(-x.shape[axis] // outputs), dim=axis)


@op("ConstantOfShape", static=(0,))
def constant_of_shape(
    shape: Sizes,
    *,
    value: tuple[float, torch.dtype] = (0.0, torch.float32),
    like: torch.Tensor | None,
) -> torch.Tensor:
    """Create a tensor of one repeated value."""
    device = None if like is None else like.device
    return torch.full(integers(shape), value[0], dtype=value[1], device=device)


@op("Range", static=(0, 1, 2))
def arange(
    start: float | torch.Tensor,
    limit: float | torch.Tensor,
    delta: float | torch.Tensor,
    *,
    like: torch.Tensor | None,
) -> torch.Tensor:
    """Create the values from start to limit (exclusive) in steps of delta."""
    dtype = start.dtype if isinstance(start, torch.Tensor) else None
    first, last, step = (numbers(bound)[0] for bound in (start, limit, delta))
    device = None if like is None else like.device
    return torch.arange(first, last, step, dtype=dtype, device=device)


_PAD_MODES = {"constant", "reflect", "edge", "wrap"}


@op("Pad", since=2, static=(1, 2, 3), allowed={"mode": _PAD_MODES})
def pad(
    x: torch.Tensor,
    pads: Sizes,
    value: float | torch.Tensor | None = None,
    axes: Sizes | None = None,
    *,
    mode: str = "constant",
) -> torch.Tensor:
    """Pad each side; negative amounts crop."""
    amounts = integers(pads)
    half = len(amounts) // 2
    where = range(x.ndim) if axes is None else [axis % x.ndim for axis in integers(axes)]
    begin, end = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(where):
        begin[axis], end[axis] = amounts[position], amounts[half + position]
    if mode == "constant":
        pairs = [amount for pair in list(zip(begin, end, strict=True))[::-1] for amount in pair]
        filled = 0 if value is None else numbers(value)[0]
        if not x.is_floating_point() and filled:
            # F.pad takes a float, which cannot represent all integers above 2^53.
            inside = F.pad(torch.ones_like(x, dtype=torch.bool), pairs)
            return torch.where(inside, F.pad(x, pairs), x.new_full((), filled))
        return F.pad(x, pairs, value=filled)
    for axis in range(x.ndim):
        if begin[axis] or end[axis]:
            x = _pad_axis(x, axis, begin[axis], end[axis], mode)
    return x


def _pad_axis(x: torch.Tensor, axis: int, begin: int, end: int, mode: str) -> torch.Tensor:
    length = x.shape[axis]
    index = torch.arange(-begin, length + end, device=x.device)
    if mode == "edge":
        index = index.clamp(0, length - 1)
    elif mode == "wrap":
        index = index % length
    else:
        period = max(2 * (length - 1), 1)
        index = index % period
        index = torch.where(index < length, index, period - index)
    return x.index_select(axis, index)


@op("DepthToSpace")
def depth_to_space(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    """Rearrange channels into blocks of positions, [N, C, H, W] to [N, C / b^2, H b, W b]."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        return (
            x.reshape(n, b, b, c // b**2, h, w)
            .permute(0, 3, 4, 1, 5, 2)
            .reshape(n, c // b**2, h * b, w * b)
        )
    return F.pixel_shuffle(x, b)


@op("SpaceToDepth")
def space_to_depth(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    """Rearrange blocks of positions into channels, [N, C, H, W] to [N, C b^2, H / b, W / b]."""
    n, c, h, w = x.shape
    b = blocksize
    if mode != "DCR":
        return F.pixel_unshuffle(x, b)
    blocks = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * b**2, h // b, w // b)
