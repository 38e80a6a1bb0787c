"""Layers, pools and elementwise nodes, with any attributes and operands that fit."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.support.crossing.cell import Cell
from tests.support.crossing.table import of

__all__: list[str] = []


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


@of("Conv", "ConvTranspose")
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


@of("Gemm")
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


@of("MatMul")
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


@of("Einsum")
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


@of("BatchNormalization")
def _normalization(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.need(c.rank > 1)
    n = c.shape[1]
    numbers = [c.normal(n), c.normal(n), c.normal(n), c.positive(n)]
    c.add(op, "_", *numbers, **({"epsilon": c.pick(1e-3, 0.1)} if c.chance() else {}))


@of("Add", "Sub", "Mul", "Div")
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


@of("Sum", "Mean", "Max", "Min")
def _several(c: Cell, op: str) -> None:
    c.need(c.is_float)
    shapes = [c.shape, (1,), (1, *c.shape[1:2], *(1,) * (c.rank - 2))]
    others = [c.normal(*c.pick(*shapes)) for _ in range(c.pick(0, 1, 1, 2))]
    if c.chance(0.4):
        others.append(c.pick(*[n for n, shape in c.shapes.items() if shape == c.shape]))
    c.add(op, "_", *others)


# -- Pools ----------------------------------------------------------------------------------


@of("AveragePool", "MaxPool", "LpPool")
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


@of("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global(c: Cell, op: str) -> None:
    c.need(c.is_float and c.rank > 2)
    c.add(op, **({"p": c.pick(1, 2)} if "Lp" in op and c.chance() else {}))


@of(
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceMax", "ReduceMin", "ReduceL1"),
    *("ReduceL2", "ReduceProd"),
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


@of("Identity", "Neg", "Relu", "Abs", "Reciprocal")
def _plain(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op)


@of("LeakyRelu")
def _leaky(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op, **({"alpha": c.pick(0.2, 1.0, 0.0, -0.5)} if c.chance(0.8) else {}))


@of("PRelu")
def _prelu(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.need(c.rank > 1)
    c.add(op, "_", c.normal(*c.pick((1,), (c.shape[1], *(1,) * (c.rank - 2)), c.shape[-1:])))


@of("Clip")
def _clip(c: Cell, op: str) -> None:
    c.need(c.is_float)
    bounds = c.pick((0.0, None), (None, 0.0), (0.0, 6.0), (-1.0, 1.0), (None, None))
    if c.opset < 11:
        pairs = zip(("min", "max"), bounds, strict=True)
        c.add(op, **{k: b for k, b in pairs if b is not None})
        return
    names = ["" if b is None else c.constant(b) for b in bounds]
    c.add(op, "_", *names)


@of("Dropout")
def _dropout(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op, outputs=c.pick(1, 1, 2) if c.opset > 11 else 1)


@of("Cast", "CastLike")
def _cast(c: Cell, op: str) -> None:
    c.need(c.dtype != np.float64)
    kind = c.pick(c.kind, c.kind, TensorProto.FLOAT if c.is_float else TensorProto.INT64)
    if op == "CastLike":
        c.add(op, "_", c.normal(1))
        return
    c.add(op, to=kind)
    if kind != c.kind:
        c.add(op, to=c.kind)


@of("CumSum")
def _cumsum(c: Cell, op: str) -> None:
    c.need(c.is_float and c.dtype != np.float16)
    c.add(op, "_", c.constant_axis(c.axis()), reverse=c.pick(0, 0, 1))


@of("Trilu")
def _trilu(c: Cell, op: str) -> None:
    c.need(c.is_float)
    c.add(op, upper=c.pick(0, 1))
