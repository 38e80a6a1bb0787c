"""Generators of nodes that move values, and of nonlinear nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.support.random_models.builder import Builder, Dims, Value

__all__ = ["MOVES", "PLAIN", "activation", "nothing"]


def nothing(b: Builder, x: Value) -> Value | None:
    """Append a node that does nothing, or negates."""
    op = b.pick("Identity", "Neg", "Dropout", "Cast", "Reshape", "Transpose")
    if op == "Cast":
        return b.add(op, [x.name], x.dims, to=b.kind)
    if op == "Transpose":
        return b.add(op, [x.name], x.dims, perm=list(range(x.rank))) if x.rank else None
    if op == "Reshape":
        return b.add(op, [x.name, b.integers([0] * x.rank)], x.dims) if x.rank else None
    if op == "Dropout":
        if b.opset < 12:
            return b.add(op, [x.name], x.dims, ratio=0.3)
        inputs = [x.name, b.constant(0.3)] if b.chance(0.5) else [x.name]
        return b.add(op, inputs, x.dims)
    return b.add(op, [x.name], x.dims)


def around(b: Builder, x: Value) -> Value | None:
    """Append a cast to another type and back."""
    other = b.pick(TensorProto.FLOAT, TensorProto.DOUBLE)
    if other == b.kind or (b.kind == TensorProto.DOUBLE):
        return None
    (middle,) = b.node("Cast", [x.name], to=other)
    if b.chance(0.4):
        (middle,) = b.node("Neg", [middle])
    return b.add("Cast", [middle], x.dims, to=b.kind)


def activation(b: Builder, x: Value) -> Value | None:
    """Append an elementwise function."""
    ops = ["Relu", "Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Abs", "Clip", "PRelu"]
    if b.scope.dtype != np.float64:
        ops += ["HardSigmoid", "Elu", "Softplus"]
    if b.scope.dtype != np.float64 and b.opset >= 14:
        ops.append("HardSwish")
    op = b.pick(*ops)
    if op == "Clip":
        if b.opset < 11:
            if b.scope.dtype == np.float64:
                return None
            return b.add(op, [x.name], x.dims, min=-0.5, max=2.0)
        return b.add(op, [x.name, b.constant(-0.5), b.constant(2.0)], x.dims)
    if op == "PRelu":
        c = x.fixed[1] if x.rank > 1 else -1
        shape = (c, *[1] * (x.rank - 2)) if c > 0 else (1,)
        return b.add(op, [x.name, b.constant(b.rng.uniform(0.1, 0.5, shape))], x.dims)
    attributes: dict[str, Any] = {"alpha": 0.3} if op in {"LeakyRelu", "Elu"} else {}
    return b.add(op, [x.name], x.dims, **attributes)


def normalize(b: Builder, x: Value) -> Value | None:
    """Append a Softmax, or a normalization of layers or instances."""
    if x.rank < 2:
        return None
    op = b.pick("Softmax", "LayerNormalization", "InstanceNormalization")
    if op == "Softmax":
        return b.add(op, [x.name], x.dims, axis=int(b.pick(1, x.rank - 1)))
    if op == "LayerNormalization" and b.opset >= 17 and x.fixed[-1] > 0:
        c = x.fixed[-1]
        return b.add(op, [x.name, b.weight(c), b.weight(c)], x.dims, epsilon=1e-2)
    c = x.fixed[1]
    if op != "InstanceNormalization" or x.rank < 3 or c < 1 or b.scope.dtype == np.float64:
        return None
    return b.add(op, [x.name, b.weight(c), b.weight(c)], x.dims, epsilon=1e-1)


def transpose(b: Builder, x: Value) -> Value | None:
    """Append a Transpose."""
    if x.rank < 2:
        return None
    if x.rank == 4 and b.chance(0.5):
        perm = list(b.pick((0, 2, 3, 1), (0, 3, 1, 2)))
    else:
        perm = [int(i) for i in b.rng.permutation(x.rank)]
    dims = tuple(x.dims[i] for i in perm)
    if perm == list(range(x.rank))[::-1] and b.chance(0.5):
        return b.add("Transpose", [x.name], dims)
    return b.add("Transpose", [x.name], dims, perm=perm)


def reshape(b: Builder, x: Value) -> Value | None:
    """Append a Reshape that merges or splits axes, by numbers, 0 and -1, or a shape."""
    if x.rank < 1:
        return None
    options: list[list[int]] = []
    if x.rank >= 3:
        options += [[0, -1], [0, 0, -1], [0, -1, x.fixed[-1]], [-1, x.fixed[-1]]]
    if x.rank >= 2:
        options += [[-1], [x.fixed[0], -1], [0, -1, 1], [0, 1, -1], [1, 0, -1], [0, -1, 1, 1]]
        options.append([0, 0, *[1] * int(b.pick(1, 2)), *[0] * (x.rank - 2)])
    for axis, extent in enumerate(x.fixed):
        if extent > 1 and extent % 2 == 0:
            options += [[0] * axis + [2, extent // 2] + list(x.fixed[axis + 1 :])]
            options += [[0] * axis + [extent // 2, 2] + list(x.fixed[axis + 1 :])]
    if -1 not in x.fixed:
        options.append([*x.fixed[::-1]])
    if not options:
        return None
    target = [int(t) for t in b.pick(*options)]
    dims = _reshaped(x.dims, target)
    if dims is None or len(dims) > 5:
        return None
    if b.chance(0.1) and target[0] == 0 and b.formal is None:
        return b.add("Reshape", [x.name, _read_shape(b, x, target)], dims)
    return b.add("Reshape", [x.name, b.integers(target)], dims)


def _reshaped(dims: Dims, target: list[int]) -> Dims | None:
    """Return the extents after a Reshape, or None if it is not allowed."""
    if target.count(-1) > 1:
        return None
    columns = []
    for sizes in zip(*dims, strict=True):
        if any(t == 0 and i >= len(sizes) for i, t in enumerate(target)):
            return None
        new = [sizes[i] if t == 0 else t for i, t in enumerate(target)]
        total, known = int(np.prod(sizes)), int(np.prod([n for n in new if n != -1]))
        if known == 0 or total % known or (-1 not in new and total != known):
            return None
        columns.append([total // known if n == -1 else n for n in new])
    return tuple(zip(*columns, strict=True)) if columns[0] else None


def _read_shape(b: Builder, x: Value, target: list[int]) -> str:
    """Return a target whose first extent is read from the value itself."""
    (shape,) = b.node("Shape", [x.name])
    (first,) = b.node("Gather", [shape, b.integers([0])], axis=0)
    (both,) = b.node("Concat", [first, b.integers(target[1:])], axis=0)
    return both


def flatten(b: Builder, x: Value) -> Value | None:
    """Append a Flatten."""
    if x.rank < 1:
        return None
    axis = int(b.pick(*range(x.rank + 1), 1))
    sizes = list(zip(*x.dims, strict=True))
    rows = tuple(int(np.prod(s[:axis])) for s in sizes)
    columns = tuple(int(np.prod(s[axis:])) for s in sizes)
    return b.add("Flatten", [x.name], (rows, columns), axis=axis)


def squeeze(b: Builder, x: Value) -> Value | None:
    """Remove or add one axis of extent 1."""
    ones = [axis for axis, extent in enumerate(x.fixed) if extent == 1]
    if ones and b.chance(0.6):
        axis = int(b.pick(*ones))
        dims, op = (*x.dims[:axis], *x.dims[axis + 1 :]), "Squeeze"
    elif x.rank < 5:
        axis = int(b.rng.integers(x.rank + 1))
        dims, op = (*x.dims[:axis], (1,) * b.scope.sizes, *x.dims[axis:]), "Unsqueeze"
    else:
        return None
    if b.opset < 13:
        return b.add(op, [x.name], dims, axes=[axis])
    return b.add(op, [x.name, b.integers([axis])], dims)


def pad(b: Builder, x: Value) -> Value | None:
    """Append a Pad that adds or removes positions at some ends."""
    if x.rank < 2:
        return None
    mode = b.pick("constant", "constant", "constant", "constant", "reflect", "edge")
    begin, end = [0] * x.rank, [0] * x.rank
    for axis in range(1, x.rank):
        if b.chance(0.5) and (axis > 1 or b.chance(0.2)):
            low = -1 if mode == "constant" and min(x.dims[axis]) > 3 else 0
            begin[axis], end[axis] = (int(b.pick(0, 1, 2, low)) for _ in range(2))
            if mode == "reflect" and min(x.dims[axis]) < 4:
                return None
    amounts = begin + end
    dims = tuple(tuple(s + begin[i] + end[i] for s in axis) for i, axis in enumerate(x.dims))
    if min(min(axis) for axis in dims) < 1:
        return None
    value = float(b.pick(0, 0, 0, 1.5))
    if b.opset < 11:
        return b.add("Pad", [x.name], dims, pads=amounts, mode=mode, value=value)
    inputs = [x.name, b.integers(amounts)]
    if mode == "constant" and (value or b.chance(0.3)):
        inputs.append(b.constant(value))
    return b.add("Pad", inputs, dims, mode=mode)


def slices(b: Builder, x: Value) -> Value | None:
    """Append a Slice of an axis, sometimes backwards."""
    axes = [axis for axis in range(x.rank) if min(x.dims[axis]) > 1 and axis > 0]
    if not axes:
        return None
    axis = int(b.pick(*axes))
    start, end, step = (
        int(v) for v in b.pick((0, -1, 1), (1, 2**31, 1), (0, 2**31, 2), (-1, -99, -1))
    )
    if step < 0 and b.opset < 10:
        return None
    count = tuple(
        len(range(s)[slice(start, None if end == -99 else end, step)]) for s in x.dims[axis]
    )
    dims = (*x.dims[:axis], count, *x.dims[axis + 1 :])
    if b.opset < 10:
        return b.add("Slice", [x.name], dims, starts=[start], ends=[end], axes=[axis])
    inputs = [x.name, *[b.integers([v]) for v in (start, end, b.axes(x, axis=axis))]]
    if step != 1 or b.chance(0.3):
        inputs.append(b.integers([step]))
    return b.add("Slice", inputs, dims)


def gather(b: Builder, x: Value) -> Value | None:
    """Gather some positions of an axis, or a single one without the axis."""
    axes = [axis for axis, extent in enumerate(x.fixed) if extent > 0 and axis > 0]
    if not axes:
        return None
    axis = int(b.pick(*axes))
    extent = x.fixed[axis]
    if b.chance(0.3) and x.rank > 1:
        dims = (*x.dims[:axis], *x.dims[axis + 1 :])
        return b.add("Gather", [x.name, b.integers(int(b.rng.integers(extent)))], dims, axis=axis)
    n = int(b.pick(1, 2, extent))
    picks = b.rng.permutation(extent)[:n] if b.chance(0.5) else b.rng.integers(0, extent, n)
    if b.opset >= 11 and b.chance(0.2):
        picks = picks - extent
    dims = (*x.dims[:axis], (len(picks),) * b.scope.sizes, *x.dims[axis + 1 :])
    return b.add("Gather", [x.name, b.integers(picks)], dims, axis=axis)


def expand(b: Builder, x: Value) -> Value | None:
    """Expand axes of extent 1."""
    if b.opset < 8 or x.rank < 1 or 1 not in x.fixed or x.largest > 500:
        return None
    shape = [3 if e == 1 and b.chance(0.6) else 1 for e in x.fixed]
    dims = tuple(
        (s,) * b.scope.sizes if s > 1 else extent for s, extent in zip(shape, x.dims, strict=True)
    )
    return b.add("Expand", [x.name, b.integers(shape)], dims)


def blocks(b: Builder, x: Value) -> Value | None:
    """Append a DepthToSpace or SpaceToDepth."""
    if x.rank != 4:
        return None
    c = x.fixed[1]
    if c > 0 and c % 4 == 0 and b.chance(0.6):
        height, width = (tuple(2 * s for s in axis) for axis in x.dims[2:])
        mode = {"mode": b.pick("DCR", "CRD")} if b.opset >= 11 else {}
        dims = (x.dims[0], (c // 4,) * b.scope.sizes, height, width)
        return b.add("DepthToSpace", [x.name], dims, blocksize=2, **mode)
    if c > 0 and all(s % 2 == 0 for axis in x.dims[2:] for s in axis):
        height, width = (tuple(s // 2 for s in axis) for axis in x.dims[2:])
        dims = (x.dims[0], (c * 4,) * b.scope.sizes, height, width)
        return b.add("SpaceToDepth", [x.name], dims, blocksize=2)
    return None


def upsample(b: Builder, x: Value) -> Value | None:
    """Append an upsampling by two."""
    if x.rank != 4 or b.scope.dtype != np.float32 or x.largest > 1000:
        return None
    mode = b.pick("nearest", "linear")
    dims = (*x.dims[:2], *(tuple(2 * s for s in axis) for axis in x.dims[2:]))
    scales = [1.0, 1.0, 2.0, 2.0]
    if b.opset < 9:
        return b.add("Upsample", [x.name], dims, scales=scales, mode=mode)
    given = b._constant_node(np.array(scales, np.float32))
    if b.opset < 11:
        return b.add("Upsample" if b.opset < 10 else "Resize", [x.name, given], dims, mode=mode)
    roi = "" if b.opset >= 13 else b._constant_node(np.zeros(0, np.float32))
    return b.add("Resize", [x.name, roi, given], dims, mode=mode)


PLAIN = (nothing, nothing, activation, activation, activation, normalize, around)
"""Makers that keep extents."""

MOVES = (
    *(transpose, transpose, reshape, reshape, reshape, flatten, squeeze, pad, pad, slices),
    *(gather, gather, expand, blocks, upsample),
)
"""Makers that move."""
