"""Generators of values that are split, shuffled, read twice and joined, and of composite patterns.

A `mixed` model consists of these and of all other generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.random_models.builder import Builder, Dims, Value
from tests.support.random_models.control import CONTROL, call
from tests.support.random_models.factors import attention, rectifier, scale, squeeze_and_excite
from tests.support.random_models.joins import JOINS
from tests.support.random_models.linear import (
    LINEAR,
    arithmetic,
    batch_norm,
    conv,
    gemm,
    global_pool,
    matmul,
    pool,
    reduce,
)
from tests.support.random_models.moves import MOVES, PLAIN

__all__ = ["MIXED"]

_SMALL = 1500


def _even(b: Builder, x: Value) -> int | None:
    """Return an axis that can be split in two or more."""
    axes = [axis for axis, extent in enumerate(x.fixed) if extent > 1 and axis > 0]
    likely = [axis for axis in axes if axis in {1, x.rank - 1}]
    return int(b.pick(*axes, *likely * 3)) if axes else None


def _with(b: Builder, dims: Dims, axis: int, extent: int) -> Dims:
    return (*dims[:axis], (extent,) * b.scope.sizes, *dims[axis + 1 :])


def cut(b: Builder, x: Value, axis: int, counts: Sequence[int]) -> list[Value]:
    """Split a value by one Split, by Slices or by Gathers."""
    how = b.pick("Split", "Split", "Split", "Slice", "Gather")
    found = []
    if how == "Split":
        where = b.axes(x, axis=axis)
        if b.opset < 13:
            names = b.node("Split", [x.name], len(counts), axis=where, split=list(counts))
        else:
            sizes = b.integers(counts)
            names = b.node("Split", [x.name, sizes], len(counts), axis=where)
        found = [Value(n, _with(b, x.dims, axis, c)) for n, c in zip(names, counts, strict=True)]
        b.values += found
        return found
    start = 0
    for count in counts:
        dims = _with(b, x.dims, axis, count)
        end = start + count
        if how == "Gather":
            picks = b.integers(range(start, end))
            found.append(b.add("Gather", [x.name, picks], dims, axis=axis))
        elif b.opset < 10:
            bounds = {"starts": [start], "ends": [end], "axes": [axis]}
            found.append(b.add("Slice", [x.name], dims, **bounds))
        else:
            given = [b.integers([v]) for v in (start, end, b.axes(x, axis=axis))]
            found.append(b.add("Slice", [x.name, *given], dims))
        start = end
    return found


def _counts(b: Builder, extent: int) -> list[int]:
    """Draw extents of two to four parts."""
    n = int(b.pick(2, 2, 3, 4))
    if n > extent:
        n = extent
    places = sorted(int(i) for i in 1 + b.rng.permutation(extent - 1)[: n - 1])
    return [after - before for before, after in zip([0, *places], [*places, extent], strict=True)]


def touched(b: Builder, x: Value) -> Value:
    """Return a value, or apply a few small nodes that keep its extents."""
    for _ in range(int(b.pick(0, 1, 1, 2))):
        maker = b.pick(scale, scale, batch_norm, arithmetic, rectifier, turned)
        found = maker(b, x)
        x = found if found is not None and found.dims == x.dims else x
    return x


def turned(b: Builder, x: Value) -> Value | None:
    """Append a scale between a transposition and its inverse."""
    if x.rank < 2:
        return None
    perm = [int(i) for i in b.rng.permutation(x.rank)]
    there = b.add("Transpose", [x.name], tuple(x.dims[i] for i in perm), perm=perm)
    mapped = scale(b, there) or there
    return b.add("Transpose", [mapped.name], x.dims, perm=[int(i) for i in np.argsort(perm)])


def rearranged(b: Builder, x: Value) -> Value | None:
    """Process parts of a value separately, and join them in any order, some of them twice."""
    axis = _even(b, x)
    if axis is None or x.largest > _SMALL:
        return None
    parts = cut(b, x, axis, _counts(b, x.fixed[axis]))
    order = [int(i) for i in b.rng.permutation(len(parts))]
    if b.chance(0.25):
        order.append(int(b.pick(*order)))
    if b.chance(0.15):
        order = order[1:]
    again = [touched(b, parts[i]) for i in order]
    total = sum(part.fixed[axis] for part in again)
    dims = _with(b, x.dims, axis, total)
    return b.add("Concat", [part.name for part in again], dims, axis=b.axes(x, axis=axis))


def halves(b: Builder, x: Value) -> Value | None:
    """Add or multiply equal parts of a value, with one through a gate."""
    axis = _even(b, x)
    if axis is None or x.fixed[axis] % 2:
        return None
    half = x.fixed[axis] // 2
    first, second = cut(b, x, axis, [half, half])
    first, second = touched(b, first), touched(b, second)
    if b.chance(0.3):
        second = b.add("Sigmoid", [second.name], second.dims)
    pair = [first.name, b.pick(second, second, second, first).name]
    return b.add(b.pick("Add", "Sub", "Mul", "Mul", "Sum"), pair, first.dims)


def twice(b: Builder, x: Value) -> Value | None:
    """Append a node that reads one value twice."""
    op = b.pick("Add", "Sub", "Mul", "Sum", "Concat", "MatMul")
    if op == "Concat":
        if x.rank < 2 or x.largest > _SMALL or x.fixed[1] < 1:
            return None
        dims = _with(b, x.dims, 1, 2 * x.fixed[1])
        return b.add(op, [x.name, x.name], dims, axis=b.axes(x, axis=1))
    if op == "MatMul":
        if x.rank < 2 or x.dims[-1] != x.dims[-2]:
            return None
        small = b.add("Tanh", [x.name], x.dims)
        return b.add(op, [small.name, small.name], x.dims)
    return b.add(op, [x.name, x.name], x.dims)


def _reshaped(b: Builder, x: Value, shape: Sequence[int], dims: Dims) -> Value:
    return b.add("Reshape", [x.name, b.integers(shape)], dims)


def shuffle(b: Builder, x: Value) -> Value | None:
    """Append a channel shuffle: channels in groups, whose members are brought together."""
    c = x.fixed[1] if x.rank > 1 else -1
    groups = [g for g in (2, 3, 4) if c > g and c % g == 0]
    if not groups or -1 in x.fixed[2:] or x.rank > 4:
        return None
    g, sizes = int(b.pick(*groups)), b.scope.sizes
    rest = x.fixed[2:]
    apart = (x.dims[0], (g,) * sizes, (c // g,) * sizes, *x.dims[2:])
    y = _reshaped(b, x, [0, g, c // g, *rest], apart)
    if b.chance(0.3):
        y = touched(b, y)
    perm = [0, 2, 1, *range(3, len(apart))]
    z = b.add("Transpose", [y.name], tuple(apart[i] for i in perm), perm=perm)
    return _reshaped(b, z, [0, c, *rest], x.dims)


def pixels(b: Builder, x: Value) -> Value | None:
    """Append a DepthToSpace or SpaceToDepth, spelled out."""
    if x.rank != 4 or -1 in x.fixed[1:] or x.largest > _SMALL:
        return None
    c, h, w = x.fixed[1:]
    s = b.scope.sizes
    if c % 4 == 0 and b.chance(0.6):
        shape, perm = b.pick(
            ([0, c // 4, 2, 2, h, w], [0, 1, 4, 2, 5, 3]),
            ([0, 2, 2, c // 4, h, w], [0, 3, 4, 1, 5, 2]),
        )
        target = [0, c // 4, 2 * h, 2 * w]
    elif h % 2 == 0 == w % 2:
        shape = [0, c, h // 2, 2, w // 2, 2]
        perm = b.pick([0, 3, 5, 1, 2, 4], [0, 1, 3, 5, 2, 4])
        target = [0, 4 * c, h // 2, w // 2]
    else:
        return None
    apart = (x.dims[0], *[(e,) * s for e in shape[1:]])
    y = _reshaped(b, x, shape, apart)
    z = b.add("Transpose", [y.name], tuple(apart[i] for i in perm), perm=perm)
    return _reshaped(b, z, target, (x.dims[0], *[(e,) * s for e in target[1:]]))


def gelu(b: Builder, x: Value) -> Value | None:
    """Append a GELU of five nodes, with factors in any order and sometimes a wrong one."""
    if b.opset < 9 or b.scope.dtype != np.float32:
        return None
    root = b.constant(np.sqrt(2) if b.chance(0.8) else 1.3)
    (inner,) = b.node("Div", [x.name, root])
    (erf,) = b.node("Erf", [inner])
    (gate,) = b.node("Add", b.pick([erf, b.constant(1.0)], [b.constant(1.0), erf]))
    half = b.constant(0.5 if b.chance(0.8) else 0.7)
    how = b.pick("last", "first", "gate")
    if how == "first":
        (low,) = b.node("Mul", [x.name, half])
        return b.add("Mul", [low, gate], x.dims)
    if how == "gate":
        (gate,) = b.node("Mul", [gate, half])
        return b.add("Mul", [gate, x.name], x.dims)
    (product,) = b.node("Mul", [x.name, gate])
    return b.add("Mul", [product, half], x.dims)


def layer_norm(b: Builder, x: Value) -> Value | None:
    """Append a normalization of the last axis, node by node, with or without its mean."""
    c = x.fixed[-1] if x.rank > 1 else -1
    if c < 2 or b.scope.dtype == np.float16:
        return None
    one = (*x.dims[:-1], (1,) * b.scope.sizes)

    def mean(value: Value) -> Value:
        if b.opset >= 18:
            return b.add("ReduceMean", [value.name, b.integers([-1])], one, keepdims=1)
        axes = [x.rank - 1 if b.opset < 11 else -1]
        return b.add("ReduceMean", [value.name], one, axes=axes, keepdims=1)

    centred = x
    if b.chance(0.7):
        centred = b.add("Sub", [x.name, mean(x).name], x.dims)
    if b.chance(0.5):
        square = b.add("Mul", [centred.name, centred.name], x.dims)
    else:
        square = b.add("Pow", [centred.name, b.constant(2.0)], x.dims)
    shifted = b.add("Add", [mean(square).name, b.constant(1e-2)], one)
    root = b.add("Sqrt", [shifted.name], one)
    y = b.add("Div", [centred.name, root.name], x.dims)
    if b.chance(0.8):
        y = b.add("Mul", [y.name, b.weight(c)], x.dims)
    return b.add("Add", [y.name, b.weight(c)], x.dims) if b.chance(0.7) else y


def heads(b: Builder, x: Value) -> Value | None:
    """Append multi-head attention: one projection split in three, with a scale somewhere."""
    c = x.fixed[-1] if x.rank == 3 else -1
    if c < 2 or c % 2 or x.largest > 400 or b.scope.dtype == np.float16:
        return None
    s, lead = b.scope.sizes, x.dims[:2]
    wide = matmul(b, x, 3 * c)
    assert wide is not None
    apart = (*lead, (2,) * s, (c // 2,) * s)
    turned_dims = (lead[0], (2,) * s, lead[1], (c // 2,) * s)
    sides = []
    for part in cut(b, wide, 2, [c, c, c]):
        split = _reshaped(b, touched(b, part), [0, 0, 2, c // 2], apart)
        sides.append(b.add("Transpose", [split.name], turned_dims, perm=[0, 2, 1, 3]))
    query, key, value = (touched(b, side) if b.chance(0.4) else side for side in sides)
    flipped = (*turned_dims[:2], turned_dims[3], turned_dims[2])
    key = b.add("Transpose", [key.name], flipped, perm=[0, 1, 3, 2])
    square = (*turned_dims[:2], lead[1], lead[1])
    scores = b.add("MatMul", [query.name, key.name], square)
    scores = (scale(b, scores) or scores) if b.chance(0.5) else scores
    weights = b.add("Softmax", [scores.name], square, axis=3)
    mixed = b.add("MatMul", [weights.name, value.name], turned_dims)
    back = b.add("Transpose", [mixed.name], apart, perm=[0, 2, 1, 3])
    merged = _reshaped(b, back, [0, 0, c], (*lead, (c,) * s))
    return matmul(b, merged, c)


def batched(b: Builder, x: Value) -> Value | None:
    """Append matrix products whose constants have a matrix for each sample of an axis."""
    if x.rank < 3 or -1 in x.fixed[1:] or x.largest > _SMALL:
        return None
    n = int(b.pick(1, 2, 3))
    k, lead = x.fixed[-1], [*x.fixed[1:-2]]
    if b.chance(0.3):
        lead = [e if b.chance(0.5) else 1 for e in lead]
    w = b.weight(*lead, k, n)
    y = b.add("MatMul", [x.name, w], (*x.dims[:-1], (n,) * b.scope.sizes))
    return touched(b, y)


def repeated(b: Builder, x: Value) -> Value | None:
    """Repeat channels, by Tile or by factors that broadcast."""
    if x.rank < 2 or x.largest > 400 or x.fixed[1] < 1:
        return None
    n, c = int(b.pick(2, 3)), x.fixed[1]
    if c == 1 and b.chance(0.6):
        shape = (n, *[1] * (x.rank - 2))
        values = b.constant(b.rng.uniform(0.5, 2, shape))
        return b.add(b.pick("Mul", "Add"), [x.name, values], _with(b, x.dims, 1, n))
    times = [1, n, *[1] * (x.rank - 2)]
    return b.add("Tile", [x.name, b.integers(times)], _with(b, x.dims, 1, n * c))


def focus(b: Builder, x: Value) -> Value | None:
    """Concatenate every other row and column as channels."""
    if x.rank != 4 or b.opset < 10 or x.fixed[1] < 1 or x.largest > _SMALL:
        return None
    if any(e % 2 for axis in x.dims[2:] for e in axis):
        return None
    dims = (*x.dims[:2], *(tuple(e // 2 for e in axis) for axis in x.dims[2:]))
    places = [(0, 0), (1, 0), (0, 1), (1, 1)]
    if b.chance(0.3):
        b.rng.shuffle(places)
    parts = []
    for i, j in places[: int(b.pick(4, 4, 2))]:
        bounds = [b.integers(v) for v in ([i, j], [2**31, 2**31], [2, 3], [2, 2])]
        parts.append(b.add("Slice", [x.name, *bounds], dims))
    if b.chance(0.3):
        parts[0] = touched(b, parts[0])
    dims = _with(b, dims, 1, len(parts) * x.fixed[1])
    return b.add("Concat", [p.name for p in parts], dims, axis=1)


def exposed(b: Builder, x: Value) -> Value | None:
    """Read a value twice: by a map and by a function."""
    mapped = b.pick(conv, batch_norm, arithmetic, matmul, gemm, pool)(b, x)
    if mapped is not None:
        rectifier(b, x)
    return mapped if isinstance(mapped, Value) else None


def depthwise(b: Builder, x: Value) -> Value | None:
    """Append a depthwise and a pointwise convolution, in either order."""
    c, rank = x.fixed[1] if x.rank > 1 else -1, x.rank - 2
    if rank not in {1, 2, 3} or c < 1 or b.scope.dtype == np.float64:
        return None
    kernel = [int(b.pick(1, 3))] * rank
    given: dict[str, Any] = {"pads": [k // 2 for k in kernel] * 2}
    deep = [b.weight(c, 1, *kernel), *([b.weight(c)] if b.chance(0.5) else [])]
    wide = [b.weight(c, c, *[1] * rank), *([b.weight(c)] if b.chance(0.5) else [])]
    first = b.chance(0.5)
    for own in (deep, wide) if first else (wide, deep):
        more = {**given, "group": c} if own is deep else {}
        x = b.add("Conv", [x.name, *own], x.dims, **more)
        x = touched(b, x)
    return x


_PATTERNS = (
    *[rearranged] * 6,
    *[halves] * 4,
    *(twice, twice, shuffle, shuffle, pixels, pixels, gelu, layer_norm, layer_norm, heads, heads),
    *(batched, repeated, repeated, focus, focus, exposed, exposed, depthwise, depthwise, turned),
)
_OTHERS = (
    *LINEAR,
    *JOINS,
    *MOVES,
    *PLAIN,
    *[scale] * 6,
    *(rectifier, rectifier, reduce, global_pool, squeeze_and_excite, attention),
)

MIXED = (*_PATTERNS * 2, *_OTHERS, *CONTROL, call)
"""The makers, as often as they are to be drawn."""
