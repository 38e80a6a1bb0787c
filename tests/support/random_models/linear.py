"""Generators of nodes that fold handles: convolutions, matrix products, scales, pooling, joins."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.random_models.builder import Builder, Dims, Value

__all__ = ["LINEAR", "arithmetic", "batch_norm", "conv", "gemm", "matmul", "out_extent"]


def out_extent(
    axis: tuple[int, ...], kernel: int, stride: int, dilation: int, pads: int
) -> tuple[int, ...]:
    """Return the extent after a window."""
    return tuple((s + pads - (kernel - 1) * dilation - 1) // stride + 1 for s in axis)


def _channels(x: Value) -> int:
    return x.fixed[1] if x.rank > 1 else -1


def conv(b: Builder, x: Value, channels: int | None = None, same: bool = False) -> Value | None:
    """Append a convolution in 1 to 3 dimensions: grouped, dilated, strided, with any padding."""
    c, rank = _channels(x), x.rank - 2
    if b.scope.dtype == np.float64 or rank not in {1, 2, 3} or c < 1:
        return None
    n = int(channels or b.pick(1, 2, 3, 4, c))
    group = int(b.pick(1, 1, *[g for g in (2, 3, c) if c % g == 0 == n % g]))
    kernel = [int(b.pick(1, 1, 2, 3)) for _ in range(rank)]
    stride, dilation = int(b.pick(1, 1, 1, 2)), int(b.pick(1, 1, 1, 2))
    if same:
        kernel, stride = [int(b.pick(1, 1, 3))] * rank, 1
    begin = [int(b.pick(0, 0, 1, 2)) for _ in range(rank)]
    end = [int(b.pick(0, 0, 1, p)) for p in begin]
    attributes: dict[str, Any] = {}
    auto = "" if same else b.pick("", "", "", "", "", "SAME_UPPER", "SAME_LOWER", "VALID")
    if same:
        begin = end = [(k - 1) * dilation // 2 for k in kernel]
    if auto:
        dilation = 1
        attributes["auto_pad"] = auto
    elif any(begin) or any(end) or b.chance(0.5):
        attributes["pads"] = begin + end
    pads = [0 if auto else first + last for first, last in zip(begin, end, strict=True)]
    sizes = [
        tuple(-(-s // stride) for s in axis)
        if auto.startswith("SAME")
        else out_extent(axis, kernel[i], stride, dilation, pads[i])
        for i, axis in enumerate(x.dims[2:])
    ]
    if min(map(min, sizes)) < 1:
        return None
    if stride > 1 or b.chance(0.3):
        attributes["strides"] = [stride] * rank
    if dilation > 1 or b.chance(0.3):
        attributes["dilations"] = [dilation] * rank
    if group > 1 or b.chance(0.3):
        attributes["group"] = group
    if b.chance(0.5):
        attributes["kernel_shape"] = kernel
    inputs = [x.name, b.weight(n, c // group, *kernel)]
    if b.chance(0.5):
        inputs.append(b.weight(n))
    return b.add("Conv", inputs, (x.dims[0], _same(x, n), *sizes), **attributes)


def _same(x: Value, n: int) -> tuple[int, ...]:
    return (n,) * len(x.dims[0])


def conv_transpose(b: Builder, x: Value) -> Value | None:
    """Append a transposed convolution."""
    c, rank = _channels(x), x.rank - 2
    if b.scope.dtype == np.float64 or rank not in {1, 2} or c < 1 or x.largest > 2000:
        return None
    n, group = int(b.pick(2, 4)), int(b.pick(*[g for g in (1, 1, 2) if c % g == 0]))
    kernel, stride, pad = int(b.pick(1, 2, 3)), int(b.pick(1, 2)), int(b.pick(0, 0, 1))
    more = int(b.pick(0, 0, stride - 1))
    sizes = [
        tuple((s - 1) * stride + kernel - 2 * pad + more for s in axis) for axis in x.dims[2:]
    ]
    if min(map(min, sizes)) < 1:
        return None
    inputs = [x.name, b.weight(c, n // group, *[kernel] * rank)]
    if b.chance(0.5):
        inputs.append(b.weight(n))
    attributes: dict[str, Any] = {"strides": [stride] * rank, "pads": [pad] * (2 * rank)}
    if more:
        attributes["output_padding"] = [more] * rank
    return b.add(
        "ConvTranspose", inputs, (x.dims[0], _same(x, n), *sizes), group=group, **attributes
    )


def batch_norm(b: Builder, x: Value) -> Value | None:
    """Append a batch normalization in inference form."""
    c = _channels(x)
    if c < 1:
        return None
    inputs = [x.name, b.constant(b.rng.uniform(0.5, 2, c)), b.weight(c), b.weight(c)]
    inputs.append(b.constant(b.rng.uniform(0.3, 2, c)))
    attributes: dict[str, Any] = {}
    if b.chance(0.5):
        attributes["epsilon"] = float(b.pick(1e-3, 1e-5, 0.1))
    if b.chance(0.3):
        attributes["momentum"] = 0.8
    return b.add("BatchNormalization", inputs, x.dims, **attributes)


def arithmetic(b: Builder, x: Value) -> Value | None:
    """Append a constant operand of Add, Sub, Mul or Div, in any position and shape."""
    op = b.pick("Add", "Sub", "Mul", "Div", "Mul", "Add")
    shapes: list[tuple[int, ...]] = [(), (1,), (1,) * x.rank]
    for axis, extent in enumerate(x.fixed):
        if extent > 0:
            shape = [1] * x.rank
            shape[axis] = extent
            shapes += [tuple(shape), tuple(shape[axis:])]
    if -1 not in x.fixed and x.largest <= 400:
        shapes += [x.fixed, x.fixed[1:]]
    shape = b.pick(*shapes)
    values = b.rng.uniform(0.5, 2, shape) * b.pick(1, -1)
    if op in {"Add", "Sub"} and b.chance(0.2):
        values = np.zeros(shape)
    if op == "Mul" and b.chance(0.1):
        values = np.ones(shape)
    inputs = [x.name, b.constant(values)]
    if op != "Div" and b.chance(0.4):
        inputs.reverse()
    return b.add(op, inputs, x.dims)


def gemm(b: Builder, x: Value) -> Value | None:
    """Append a Gemm with its constant on either side, both transpositions, factors, and any C."""
    if x.rank != 2:
        return None
    n = int(b.pick(1, 2, 3, 4, 5))
    flip_a, flip_b = int(b.pick(0, 0, 1)), int(b.pick(0, 1))
    rows, columns = x.dims if not flip_a else x.dims[::-1]
    first = b.chance(0.65)
    if not first:
        rows, columns = x.dims if not flip_b else x.dims[::-1]
    inner = columns if first else rows
    if len(set(inner)) > 1:
        return None
    k = inner[0]
    side = (n, k) if (flip_b if first else not flip_a) else (k, n)
    w = b.weight(*side)
    outer = _same(x, n)
    dims: Dims = (rows, outer) if first else (outer, columns)
    inputs = [x.name, w] if first else [w, x.name]
    attributes: dict[str, Any] = {}
    if flip_a or b.chance(0.3):
        attributes["transA"] = flip_a
    if flip_b or b.chance(0.3):
        attributes["transB"] = flip_b
    if b.chance(0.3):
        attributes["alpha"] = float(b.pick(0.5, 2.0, 1.0, -1.5))
    if b.chance(0.3):
        attributes["beta"] = float(b.pick(0.5, 2.0, 1.0, 0.0))
    if b.opset < 11 or b.chance(0.6):
        inputs.append(_bias(b, dims))
    return b.add("Gemm", inputs, dims, **attributes)


def _bias(b: Builder, dims: Dims) -> str:
    m, n = (axis[0] if len(set(axis)) == 1 else -1 for axis in dims)
    shapes: list[tuple[int, ...]] = [(), (1,), (1, 1)]
    if n > 0:
        shapes += [(n,), (1, n), (n,), (1, n)]
    if m > 0:
        shapes.append((m, 1))
        if n > 0:
            shapes.append((m, n))
    known = [v for v in b.visible() if v.dims == dims]
    if known and b.chance(0.15):
        return str(b.pick(*known).name)
    return b.weight(*b.pick(*shapes))


def matmul(b: Builder, x: Value, columns: int | None = None) -> Value | None:
    """Append a MatMul with a constant on either side, of rank one up to the rank of x."""
    if x.rank < 1:
        return None
    n = int(columns or b.pick(1, 2, 3, 4))
    if x.rank == 1 or columns is not None or b.chance(0.7):
        k = x.fixed[-1]
        if k < 1:
            return None
        if columns is None and x.rank > 1 and b.chance(0.08):
            return b.add("MatMul", [x.name, b.weight(k)], x.dims[:-1])
        lead = [1] * int(b.pick(0, 0, 0, 1, 2)) if x.rank > 2 else []
        w = b.weight(*lead[: x.rank - 2], k, n)
        return b.add("MatMul", [x.name, w], (*x.dims[:-1], _same(x, n)))
    k = x.fixed[-2]
    if k < 1:
        return None
    w = b.weight(n, k)
    return b.add("MatMul", [w, x.name], (*x.dims[:-2], _same(x, n), x.dims[-1]))


def product(b: Builder, x: Value) -> Value | None:
    """Append a matrix product of two activations."""
    if x.rank < 2:
        return None
    fits = [
        v for v in b.visible()
        if v.rank == x.rank and v.dims[:-2] == x.dims[:-2] and v.dims[-2] == x.dims[-1]
    ]  # fmt: skip
    if not fits:
        return None
    other = b.pick(*fits)
    scaled = arithmetic(b, x) if b.chance(0.3) else x
    return b.add(
        "MatMul", [scaled.name if scaled else x.name, other.name], (*x.dims[:-1], other.dims[-1])
    )


_EQUATIONS = (
    ("nchw,oc->nohw", 4), ("nchw,oc->nhwo", 4), ("nlc,co->nlo", 3), ("nc,oc->no", 2),
    ("oc,nc->no", 2), ("ncl,oc->nol", 3), ("nc,c->nc", 2), ("nlc,lo->noc", 3), ("ab,bc->ca", 2),
    ("nlc,c->nl", 3), ("nchw,ohw->nco", 4),
)  # fmt: skip


def einsum(b: Builder, x: Value) -> Value | None:
    """Append an Einsum of a value and a constant."""
    if b.opset < 12:
        return None
    fits = [equation for equation, rank in _EQUATIONS if rank == x.rank]
    if not fits:
        return None
    equation = b.pick(*fits)
    left, result = equation.split("->")
    terms = left.split(",")
    own = 1 if equation.startswith("oc,") else 0
    extents = dict(zip(terms[own], x.dims, strict=True))
    for letter in terms[1 - own]:
        extents.setdefault(letter, (int(b.pick(1, 2, 3)),) * b.scope.sizes)
    shape = [extents[letter] for letter in terms[1 - own]]
    if any(len(set(axis)) > 1 for axis in shape):
        return None
    w = b.weight(*[axis[0] for axis in shape])
    inputs = [w, x.name] if own else [x.name, w]
    return b.add("Einsum", inputs, tuple(extents[c] for c in result), equation=equation)


def pool(b: Builder, x: Value) -> Value | None:
    """Append an average or maximum pooling."""
    op = b.pick("AveragePool", "AveragePool", "AveragePool", "MaxPool")
    rank = x.rank - 2
    if rank not in {1, 2} or (b.scope.dtype == np.float64 and op == "AveragePool"):
        return None
    if b.scope.dtype == np.float16 and op == "MaxPool":
        return None
    kernel, stride, pad = int(b.pick(2, 3)), int(b.pick(1, 2)), int(b.pick(0, 0, 1))
    sizes = [out_extent(axis, kernel, stride, 1, 2 * pad) for axis in x.dims[2:]]
    if min(map(min, sizes)) < 1:
        return None
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * rank, "strides": [stride] * rank}
    if pad:
        attributes["pads"] = [pad] * (2 * rank)
    if op == "AveragePool" and b.chance(0.5):
        attributes["count_include_pad"] = int(b.pick(0, 1))
    return b.add(op, [x.name], (*x.dims[:2], *sizes), **attributes)


def global_pool(b: Builder, x: Value) -> Value | None:
    """Append a mean over all positions."""
    if x.rank < 3 or b.scope.dtype == np.float64:
        return None
    return b.add("GlobalAveragePool", [x.name], (*x.dims[:2], *[_same(x, 1)] * (x.rank - 2)))


def reduce(b: Builder, x: Value) -> Value | None:
    """Append a mean, sum or maximum over some axes."""
    op = b.pick("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax")
    if x.rank < 2:
        return None
    axes = sorted({int(a) for a in b.rng.integers(1, x.rank, int(b.pick(1, 2)))})
    keep = int(b.pick(0, 1))
    dims = tuple(
        _same(x, 1) if axis in axes else extent
        for axis, extent in enumerate(x.dims)
        if keep or axis not in axes
    )
    given = [a - x.rank for a in axes] if b.opset >= 11 and b.chance(0.3) else axes
    if b.opset >= (13 if op == "ReduceSum" else 18):
        return b.add(op, [x.name, b.integers(given)], dims, keepdims=keep)
    return b.add(op, [x.name], dims, axes=given, keepdims=keep)


LINEAR = (
    *[conv] * 5,
    *(conv_transpose, batch_norm, batch_norm, batch_norm),
    *[arithmetic] * 4,
    *[gemm] * 4,
    *(matmul, matmul, matmul, product, einsum, einsum, pool, global_pool, reduce),
)
"""The makers, as often as they are to be drawn."""
