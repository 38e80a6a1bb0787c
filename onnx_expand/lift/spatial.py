"""Lift spatial ops that do not mix channels (Pad, Slice, averages), and channel selections."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.graph.attributes import float_of, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.lift.base import LARGEST, Linear, input_of, lifts, refuse, refuse_unknown_rank

__all__ = ["integers_of", "selection"]

_FAR = 1 << 31  # exporters use several large values for an end beyond any extent


@lifts("Pad")
def _pad(node: ir.Node, facts: Facts) -> Linear | None:
    x = input_of(node, 0)
    mode = text_of(node, "mode", facts.opset)
    if mode != "constant":
        refuse(f"it pads in mode '{mode}'")
    if facts.opset < 11:
        pads, value = ints_of(node, "pads"), float_of(node, "value", facts.opset)
    else:
        pads = integers_of(facts, input_of(node, 1))
        fill = input_of(node, 2, optional=True)
        value = 0.0 if fill is None else float(facts.array(fill).reshape(-1)[0])
    if value and any(p > 0 for p in pads):
        refuse(f"it pads with {value:g}, not with zero")
    rank = _rank(x, facts)
    chosen = input_of(node, 3, optional=True)
    axes = range(rank) if chosen is None else [a % rank for a in integers_of(facts, chosen)]
    begins, ends = [0] * rank, [0] * rank
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        begins[axis], ends[axis] = begin, end
    if any(begins[:2] + ends[:2]):
        refuse("it pads the batch or the channels")
    return _depthwise(node, facts, (1,) * (rank - 2), pads=(*begins[2:], *ends[2:]))


@lifts("AveragePool")
def _average_pool(node: ir.Node, facts: Facts) -> Linear | None:
    auto_pad = text_of(node, "auto_pad", facts.opset)
    kernel, pads = ints_of(node, "kernel_shape"), ints_of(node, "pads")
    if int_of(node, "ceil_mode", facts.opset):
        refuse("it has ceil_mode=1: windows beyond the border average fewer positions")
    if auto_pad not in {"NOTSET", "VALID", ""}:
        refuse(f"auto_pad is '{auto_pad}'")
    if auto_pad == "VALID" and any(pads):
        refuse("it has pads beside auto_pad=VALID; shape inference and runtimes disagree on them")
    if any(pads) and not int_of(node, "count_include_pad", facts.opset):
        refuse("it pads with count_include_pad=0: windows at the border average fewer positions")
    return _depthwise(
        node, facts, kernel, ints_of(node, "strides"), ints_of(node, "dilations"), pads
    )


@lifts("GlobalAveragePool")
def _global_average_pool(node: ir.Node, facts: Facts) -> Linear | None:
    return _depthwise(node, facts, _static_extents(input_of(node, 0), facts))


@lifts("ReduceMean")
def _reduce_mean(node: ir.Node, facts: Facts) -> Linear | None:
    x = input_of(node, 0)
    rank = _rank(x, facts)
    chosen = input_of(node, 1, optional=True)
    axes = ints_of(node, "axes") if chosen is None else integers_of(facts, chosen)
    if sorted(a % rank for a in axes) != list(range(2, rank)):
        return None  # a mean over channels, or over some of the positions
    if not int_of(node, "keepdims", facts.opset):
        refuse("it drops the axes that it averages (keepdims=0)")
    return _depthwise(node, facts, _static_extents(x, facts))


@lifts("Slice")
def _slice(node: ir.Node, facts: Facts) -> Linear | None:
    x = input_of(node, 0)
    shape = facts.shape(x)
    if shape is None:
        refuse_unknown_rank(x)
    rank = len(shape)
    if facts.opset < 10:
        starts, ends = ints_of(node, "starts"), ints_of(node, "ends")
        axes, steps = ints_of(node, "axes") or tuple(range(len(starts))), (1,) * len(starts)
    else:
        starts, ends = (integers_of(facts, input_of(node, i)) for i in (1, 2))
        named, stepped = (input_of(node, i, optional=True) for i in (3, 4))
        axes = tuple(range(len(starts))) if named is None else integers_of(facts, named)
        steps = (1,) * len(starts) if stepped is None else integers_of(facts, stepped)
    cuts = {a % rank: (s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}
    cuts = {axis: cut for axis, cut in cuts.items() if not _is_whole(*cut, shape[axis])}
    channels = cuts.pop(1, None) if rank > 1 else None
    if 0 in cuts or (channels is not None and cuts):
        return None  # it slices the batch, or both channels and positions
    if channels is not None:
        if shape[1] is None:
            refuse(f"the number of channels of '{x.name}' is not known")
        if shape[1] > LARGEST:
            refuse(f"its input has {shape[1]} channels")
        return selection(node, np.arange(shape[1])[slice(*channels)], shape[1])
    pads, strides = [0] * 2 * (rank - 2), [1] * (rank - 2)
    for axis, (start, end, step) in cuts.items():
        if step < 1:
            refuse(f"its step along axis {axis} is not positive")
        strides[axis - 2] = step
        pads[axis - 2], pads[axis - 2 + rank - 2] = _cut(start, end, step, shape[axis])
    return _depthwise(node, facts, (1,) * (rank - 2), tuple(strides), pads=tuple(pads))


def _is_whole(start: int, end: int, step: int, size: int | None) -> bool:
    """Return whether a slice selects all of an axis."""
    if size is not None:
        return slice(start, end, step).indices(size) == (0, size, 1)
    return start == 0 and end >= _FAR - 1 and step == 1


def _cut(start: int, end: int, step: int, size: int | None) -> tuple[int, int]:
    """Return what a slice removes at both ends of an axis, as negative padding.

    Among the ends that select equally many elements, the last one is used: slices of one size
    with different starts then agree, and padding after them reads on from the last element.
    """
    if size is not None:
        first, last, _ = slice(start, end, step).indices(size)
        count = len(range(first, last, step))
        if not count:
            refuse("its result is empty")
        return -first, first + count * step - size
    far = end >= _FAR - 1
    if start < 0 or (end >= 0 and not far):
        refuse("the part that it removes depends on an extent that is not static")
    return -start, 0 if far else end


@lifts("SpaceToDepth")
def _space_to_depth(node: ir.Node, facts: Facts) -> Linear | None:
    """Lift SpaceToDepth: a convolution with stride b whose output channels are the b x b taps.

    Channel `(i b + j) m + c` is channel c at row i and column j of its block, or channel
    `c b^2 + i b + j` in mode CRD (from opset 28 on). Extents are multiples of b, so that end
    padding of less than b is not read.
    """
    x, block = input_of(node, 0), int_of(node, "blocksize", facts.opset)
    by_channel = text_of(node, "mode", facts.opset) == "CRD"
    shape = facts.shape(x)
    if shape is None:
        refuse_unknown_rank(x)
    if len(shape) != 4 or shape[1] is None or block < 1:
        refuse(f"the number of channels of '{x.name}' is not known")
    m, taps = shape[1], block * block
    if m * m * taps * taps > LARGEST:
        refuse(f"it makes {m * taps} channels of {m}")
    ends = (block - 1,) * 2
    geometry = Geometry(m, m * taps, (block,) * 2, (block,) * 2, pads=(0, 0, *ends))

    def load() -> AffineConv:
        weight = np.eye(taps).reshape(taps, 1, 1, block, block) * np.eye(m)[:, :, None, None]
        weight = np.swapaxes(weight, 0, 1) if by_channel else weight
        weight = weight.reshape(geometry.weight_shape)
        return AffineConv.of(geometry, weight)

    return Linear(node, 0, geometry, (1, 1), load)


@lifts("Gather")
def _gather(node: ir.Node, facts: Facts) -> Linear | None:
    x, chosen = input_of(node, 0), input_of(node, 1)
    shape = facts.shape(x)
    if shape is None or len(shape) < 2 or int_of(node, "axis", facts.opset) % len(shape) != 1:
        return None
    if not facts.is_constant(chosen) or shape[1] is None or len(facts.dims(chosen)) != 1:
        return None
    indices, m = np.array(integers_of(facts, chosen)), shape[1]
    if np.any(indices < -m) or np.any(indices >= m):
        refuse(f"an index of '{chosen.name}' lies outside of the {m} channels")
    return selection(node, indices % m, m)


def selection(
    node: ir.Node, indices: np.ndarray[tuple[int], np.dtype[np.int64]], m: int, axis: int = 1
) -> Linear:
    """Return the map that selects channels, by index, of the m on an axis."""

    def load() -> AffineConv:
        weight = np.zeros((len(indices), m))
        weight[np.arange(len(indices)), indices] = 1
        return AffineConv(weight)

    is_range = len(indices) > 0 and bool(np.all(np.diff(indices) == 1))
    picks = (int(indices[0]), int(indices[-1]) + 1) if is_range else None
    return Linear(node, 0, Geometry(m, len(indices)), (axis, axis), load, picks=picks)


def _depthwise(
    node: ir.Node,
    facts: Facts,
    kernel: tuple[int, ...],
    strides: tuple[int, ...] = (),
    dilations: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
) -> Linear:
    """Return the depthwise map that averages the taps of a kernel."""
    x = input_of(node, 0)
    shape = facts.shape(x)
    if shape is None:
        refuse_unknown_rank(x)
    if len(shape) < 3 or shape[1] is None:
        refuse(f"the number of channels of '{x.name}' is not known")
    channels = shape[1]
    geometry = Geometry(channels, channels, kernel, strides, dilations, pads, channels)

    def load() -> AffineConv:
        return AffineConv.of(geometry, np.full(geometry.weight_shape, 1 / np.prod(kernel)))

    return Linear(node, 0, geometry, (1, 1), load)


def _static_extents(x: ir.Value, facts: Facts) -> tuple[int, ...]:
    shape = facts.shape(x)
    if shape is None:
        refuse_unknown_rank(x)
    known = tuple(size for size in shape[2:] if size is not None)
    if len(known) != len(shape) - 2 or not known:
        refuse("it averages over an extent that is not static")
    return known


def _rank(x: ir.Value, facts: Facts) -> int:
    rank = facts.rank(x)
    if rank is None:
        refuse_unknown_rank(x)
    return rank


def integers_of(facts: Facts, value: ir.Value) -> tuple[int, ...]:
    """Return the integers of a constant; raise `RefusedError` for any other value."""
    tensor = facts.tensor(value)
    if not tensor.dtype.is_integer():
        refuse(f"'{value.name}' is not a tensor of integers")
    return tuple(int(v) for v in read_tensor(tensor).reshape(-1))
