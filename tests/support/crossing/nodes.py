"""One node of each op, with any attributes and operands that fit the current value."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.support.crossing.cell import Cell

__all__ = ["NEIGHBOURS", "SUBJECTS"]

Maker = Callable[[Cell], object]
SUBJECTS: dict[str, Maker] = {}
"""By op a function that appends a node of it, or raises `NoNodeError`."""

_FAR = 2**31 - 1


def _of(*ops: str) -> Callable[[Callable[[Cell, str], object]], Callable[[Cell, str], object]]:
    """Register a maker for some ops."""

    def register(maker: Callable[[Cell, str], object]) -> Callable[[Cell, str], object]:
        def make(op: str, c: Cell) -> None:
            c.need(c.rank)
            maker(c, op)

        SUBJECTS.update({op: functools.partial(make, op) for op in ops})
        return maker

    return register


# -- Layers ---------------------------------------------------------------------------------


def _window(c: Cell, largest: int = 3) -> dict[str, Any]:
    """Draw kernel, strides, dilations, and pads of any kind."""
    count = c.rank - 2
    c.need(count > 0)
    kernel = [c.pick(1, 2, 3, largest) for _ in range(count)]
    found: dict[str, Any] = {"kernel_shape": kernel}
    if c.chance(0.3):
        found["strides"] = [c.pick(1, 2, 3) for _ in range(count)]
    how = c.pick("none", "none", "same", "sides", "zero", "auto")
    if how == "auto":
        found["auto_pad"] = c.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    elif how == "same":
        found["pads"] = [k // 2 for k in kernel] * 2
    elif how == "sides":
        found["pads"] = [c.pick(0, k - 1, min(k - 1, 1)) for k in [*kernel, *kernel]]
    elif how == "zero":
        found["pads"] = [0] * (2 * count)
    return found


def _dilated(c: Cell, window: dict[str, Any]) -> None:
    if c.chance(0.2) and not window.get("auto_pad", "").startswith("SAME"):
        window["dilations"] = [c.pick(1, 2) for _ in window["kernel_shape"]]


@_of("Conv", "ConvTranspose")
def _convolution(c: Cell, op: str) -> None:
    c.need(c.is_float)
    window = _window(c)
    _dilated(c, window)
    m = c.shape[1]
    group = c.pick(1, 1, *[g for g in (2, m) if m % g == 0])
    n = group * c.pick(1, 2, 3) if group < m or op == "Conv" else m
    sides = (n, m // group) if op == "Conv" else (m, n // group)
    operands = [c.normal(*sides, *window["kernel_shape"])]
    if c.chance():
        operands.append(c.normal(n))
    if c.chance(0.5):
        del window["kernel_shape"]
    if op == "ConvTranspose" and "strides" in window and c.chance(0.4):
        window["output_padding"] = [c.pick(0, s - 1) for s in window["strides"]]
    c.add(op, "_", *operands, group=group, **window)


@_of("Gemm")
def _gemm(c: Cell, op: str) -> None:
    c.need(c.rank == 2 and c.is_float)
    flips = {"transA": c.pick(0, 0, 1), "transB": c.pick(0, 1)}
    first = c.chance(0.7)
    flipped = flips["transA" if first else "transB"]
    inner = c.shape[bool(first) ^ bool(flipped)]
    n = c.pick(1, 2, 3, 5)
    if first:
        other = (n, inner) if flips["transB"] else (inner, n)
        result = (c.shape[bool(flipped)], n)
    else:
        other = (inner, n) if flips["transA"] else (n, inner)
        result = (n, c.shape[not flipped])
    weight = c.normal(*other)
    operands = ["_", weight] if first else [weight, "_"]
    if c.opset < 11 or c.chance(0.7):
        shapes = [(), (1,), (result[1],), (1, result[1]), (result[0], 1), result]
        operands.append(c.normal(*c.pick(*shapes)))
    factors = {k: c.pick(0.5, 2.0, -1.0) for k in ("alpha", "beta") if c.chance(0.3)}
    c.add(op, *operands, **{k: v for k, v in flips.items() if v or c.chance(0.3)}, **factors)


@_of("MatMul")
def _matmul(c: Cell, op: str) -> None:
    c.need(c.is_float)
    how = c.pick("right", "right", "right", "left", "vector", "batch")
    if how == "left":
        c.need(c.rank > 1)
        c.add(op, c.normal(c.pick(1, 2, 4), c.shape[-2]), "_")
    elif how == "vector":
        c.add(op, c.normal(c.shape[-1]))
    elif how == "batch":
        c.need(c.rank > 2)
        lead = [c.pick(1, e) for e in c.shape[:-2]][c.pick(0, 1) :]
        c.add(op, c.normal(*lead, c.shape[-1], c.pick(1, 2, 3)))
    else:
        c.add(op, c.normal(c.shape[-1], c.pick(1, 2, 4, c.shape[-1])))


@_of("Einsum")
def _einsum(c: Cell, op: str) -> None:
    c.need(c.is_float and c.dtype != np.float16)
    letters = list(string.ascii_lowercase[: c.rank])
    axis = int(c.rng.integers(c.rank))
    after = list(letters)
    if c.chance(0.3):
        weight, own = c.normal(c.shape[axis]), [letters[axis]]
    else:
        weight, own = c.normal(c.shape[axis], c.pick(1, 2, 4)), [letters[axis], "z"]
        after[axis] = "z"
        if c.chance(0.2):
            after.append(after.pop(axis))
    terms, operands = ["".join(letters), "".join(own)], ["_", weight]
    if c.chance(0.3):
        terms.reverse()
        operands.reverse()
    c.add(op, *operands, equation=f"{','.join(terms)}->{''.join(after)}")


@_of("BatchNormalization")
def _normalization(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.need(c.rank > 1)
    n = c.shape[1]
    numbers = [c.normal(n), c.normal(n), c.normal(n), c.positive(n)]
    c.add(op, "_", *numbers, **({"epsilon": c.pick(1e-3, 0.1)} if c.chance() else {}))


@_of("Add", "Sub", "Mul", "Div")
def _arithmetic(c: Cell, op: str) -> None:
    c.need(c.is_float or op != "Div")
    shapes: list[tuple[int, ...]] = [(), (1,) * c.rank]
    for axis, extent in enumerate(c.shape):
        shape = [1] * c.rank
        shape[axis] = extent
        shapes += [tuple(shape), tuple(shape[axis:])]
    shapes += [c.shape[1:], (1, *c.shape)] if c.chance(0.2) else []
    shape = c.pick(*shapes)
    other = c.positive(*shape) if op in {"Mul", "Div"} and c.chance() else c.normal(*shape)
    if c.chance(0.1):
        other = c.constant(np.full(shape, op in {"Mul", "Div"}), plain=True)
    elif c.chance(0.1) and c.is_float:
        other = "_"
    if op == "Div" and other != "_":
        other = c.positive(*shape)
    reverse = op != "Div" and c.chance(0.4)
    c.add(op, *([other, "_"] if reverse else ["_", other]))


@_of("Sum", "Mean", "Max", "Min")
def _several(c: Cell, op: str) -> None:
    c.need(c.is_float)
    shapes = [c.shape, (1,), (1, *c.shape[1:2], *(1,) * (c.rank - 2))]
    others = [c.normal(*c.pick(*shapes)) for _ in range(c.pick(0, 1, 1, 2))]
    if c.chance(0.4):
        others.append(c.pick(*[n for n, shape in c.shapes.items() if shape == c.shape]))
    c.add(op, "_", *others)


# -- Pools ----------------------------------------------------------------------------------


@_of("AveragePool", "MaxPool", "LpPool")
def _pool(c: Cell, op: str) -> None:
    c.need(c.is_float and (c.dtype == np.float32 or op != "MaxPool"))
    window = _window(c)
    if op != "LpPool" and c.opset >= 10 and c.chance(0.25):
        window["ceil_mode"] = 1
    if op == "AveragePool" and c.chance():
        window["count_include_pad"] = c.pick(0, 1)
    if op == "LpPool" and c.chance():
        window["p"] = c.pick(1, 2, 3)
    if op == "MaxPool" and c.opset >= 10:
        _dilated(c, window)
    c.add(op, **window)


@_of("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global(c: Cell, op: str) -> None:
    c.need(c.is_float and c.rank > 2)
    c.add(op, **({"p": c.pick(1, 2)} if "Lp" in op and c.chance() else {}))


@_of(
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceMax", "ReduceMin", "ReduceL1"),
    "ReduceL2",
)
def _reduce(c: Cell, op: str) -> None:
    c.need(c.is_float)
    count = c.pick(0, 1, 1, 2, 2, c.rank)
    axes = sorted(int(a) for a in c.rng.permutation(c.rank)[: min(count, c.rank)])
    if c.opset >= 11:
        axes = [a - c.rank if c.chance(0.3) else a for a in axes]
    keep: dict[str, Any] = {"keepdims": c.pick(0, 1)} if c.chance(0.7) else {}
    if c.opset >= (13 if op == "ReduceSum" else 18):
        if not axes and c.chance():
            keep["noop_with_empty_axes"] = 1
        c.add(op, "_", *([c.ints(*axes)] if axes else []), **keep)
    else:
        if axes:
            keep["axes"] = axes
        c.add(op, **keep)


# -- Elements -------------------------------------------------------------------------------


@_of("Identity", "Neg", "Relu", "Abs", "Reciprocal")
def _plain(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op)


@_of("LeakyRelu")
def _leaky(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op, **({"alpha": c.pick(0.2, 1.0, 0.0, -0.5)} if c.chance(0.8) else {}))


@_of("PRelu")
def _prelu(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.need(c.rank > 1)
    c.add(op, "_", c.normal(*c.pick((1,), (c.shape[1], *(1,) * (c.rank - 2)), c.shape[-1:])))


@_of("Clip")
def _clip(c: Cell, op: str) -> None:
    c.need(c.is_float)
    bounds = c.pick((0.0, None), (None, 0.0), (0.0, 6.0), (-1.0, 1.0), (None, None))
    if c.opset < 11:
        pairs = zip(("min", "max"), bounds, strict=True)
        c.add(op, **{k: b for k, b in pairs if b is not None})
        return
    names = ["" if b is None else c.constant(b) for b in bounds]
    c.add(op, "_", *names)


@_of("Dropout")
def _dropout(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op, outputs=c.pick(1, 1, 2) if c.opset > 11 else 1)


@_of("Cast", "CastLike")
def _cast(c: Cell, op: str) -> None:
    c.need(c.dtype != np.float64)
    kind = c.pick(c.kind, c.kind, TensorProto.FLOAT if c.is_float else TensorProto.INT64)
    if op == "CastLike":
        c.add(op, "_", c.normal(1))
        return
    c.add(op, to=kind)
    if kind != c.kind:
        c.add(op, to=c.kind)


@_of("CumSum")
def _cumsum(c: Cell, op: str) -> None:
    c.need(c.is_float and c.dtype != np.float16)
    c.add(op, "_", c.constant_axis(c.axis()), reverse=c.pick(0, 0, 1))


@_of("Trilu")
def _trilu(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op, upper=c.pick(0, 1))


# -- Views ----------------------------------------------------------------------------------


@_of("Transpose")
def _transpose(c: Cell, op: str) -> None:
    perms = [[int(i) for i in c.rng.permutation(c.rank)], [*range(c.rank)]]
    usual = [0, *range(2, c.rank), 1] if c.rank > 1 else [0]
    c.add(op, perm=c.pick(usual, perms[0], perms[0], perms[1]))


@_of("Reshape")
def _reshape(c: Cell, op: str) -> None:
    target: list[int] = list(c.shape)
    for _ in range(c.pick(0, 1, 1, 2)):
        axis = int(c.rng.integers(len(target)))
        divisors = [d for d in (1, 2, 3) if target[axis] % d == 0]
        if len(target) > 2 and c.chance():
            axis = min(axis, len(target) - 2)
            target[axis : axis + 2] = [target[axis] * target[axis + 1]]
        elif len(target) < 6:
            d = c.pick(*divisors)
            target[axis : axis + 1] = c.pick([d, target[axis] // d], [target[axis] // d, d])
    for axis, extent in enumerate(target):
        if axis < c.rank and c.shape[axis] == extent and c.chance():
            target[axis] = 0
    if c.chance(0.6):
        target[int(c.rng.integers(len(target)))] = -1
    c.add(op, "_", c.ints(*target))


@_of("Flatten")
def _flatten(c: Cell, op: str) -> None:
    axis = c.pick(0, 1, 1, 2, c.rank)
    c.need(axis <= c.rank)
    c.add(op, axis=axis - c.rank if c.opset >= 13 and 0 < axis < c.rank and c.chance() else axis)


@_of("Squeeze", "Unsqueeze")
def _squeeze(c: Cell, op: str) -> None:
    if op == "Squeeze":
        axes = [axis for axis, extent in enumerate(c.shape) if extent == 1]
        c.need(axes)
        axes = axes[: c.pick(1, len(axes))]
    else:
        axes = sorted({c.pick(0, 1, 2, c.rank)} | ({c.rank} if c.chance(0.2) else set()))
        c.need(axes[-1] < c.rank + len(axes))
    c.need(1 < c.rank + len(axes) * (1 if op == "Unsqueeze" else -1) < 7)
    if c.opset >= 13:
        c.add(op, "_", c.ints(*axes))
    else:
        c.add(op, axes=axes)


@_of("DepthToSpace", "SpaceToDepth")
def _blocks(c: Cell, op: str) -> None:
    c.need(c.rank == 4 and c.is_float)
    mode = {"mode": c.pick("DCR", "CRD")} if op == "DepthToSpace" and c.opset >= 11 else {}
    c.add(op, blocksize=c.pick(2, 2, 1), **mode)


# -- Movements ------------------------------------------------------------------------------


@_of("Concat")
def _concat(c: Cell, op: str) -> None:
    axis = c.axis()
    at = axis % c.rank
    others = [
        name
        for name, shape in c.shapes.items()
        if len(shape) == c.rank and {*shape[:at], -1, *shape[at + 1 :]}
        and shape[:at] == c.shape[:at] and shape[at + 1 :] == c.shape[at + 1 :]
    ]  # fmt: skip
    parts = ["_", *(c.pick(*others) for _ in range(c.pick(0, 1, 1, 2)))]
    if c.chance(0.2):
        parts.append(c.normal(*c.shape[:at], c.pick(1, 2), *c.shape[at + 1 :]))
    if c.chance(0.3):
        parts.reverse()
    c.add(op, *parts, axis=axis)


@_of("Split")
def _split(c: Cell, op: str) -> None:
    axis = c.axis()
    size = c.shape[axis]
    count = c.pick(1, 2, 2, 3)
    c.need(count <= size)
    sizes = [1] * count
    sizes[c.pick(0, -1)] += size - count
    if c.opset >= 13:
        c.add(op, "_", c.ints(*sizes), outputs=count, axis=axis)
    else:
        c.add(op, outputs=count, axis=axis % c.rank, split=sizes)
    parts = [f"v{len(c.shapes) - count + i}" for i in range(count)]
    if c.chance():
        order = [int(i) for i in c.rng.permutation(count)]
        c.add("Concat", *[parts[i] for i in order], axis=axis % c.rank)
    else:
        c.current = c.pick(*parts)


@_of("Slice")
def _slice(c: Cell, op: str) -> None:
    count = c.pick(1, 1, 2)
    axes = [int(a) for a in c.rng.permutation(c.rank)[:count]]
    starts = [c.pick(0, 0, 1, -1, -2) for _ in axes]
    ends = [c.pick(_FAR, _FAR, -1, 2, c.shape[a]) for a in axes]
    if c.opset < 10:
        c.add(op, axes=axes, starts=starts, ends=ends)
        return
    steps = [c.pick(1, 1, 1, 2) for _ in axes]
    if c.chance(0.15):
        starts[0], ends[0], steps[0] = -1, -_FAR, -1
    axes = [a - c.rank if c.chance(0.3) else a for a in axes]
    operands = [c.ints(*numbers) for numbers in (starts, ends, axes, steps)]
    c.add(op, "_", *operands[: c.pick(3, 4)])


@_of("Gather", "GatherElements", "GatherND", "Compress", "ReverseSequence")
def _gather(c: Cell, op: str) -> None:
    axis = c.axis() if op != "Compress" or c.opset >= 13 else int(c.rng.integers(c.rank))
    size = c.shape[axis]
    picks = c.rng.integers(-size if c.opset >= 11 else 0, size, c.pick(1, 2, size))
    if c.chance(0.3):
        picks = c.rng.permutation(size)
    if op == "Gather":
        c.add(op, "_", c.integers(c.pick(picks, picks, picks[0], picks[None])), axis=axis)
    elif op == "GatherElements":
        shape = [*c.shape]
        shape[axis] = len(picks)
        at = [1] * c.rank
        at[axis] = len(picks)
        c.add(op, "_", c.integers(np.broadcast_to(picks.reshape(at), shape)), axis=axis)
    elif op == "GatherND":
        c.add(op, "_", c.integers(c.rng.integers(0, c.shape[0], (2, 1))))
    elif op == "Compress":
        keep = c.rng.random(size) < 0.6
        keep[0] = True
        shape = [*c.shape]
        shape[axis] = int(keep.sum())
        c.add(op, "_", c.integers(keep), shape=tuple(shape), axis=axis)
    else:
        c.need(c.rank > 1)
        lengths = c.rng.integers(1, c.shape[0] + 1, c.shape[1])
        c.add(op, "_", c.integers(lengths))


@_of("Expand", "Tile")
def _expand(c: Cell, op: str) -> None:
    if op == "Tile":
        c.add(op, "_", c.ints(*(c.pick(1, 1, 2) for _ in range(c.rank))))
        return
    target = [c.pick(1, 2, 3) if e == 1 else c.pick(1, e) for e in c.shape]
    lead = [c.pick(1, 2)] if c.chance(0.2) and c.rank < 5 else []
    c.add(op, "_", c.ints(*lead, *target[c.pick(0, 0, 1) if not lead else 0 :]))


@_of("Pad")
def _pad(c: Cell, op: str) -> None:
    mode = c.pick("constant", "constant", "constant", "edge", "reflect")
    c.need(c.rank > 1)
    amounts = [0 if i < 2 or c.chance(0.4) else c.pick(1, 2, -1) for i in range(c.rank)]
    ends = [0 if i < 2 or c.chance(0.4) else c.pick(1, 1, -1) for i in range(c.rank)]
    if mode == "constant" and c.chance(0.15):
        amounts[1] = 1
    if mode != "constant":
        amounts = [min(a, s - 1) for a, s in zip(amounts, c.shape, strict=True)]
        ends = [min(a, s - 1) for a, s in zip(ends, c.shape, strict=True)]
    value = c.pick(0.0, 0.0, 0.5) if mode == "constant" else 0.0
    if c.opset < 11:
        c.add(op, pads=[*amounts, *ends], mode=mode, value=value)
        return
    fill = [c.constant(value)] if value or c.chance() else []
    c.add(op, "_", c.ints(*amounts, *ends), *fill, mode=mode)


@_of("Resize", "Upsample")
def _resize(c: Cell, op: str) -> None:
    c.need(c.rank in {3, 4} and c.is_float and c.dtype != np.float64)
    mode = c.pick("nearest", "linear")
    c.need(mode == "nearest" or c.rank == 4)
    scales = [1.0, 1.0, *(c.pick(1.0, 2.0, 1.5, 0.5) for _ in range(c.rank - 2))]
    if op == "Upsample":
        scales = [max(1.0, s) for s in scales]
        c.need(c.opset < 10)
        if c.opset < 9:
            c.add(op, mode=mode, scales=scales)
            return
    numbers = c.numbers(np.array(scales, np.float32))
    if c.opset < 11:
        c.add(op, "_", numbers, mode=mode)
        return
    attributes = {"coordinate_transformation_mode": c.pick("half_pixel", "align_corners")}
    attributes["coordinate_transformation_mode"] = c.pick(
        "half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"
    )
    if c.chance(0.3):
        sizes = [int(max(1, e * s)) for e, s in zip(c.shape, scales, strict=True)]
        roi = "" if c.opset >= 13 else c.numbers(np.zeros(0, np.float32))
        empty = "" if c.opset >= 13 else c.numbers(np.zeros(0, np.float32))
        c.add(op, "_", roi, empty, c.ints(*sizes), mode=mode, **attributes)
        return
    roi = "" if c.opset >= 13 else c.numbers(np.zeros(0, np.float32))
    c.add(op, "_", roi, numbers, mode=mode, **attributes)


@_of("GridSample")
def _grid_sample(c: Cell, op: str) -> None:
    c.need(c.rank == 4 and c.dtype == np.float32)
    grid = c.numbers(c.rng.uniform(-1.2, 1.2, (c.shape[0], 2, 3, 2)).astype(np.float32))
    c.add(op, "_", grid, padding_mode=c.pick("zeros", "border", "reflection"))


_NEAR = "Conv Conv Gemm MatMul BatchNormalization Pad AveragePool Mul Mul Add Add Relu Transpose"
NEIGHBOURS = tuple(SUBJECTS[op] for op in (*_NEAR.split(), "ConvTranspose", "Reshape"))
"""Makers of the nodes around the subject."""
