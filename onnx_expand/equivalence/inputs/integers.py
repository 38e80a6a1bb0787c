"""Draw integers that satisfy the demands of their consumers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_expand.equivalence.inputs.demand import Demand, Meaning
from onnx_expand.equivalence.inputs.sizes import Sizes, extents_at
from onnx_expand.graph.shapes import Dim

__all__ = ["draw_factors", "draw_integers"]

Array: TypeAlias = npt.NDArray[Any]

_MANY = 1 << 22  # rows above which they are drawn at random, not in turn
_NEAR = 1 << 16  # ranges up to which are sampled uniformly
_EXTENTS = (1, 2, 3)


def draw_integers(
    kind: Any,
    shape: tuple[int, ...],
    demand: Demand,
    rng: np.random.Generator,
    *,
    sizes: Sizes,
    reach: int,
    turn: int = 0,
    least: bool = False,
    landmarks: Sequence[float] = (),
) -> Array:
    """Draw an array of integers.

    Args:
        kind: The type.
        shape: The shape of the array.
        demand: The constraints on the values.
        rng: The source of randomness.
        sizes: The extents of the symbolic dimensions, to which bounds may refer.
        reach: The bound on the magnitude of unconstrained values.
        turn: The index of the draw; consecutive draws cover consecutive rows of a table.
        least: Whether to return the least allowed values instead of random ones.
        landmarks: Values at which a model's behaviour may change.
    """
    info = np.iinfo(kind)
    if shape == () and demand.meaning in _WHOLE:
        shape = (1,)
        return np.asarray(draw_integers(kind, shape, demand, rng, sizes=sizes, reach=reach)[0])
    if demand.meaning in _WHOLE and len(shape) == 1:
        dims = None if demand.dims is None else [_extent(dim, sizes) for dim in demand.dims]
        numbers = _WHOLE[demand.meaning](shape[0], dims, demand, rng)
        return np.asarray(numbers, kind)
    low, high = _ends(demand, sizes, reach, info)
    if least:
        zero = 1 if demand.meaning == Meaning.DIVISOR else 0
        return np.full(shape, min(max(zero, low), high), kind)
    if demand.meaning == Meaning.MASK:
        return _mask(shape, rng).astype(kind)
    if demand.meaning == Meaning.ROW and demand.low is not None and demand.high is not None:
        return _rows(shape, low, high, rng, turn).astype(kind)
    array = _any(kind, shape, low, high, rng, landmarks, turn)
    if demand.meaning == Meaning.DIVISOR:
        array = np.where(array == 0, np.asarray(1, kind), array)
    return np.asarray(array)


def draw_factors(shape: tuple[int, ...], demand: Demand, rng: np.random.Generator) -> Array:
    """Draw floating-point sizes: scale factors of extents, or a few small values."""
    if demand.meaning == Meaning.SHARE:
        return np.asarray(rng.uniform(0.0, 0.9, shape))
    if demand.meaning != Meaning.FACTORS:
        low = demand.low or 0
        high = demand.high if isinstance(demand.high, int) else low + 3
        return np.asarray(rng.integers(low, high, shape, endpoint=True))
    factors = np.maximum(rng.choice([0.5, 1.0, 1.5, 2.0, 3.0], shape), demand.low or 0)
    if len(shape) == 1 and shape[0] > 2:
        factors[:2] = 1.0  # batch and channels keep their extents
    return np.asarray(factors)


def _extent(dim: Dim, sizes: Sizes) -> int | None:
    if dim is None:
        return None
    try:
        return extents_at([dim], sizes)[0]
    except KeyError:
        return None


def _ends(demand: Demand, sizes: Sizes, reach: int, info: Any) -> tuple[int, int]:
    """Return the least and the greatest value, both within the type."""
    free = demand.low is None and demand.high is None
    low = -reach if demand.low is None else demand.low
    high = _extent(demand.high, sizes)
    if high is None:
        # Extents known only at run time are assumed to be at least one.
        high = reach - 1 if demand.high is None else max(low, 0)
    if not free and demand.low is None:
        low = max(low, min(0, high))
    if free and reach > int(np.iinfo(np.int64).max):
        return int(info.min), int(info.max)
    low, high = max(low, int(info.min)), min(high, int(info.max))
    return low, max(low, high)


def _any(
    kind: Any,
    shape: tuple[int, ...],
    low: int,
    high: int,
    rng: np.random.Generator,
    landmarks: Sequence[float],
    turn: int,
) -> Array:
    """Draw values of every magnitude, the ends of the range, and landmarks."""
    even = rng.integers(low, high, shape, endpoint=True, dtype=kind)
    if high - low < _NEAR:
        small = even
    else:
        # Nearly all uniform draws from 64 bits would have a large magnitude.
        width = max(abs(low), abs(high)).bit_length()
        shifts = rng.integers(0, width, shape).astype(kind)
        small = np.right_shift(even, shifts)
    special = [low, high, min(high, low + 1), max(low, high - 1), 0, 1, -1]
    for mark in landmarks:
        special += [int(mark) - 1, int(mark), int(mark) + 1] if abs(mark) < 1 << 62 else []
    fitting = np.asarray([n for n in dict.fromkeys(special) if low <= n <= high] or [low], kind)
    places = (turn + 1) * np.arange(int(np.prod(shape))) + turn
    picks = rng.permutation(fitting)[places % len(fitting)].reshape(shape)
    choice = rng.random(shape)
    share = 0.7 if landmarks else 0.3
    mixed = np.where(choice < share, picks, np.where(choice < (1 + share) / 2, even, small))
    return np.clip(mixed, np.asarray(low, kind), np.asarray(high, kind)).astype(kind)


def _rows(
    shape: tuple[int, ...], low: int, high: int, rng: np.random.Generator, turn: int
) -> Array:
    """Draw rows of a table: the first and the last, then the others in random order, by turn."""
    count, size = high - low + 1, int(np.prod(shape))
    if count > _MANY:
        drawn = rng.integers(low, high, size, endpoint=True)
        drawn[:2] = (low, high)[: len(drawn[:2])]
        return drawn.reshape(shape)
    # The order must be the same for all draws.
    others = np.random.default_rng(count).permutation(np.arange(low, high + 1))
    ends = dict.fromkeys((low, high))
    order = np.concatenate([list(ends), others[(others != low) & (others != high)]])
    if size >= count:
        return rng.permutation(np.resize(order, size)).reshape(shape)
    return order[(turn * size + np.arange(size)) % count].reshape(shape)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw masks of ones with padding after or before them, of a different length per sample."""
    if not shape:
        return np.ones(shape, np.int64)
    length = shape[-1]
    counts = rng.integers(min(1, length), length, shape[:-1], endpoint=True)
    if counts.size:
        counts.reshape(-1)[0] = length if rng.random() < 0.3 else counts.reshape(-1)[0]
    places = np.arange(length)
    if rng.random() < 0.5:
        places = places[::-1]
    return (places < counts[..., None]).astype(np.int64)


Whole: TypeAlias = Callable[
    [int, "list[int | None] | None", Demand, np.random.Generator], Sequence[int] | Array
]


def _axes(
    count: int, dims: list[int | None] | None, demand: Demand, rng: np.random.Generator
) -> Array:
    if demand.meaning == Meaning.UNITS and dims is not None:
        units = [axis for axis, dim in enumerate(dims) if dim == 1]
        if len(units) >= count:
            return rng.permutation(units)[:count]
    rank = max(count, (demand.high if isinstance(demand.high, int) else count) + 1)
    return rng.permutation(rank)[:count]


def _parts(
    count: int, dims: list[int | None] | None, demand: Demand, rng: np.random.Generator
) -> Array:
    whole = dims[0] if dims and dims[0] is not None else count
    return rng.multinomial(whole, [1 / count] * count) if count else np.zeros(0, np.int64)


def _shape(
    count: int, dims: list[int | None] | None, demand: Demand, rng: np.random.Generator
) -> list[int]:
    """Draw extents whose product is that of the data, from its prime factors."""
    wanted = [1] * count
    if not count:
        return wanted
    known = [dim for dim in dims or () if dim is not None]
    if dims is None or len(known) < len(dims):
        wanted[int(rng.integers(0, count))] = -1
        return wanted
    rest = int(np.prod(known))
    for factor in _factors(rest):
        wanted[int(rng.integers(0, count))] *= factor
    if 0 in known:
        wanted[0] = 0
    return wanted


def _factors(number: int) -> list[int]:
    found, factor = [], 2
    while factor * factor <= number:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found + [number] * (number > 1)


def _expanded(
    count: int, dims: list[int | None] | None, demand: Demand, rng: np.random.Generator
) -> list[int]:
    """Draw ones, which keep the extent, or larger extents where the data has one."""
    wanted = [int(rng.choice(_EXTENTS)) for _ in range(count)]
    for back in range(1, count + 1):
        dim = 1 if dims is not None and back > len(dims) else (dims or [None] * count)[-back]
        if dim is None:
            wanted[-back] = 1
        elif dim != 1:
            wanted[-back] = int(rng.choice([1, dim]))
    return wanted


def _resized(
    count: int, dims: list[int | None] | None, demand: Demand, rng: np.random.Generator
) -> list[int]:
    own = [dim or 1 for dim in dims or [1] * count][:count]
    own += [1] * (count - len(own))
    changing = range(2, count) if count > 2 else range(count)
    for axis in changing:
        own[axis] = max(1, int(own[axis] * rng.choice([0.5, 1.0, 1.5, 2.0, 3.0])))
    return own


_WHOLE: dict[Meaning, Whole] = {
    Meaning.AXES: _axes,
    Meaning.UNITS: _axes,
    Meaning.PARTS: _parts,
    Meaning.SHAPE: _shape,
    Meaning.EXPANDED: _expanded,
    Meaning.RESIZED: _resized,
}
