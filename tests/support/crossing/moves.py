"""Nodes that move elements or change the layout, with any attributes that fit."""

from __future__ import annotations

import numpy as np

from tests.support.crossing.cell import Cell
from tests.support.crossing.table import of

__all__: list[str] = []

_FAR = 2**31 - 1


# -- Views ----------------------------------------------------------------------------------


@of("Transpose")
def _transpose(c: Cell, op: str) -> None:
    perms = [[int(i) for i in c.rng.permutation(c.rank)], [*range(c.rank)]]
    usual = [0, *range(2, c.rank), 1] if c.rank > 1 else [0]
    c.add(op, perm=c.pick(usual, perms[0], perms[0], perms[1]))


@of("Reshape")
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


@of("Flatten")
def _flatten(c: Cell, op: str) -> None:
    axis = c.pick(0, 1, 1, 2, c.rank)
    c.need(axis <= c.rank)
    c.add(op, axis=axis - c.rank if c.opset >= 13 and 0 < axis < c.rank and c.chance() else axis)


@of("Squeeze", "Unsqueeze")
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


@of("DepthToSpace", "SpaceToDepth")
def _blocks(c: Cell, op: str) -> None:
    c.need(c.rank == 4 and c.is_float)
    mode = {"mode": c.pick("DCR", "CRD")} if op == "DepthToSpace" and c.opset >= 11 else {}
    c.add(op, blocksize=c.pick(2, 2, 1), **mode)


# -- Movements ------------------------------------------------------------------------------


@of("Concat")
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


@of("Split")
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


@of("Slice")
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


@of("Gather", "GatherElements", "GatherND", "Compress", "ReverseSequence")
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


@of("Expand", "Tile")
def _expand(c: Cell, op: str) -> None:
    if op == "Tile":
        c.add(op, "_", c.ints(*(c.pick(1, 1, 2) for _ in range(c.rank))))
        return
    target = [c.pick(1, 2, 3) if e == 1 else c.pick(1, e) for e in c.shape]
    lead = [c.pick(1, 2)] if c.chance(0.2) and c.rank < 5 else []
    c.add(op, "_", c.ints(*lead, *target[c.pick(0, 0, 1) if not lead else 0 :]))


@of("Pad")
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


@of("Resize", "Upsample")
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


@of("GridSample")
def _grid_sample(c: Cell, op: str) -> None:
    c.need(c.rank == 4 and c.dtype == np.float32)
    grid = c.numbers(c.rng.uniform(-1.2, 1.2, (c.shape[0], 2, 3, 2)).astype(np.float32))
    c.add(op, "_", grid, padding_mode=c.pick("zeros", "border", "reflection"))
