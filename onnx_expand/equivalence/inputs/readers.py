"""Determine the constraints of single nodes on the values that they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir

from onnx_expand.equivalence.inputs.demand import LENGTHS, Demand, Dims, Meaning
from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.shapes import Dim
from onnx_expand.graph.tensors import read_tensor

__all__ = ["demand_at"]


def demand_at(node: ir.Node, index: int, value: ir.Value, facts: Facts) -> Demand | None:
    """Return the constraint of a node on the value at an input."""
    op = node.op_type
    if (node.domain, op, index) == ("ai.onnx.ml", "ArrayFeatureExtractor", 1):
        return _feature(node, value, facts)
    if node.domain not in {"", "ai.onnx"}:
        return None
    if op == "Cast" and _is_mask(node, value, facts):
        return Demand(Meaning.MASK, 0, 1)
    if op.startswith("Reduce") and index == 1:
        return _axes_of_data(node, value, facts)
    reader = _READERS.get((op, index))
    return None if reader is None else reader(node, value, facts)


def _is_mask(node: ir.Node, value: ir.Value, facts: Facts) -> bool:
    """Return whether a Cast converts a mask, judging by its name or by a subtraction from 1."""
    if "mask" in (value.name or "").lower():
        return True
    for reader, index in node.outputs[0].uses():
        first = reader.inputs[0]
        if reader.op_type == "Sub" and index == 1 and facts.is_constant(first) and first:
            array = read_tensor(facts.tensor(first))
            return bool(array.size == 1 and array.reshape(-1)[0] == 1)
    return False


Reader: TypeAlias = Callable[[ir.Node, ir.Value, Facts], Demand | None]


def _dims(node: ir.Node, facts: Facts, index: int = 0) -> Dims:
    return facts.named_shape(node.inputs[index]) if len(node.inputs) > index else None


def _at(dims: Dims, axis: int) -> Dim:
    return dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None


def _row(extent: Dim, *, signed: bool = False) -> Demand:
    if not isinstance(extent, int):
        # Extents known only at run time are usually at least one.
        return Demand(Meaning.ROW, 0, None if extent is None else f"{extent} - 1")
    return Demand(Meaning.ROW, -extent if signed else 0, max(0, extent - 1))


def _place_on_axis(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    axis = int_of(node, "axis", facts.opset)
    return _row(_at(_dims(node, facts), axis))


def _place_in_all(node: ir.Node, value: ir.Value, facts: Facts) -> Demand | None:
    """Index tuples: a single bound for all components, the smallest indexed extent."""
    dims, indices = _dims(node, facts), facts.named_shape(value)
    start = int_of(node, "batch_dims", facts.opset)
    if dims is None:
        return None
    count = _at(indices, -1)
    picked = dims[start : start + count if isinstance(count, int) else None]
    known = [extent for extent in picked if isinstance(extent, int)]
    return _row(min(known)) if known else None


def _feature(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    return _row(_at(_dims(node, facts), -1))


def _position(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    return _row(_at(_dims(node, facts, 1), 0))


def _keys(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    """Attention: the number of keys that are not padding."""
    extent = _at(_dims(node, facts, 1), -2)
    return Demand(Meaning.COUNT, 1, extent if extent is not None else 1)


def _one_hot(node: ir.Node, value: ir.Value, facts: Facts) -> Demand | None:
    depth = node.inputs[1]
    if depth is None or not facts.is_constant(depth):
        return _row(LENGTHS)
    return _row(int(read_tensor(facts.tensor(depth)).reshape(-1)[0]))


def _counted(low: int, high: int) -> Reader:
    return lambda node, value, facts: Demand(Meaning.COUNT, low, high)


def _largest(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    extent = _at(_dims(node, facts), int_of(node, "axis", facts.opset))
    return Demand(Meaning.COUNT, 1, extent if extent is not None else 2)


def _cut(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    """Slice: starts and ends, which may lie outside the tensor."""
    known = [extent for extent in _dims(node, facts) or () if isinstance(extent, int)]
    reach = 1 + max(known, default=LENGTHS)
    return Demand(Meaning.COUNT, -reach, reach)


def _axis_of_data(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    dims = _dims(node, facts)
    rank = 1 if dims is None else max(1, len(dims))
    return Demand(Meaning.COUNT, -rank, rank - 1)


def _axes_of_data(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    dims = _dims(node, facts)
    return Demand(Meaning.AXES, 0, max(1, len(dims or ())) - 1, dims)


def _new_axes(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    dims, count = _dims(node, facts) or (), _at(facts.named_shape(value), 0)
    return Demand(Meaning.AXES, 0, len(dims) + (count if isinstance(count, int) else 1) - 1, dims)


def _about_data(meaning: Meaning) -> Reader:
    return lambda node, value, facts: Demand(meaning, None, None, _dims(node, facts))


def _parts(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    extent = _at(_dims(node, facts), int_of(node, "axis", facts.opset))
    return Demand(Meaning.PARTS, 0, None, (extent,))


def _lengths(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    extent = _at(_dims(node, facts), int_of(node, "time_axis", facts.opset))
    return Demand(Meaning.COUNT, 1, extent if extent is not None else 1)


def _shifts(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    dtype = facts.dtype(value)
    return Demand(Meaning.COUNT, 0, 7 if dtype is None else dtype.bitwidth - 1)


def _divisors(node: ir.Node, value: ir.Value, facts: Facts) -> Demand | None:
    dtype = facts.dtype(value)
    return Demand(Meaning.DIVISOR) if dtype is not None and dtype.is_integer() else None


_READERS: dict[tuple[str, int], Reader] = {
    ("Gather", 1): _place_on_axis,
    ("GatherElements", 1): _place_on_axis,
    ("ScatterElements", 1): _place_on_axis,
    ("Scatter", 1): _place_on_axis,
    ("GatherND", 1): _place_in_all,
    ("RotaryEmbedding", 3): _position,
    ("Attention", 6): _keys,
    ("ScatterND", 1): _place_in_all,
    ("TensorScatter", 2): _place_on_axis,
    ("OneHot", 0): _one_hot,
    ("OneHot", 1): _counted(1, 2 * LENGTHS),
    ("Loop", 0): _counted(0, LENGTHS),
    ("TopK", 1): _largest,
    ("Slice", 1): _cut,
    ("Slice", 2): _cut,
    ("Slice", 3): _axes_of_data,
    ("Slice", 4): _counted(1, 2),
    ("Tile", 1): _counted(0, 3),
    ("ConstantOfShape", 0): _counted(0, LENGTHS),
    ("Range", 0): _counted(0, 0),
    ("Range", 1): _counted(0, 2 * LENGTHS),
    ("Range", 2): _counted(1, 2),
    ("Pad", 1): _counted(0, 2),
    ("Pad", 3): _axes_of_data,
    ("CumSum", 1): _axis_of_data,
    ("Trilu", 1): _counted(-LENGTHS, LENGTHS),
    ("Squeeze", 1): _about_data(Meaning.UNITS),
    ("Unsqueeze", 1): _new_axes,
    ("Split", 1): _parts,
    ("SplitToSequence", 1): _parts,
    ("Reshape", 1): _about_data(Meaning.SHAPE),
    ("Expand", 1): _about_data(Meaning.EXPANDED),
    ("Resize", 2): _about_data(Meaning.FACTORS),
    ("Upsample", 1): lambda node, value, facts: Demand(Meaning.FACTORS, 1),
    ("Dropout", 1): _about_data(Meaning.SHARE),
    ("NonMaxSuppression", 2): _counted(0, LENGTHS),
    ("NonMaxSuppression", 3): _about_data(Meaning.SHARE),
    ("DFT", 2): _axis_of_data,
    ("Resize", 3): _about_data(Meaning.RESIZED),
    ("ReverseSequence", 1): _lengths,
    ("RNN", 4): _lengths,
    ("GRU", 4): _lengths,
    ("LSTM", 4): _lengths,
    ("BitShift", 1): _shifts,
    ("Div", 1): _divisors,
    ("Mod", 1): _divisors,
    ("SequenceAt", 1): _counted(0, 0),
    ("STFT", 1): _counted(1, LENGTHS),
    ("STFT", 3): _counted(1, LENGTHS),
    ("CenterCropPad", 1): _counted(1, 2 * LENGTHS),
    ("AffineGrid", 1): _counted(1, 3),
    ("HannWindow", 0): _counted(1, 16),
    ("HammingWindow", 0): _counted(1, 16),
    ("BlackmanWindow", 0): _counted(1, 16),
    ("DFT", 1): _counted(1, 16),
    ("Col2Im", 1): _counted(1, 16),
}
