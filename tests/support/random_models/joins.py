"""Generators of nodes that join several values."""

from __future__ import annotations

import numpy as np

from tests.support.random_models.builder import Builder, Dims, Value
from tests.support.random_models.linear import arithmetic, batch_norm, matmul

__all__ = ["JOINS", "join"]


def join(b: Builder, x: Value) -> Value | None:
    """Append a join of two values."""
    op = b.pick("Add", "Add", "Sub", "Mul", "Sum", "Mean", "Max", "Concat", "Concat")
    values = b.visible()
    if op == "Concat":
        return _concat(b, x, values)
    if op == "Mean" and b.scope.dtype == np.float64:
        return None
    fits = [v for v in values if v.dims == x.dims]
    if op in {"Add", "Sub", "Mul"} or (op == "Sum" and b.opset >= 8):
        fits += [v for v in values if v.rank == x.rank and _spreads(v.dims, x.dims)]
    inputs = [x.name, b.pick(*fits).name]
    if op in {"Sum", "Mean", "Max"} and b.chance(0.3):
        inputs.append(b.pick(*[v for v in values if v.dims == x.dims]).name)
    if b.chance(0.3):
        inputs.reverse()
    return b.add(op, inputs, x.dims)


def _spreads(own: Dims, wide: Dims) -> bool:
    return all(a == w or set(a) == {1} for a, w in zip(own, wide, strict=True))


def _concat(b: Builder, x: Value, values: list[Value]) -> Value | None:
    if x.rank < 2:
        return None
    axis = int(b.pick(1, 1, x.rank - 1, 0))

    def rest(value: Value) -> Dims:
        return (*value.dims[:axis], *value.dims[axis + 1 :])

    fits = [v for v in values if v.rank == x.rank and rest(v) == rest(x)]
    if max(v.largest for v in fits) > 4000:
        return None
    parts = [x, *[b.pick(*fits) for _ in range(int(b.pick(1, 1, 2)))]]
    b.rng.shuffle(parts)
    total = tuple(map(sum, zip(*[p.dims[axis] for p in parts], strict=True)))
    dims = (*x.dims[:axis], total, *x.dims[axis + 1 :])
    return b.add("Concat", [p.name for p in parts], dims, axis=b.axes(x, axis=axis))


def parts(b: Builder, x: Value) -> Value | None:
    """Split an axis in two, map the parts or not, and join them again."""
    axes = [axis for axis, extent in enumerate(x.fixed) if extent > 1]
    if not axes:
        return None
    axis = int(b.pick(*axes))
    extent = x.fixed[axis]
    first = int(b.pick(1, extent // 2))
    counts = [first, extent - first]
    where = b.axes(x, axis=axis)
    if b.opset < 13:
        names = b.node("Split", [x.name], 2, axis=where, split=counts)
    elif b.opset >= 18 and first == extent - first and b.chance(0.5):
        names = b.node("Split", [x.name], 2, axis=where, num_outputs=2)
    else:
        names = b.node("Split", [x.name, b.integers(counts)], 2, axis=where)
    found = []
    for name, count in zip(names, counts, strict=True):
        part = Value(name, (*x.dims[:axis], (count,) * b.scope.sizes, *x.dims[axis + 1 :]))
        b.values.append(part)
        mapped = b.pick(batch_norm, arithmetic)(b, part) if b.chance(0.6) else part
        found.append(mapped or part)
    if b.chance(0.3):
        found.reverse()
    return b.add("Concat", [p.name for p in found], x.dims, axis=axis)


def low_rank(b: Builder, x: Value) -> Value | None:
    """Append a narrow path beside a wide one."""
    if x.rank < 2 or x.fixed[-1] < 1:
        return None
    n = int(b.pick(3, 4))
    wide, down = matmul(b, x, n), matmul(b, x, 1)
    assert wide is not None
    assert down is not None
    up = matmul(b, down, n)
    assert up is not None
    return b.add("Add", [wide.name, up.name], wide.dims)


JOINS = (join, join, join, parts, low_rank)
"""The makers, as often as they are to be drawn."""
