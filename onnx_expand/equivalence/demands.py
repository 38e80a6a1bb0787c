"""What integer inputs stand for, by what reads them.

A number that picks a row of a table has to be one of its rows; a number of turns must not be a
million. What reads an input says so, also through nodes that only move numbers or shift them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.cells import inlined
from onnx_expand.graph.attributes import int_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.shapes import Dim
from onnx_expand.graph.tensors import read_tensor

__all__ = ["Demand", "Meaning", "demands_of"]

Dims: TypeAlias = tuple[Dim, ...] | None

# Ops that hand integers on as they are.
_SAME = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze", "Tile", "Where"),
}
_FEW = 9
_SHAPES = {
    *(("ConstantOfShape", 0), ("Reshape", 1), ("Expand", 1), ("Tile", 1), ("Resize", 3)),
    *(("Range", 0), ("Range", 1), ("Range", 2), ("Pad", 1), ("Loop", 0), ("TopK", 1)),
    *(("OneHot", 1), ("Split", 1), ("CenterCropPad", 1), ("Upsample", 1), ("Resize", 2)),
    *(("AffineGrid", 1), ("HannWindow", 0), ("HammingWindow", 0), ("BlackmanWindow", 0)),
}
_LENGTHS = 4  # turns, repeats and extents where nothing else bounds them


class Meaning(StrEnum):
    """What a number is for."""

    ANY = "any"
    """Nothing that bounds it; what is known of its limits still holds."""
    DIVISOR = "divisor"
    """Anything but zero."""
    ROW = "row"
    """It picks a place of an array: all of them count."""
    COUNT = "count"
    """It counts, or is an extent."""
    FACTORS = "factors"
    """Factors of extents, which are no integers."""
    SHARE = "share"
    """Between zero and one."""
    MASK = "mask"
    """One where there is something, zero where there is padding."""
    AXES = "axes"
    """Axes, none twice."""
    UNITS = "units"
    """Axes of which each has one element."""
    PARTS = "parts"
    """Extents of parts that make up a whole."""
    SHAPE = "shape"
    """A shape for as many elements as there are."""
    EXPANDED = "expanded"
    """A shape to broadcast to."""
    RESIZED = "resized"
    """A shape of which batch and channels stay."""


_REAL = {Meaning.COUNT, Meaning.FACTORS, Meaning.SHARE}
"""What floating-point numbers may be for."""


@dataclass(frozen=True)
class Demand:
    """What the numbers of an integer input have to be.

    Attributes:
        meaning: What they are for.
        low: The least, None without a limit.
        high: The greatest.
        dims: The shape that axes, parts and shapes are about; None if it is not known.
    """

    meaning: Meaning = Meaning.ANY
    low: int | None = None
    high: Dim = None
    dims: Dims = None

    @property
    def rows(self) -> int:
        """How many places there are, 0 where it picks none or their number is not known."""
        if self.meaning != Meaning.ROW or self.low is None or not isinstance(self.high, int):
            return 0
        return max(0, self.high - self.low + 1)


def demands_of(model: ir.Model) -> dict[str, Demand]:
    """The demands on the inputs of a model, by name; inputs without one are left out.

    They are those on integers, and on the few floating-point numbers that are sizes.
    """
    model = inlined(model)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    facts = Facts(model)
    found = {}
    for value in inputs:
        dtype = facts.dtype(value)
        if dtype is None or not (dtype.is_integer() or _is_short(facts.named_shape(value))):
            continue
        demand = _demand(value, facts)
        if demand is None and _makes_shapes(value, facts):
            demand = Demand(Meaning.COUNT, 0, _LENGTHS)
        if not dtype.is_integer() and demand is not None:
            demand = demand if demand.meaning in _REAL else None
        if demand is not None:
            found[value.name or ""] = demand
    return found


def _is_short(dims: Dims) -> bool:
    """Whether a value holds so few numbers that they may be sizes."""
    return dims is not None and (not dims or (len(dims) == 1 and dims[0] in range(_FEW)))


def _makes_shapes(value: ir.Value, facts: Facts) -> bool:
    """Whether extents are computed from a value, by whatever arithmetic.

    A shape of arbitrary numbers would take all memory.
    """
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for node, index in current.uses():
            if (node.op_type, index) in _SHAPES and node.domain in {"", "ai.onnx"}:
                return True
            for out in node.outputs:
                dtype = facts.dtype(out)
                is_small = dtype is not None and (
                    dtype.is_integer() or _is_short(facts.named_shape(out))
                )
                if is_small and out not in seen:
                    seen.add(out)
                    pending.append(out)
    return False


@dataclass(frozen=True)
class _Number:
    """A value that is `factor * x + offset` for an input x, the offset within bounds."""

    value: ir.Value
    factor: int = 1
    low: int = 0
    high: int = 0


def _demand(value: ir.Value, facts: Facts) -> Demand | None:
    """All that the readers of an input say, together."""
    found = []
    pending, seen = [_Number(value)], {value}
    while pending:
        number = pending.pop()
        for node, index in number.value.uses():
            said = _said(node, index, number.value, facts)
            if said is not None:
                found.append(_before(said, number))
                continue
            after = _after(node, index, number, facts)
            if after is None:
                continue
            new = [out for out in node.outputs if out not in seen]
            seen.update(new)
            pending += [replace(after, value=out) for out in new]
    if "mask" in (value.name or "").lower() and not found:
        return Demand(Meaning.MASK, 0, 1)
    return _joined(found)


def _joined(found: list[Demand]) -> Demand | None:
    if not found:
        return None
    # The meaning that leaves least choice is the one to draw by.
    order = list(Meaning)
    first = max(found, key=lambda demand: order.index(demand.meaning))
    lows = [demand.low for demand in found if demand.low is not None]
    highs = [demand.high for demand in found if isinstance(demand.high, int)]
    names = [demand.high for demand in found if isinstance(demand.high, str)]
    high: Dim = min(highs) if highs else (names[0] if names else None)
    return replace(first, low=max(lows, default=None), high=high)


def _before(said: Demand, number: _Number) -> Demand:
    """What a demand on `factor * x + offset` says of x."""
    if (number.factor, number.low, number.high) == (1, 0, 0) or isinstance(said.high, str):
        return said
    low = None if said.low is None else said.low - number.low
    high = None if said.high is None else said.high - number.high
    if number.factor < 0:
        low, high = high, low
    divided = [None if b is None else b / number.factor for b in (low, high)]
    low = None if divided[0] is None else int(np.ceil(divided[0]))
    high = None if divided[1] is None else int(np.floor(divided[1]))
    if low is not None and high is not None and low > high:
        return Demand()
    return replace(said, low=low, high=high)


def _after(node: ir.Node, index: int, number: _Number, facts: Facts) -> _Number | None:
    """What a node makes of a number, None if that is none of `factor * x + offset`."""
    op = node.op_type
    if op in _SAME and (index == 0 or op in {"Concat", "Where"}):
        dtype = facts.dtype(node.outputs[0]) if op == "Cast" else None
        keeps = op != "Cast" or (dtype is not None and dtype.is_integer())
        return number if keeps and (op != "Where" or index) else None
    if op not in {"Add", "Mul", "Sub"} or len(node.inputs) != 2:
        return None
    other = node.inputs[1 - index]
    if other is None or not facts.is_constant(other):
        return None
    array = read_tensor(facts.tensor(other))
    if array.dtype.kind not in "iu" or not array.size:
        return None
    low, high = int(array.min()), int(array.max())
    if max(abs(low), abs(high)) > 1 << 40:
        return None
    if op == "Mul":
        if low != high or not low:
            return None
        ends = sorted((number.low * low, number.high * low))
        return _Number(number.value, number.factor * low, *ends)
    if op == "Add":
        return replace(number, low=number.low + low, high=number.high + high)
    if index == 0:
        return replace(number, low=number.low - high, high=number.high - low)
    return _Number(number.value, -number.factor, low - number.high, high - number.low)


def _said(node: ir.Node, index: int, value: ir.Value, facts: Facts) -> Demand | None:
    """What a node demands of what it reads at an input."""
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
    """Whether a Cast makes a mask a number: by its name, or since it is taken from one."""
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
        # Extents that only a run tells are at least one, as a rule.
        return Demand(Meaning.ROW, 0, None if extent is None else f"{extent} - 1")
    return Demand(Meaning.ROW, -extent if signed else 0, max(0, extent - 1))


def _place_on_axis(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    axis = int_of(node, "axis", facts.opset)
    return _row(_at(_dims(node, facts), axis))


def _place_in_all(node: ir.Node, value: ir.Value, facts: Facts) -> Demand | None:
    """Tuples of indices: as they have one bound here, the least extent they pick from."""
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
    """How many of the keys of attention are no padding."""
    extent = _at(_dims(node, facts, 1), -2)
    return Demand(Meaning.COUNT, 1, extent if extent is not None else 1)


def _one_hot(node: ir.Node, value: ir.Value, facts: Facts) -> Demand | None:
    depth = node.inputs[1]
    if depth is None or not facts.is_constant(depth):
        return _row(_LENGTHS)
    return _row(int(read_tensor(facts.tensor(depth)).reshape(-1)[0]))


def _counted(low: int, high: int) -> Reader:
    return lambda node, value, facts: Demand(Meaning.COUNT, low, high)


def _largest(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    extent = _at(_dims(node, facts), int_of(node, "axis", facts.opset))
    return Demand(Meaning.COUNT, 1, extent if extent is not None else 2)


def _cut(node: ir.Node, value: ir.Value, facts: Facts) -> Demand:
    """Starts and ends of a Slice, which may lie outside."""
    known = [extent for extent in _dims(node, facts) or () if isinstance(extent, int)]
    reach = 1 + max(known, default=_LENGTHS)
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
    ("OneHot", 1): _counted(1, 2 * _LENGTHS),
    ("Loop", 0): _counted(0, _LENGTHS),
    ("TopK", 1): _largest,
    ("Slice", 1): _cut,
    ("Slice", 2): _cut,
    ("Slice", 3): _axes_of_data,
    ("Slice", 4): _counted(1, 2),
    ("Tile", 1): _counted(0, 3),
    ("ConstantOfShape", 0): _counted(0, _LENGTHS),
    ("Range", 0): _counted(0, 0),
    ("Range", 1): _counted(0, 2 * _LENGTHS),
    ("Range", 2): _counted(1, 2),
    ("Pad", 1): _counted(0, 2),
    ("Pad", 3): _axes_of_data,
    ("CumSum", 1): _axis_of_data,
    ("Trilu", 1): _counted(-_LENGTHS, _LENGTHS),
    ("Squeeze", 1): _about_data(Meaning.UNITS),
    ("Unsqueeze", 1): _new_axes,
    ("Split", 1): _parts,
    ("SplitToSequence", 1): _parts,
    ("Reshape", 1): _about_data(Meaning.SHAPE),
    ("Expand", 1): _about_data(Meaning.EXPANDED),
    ("Resize", 2): _about_data(Meaning.FACTORS),
    ("Upsample", 1): lambda node, value, facts: Demand(Meaning.FACTORS, 1),
    ("Dropout", 1): _about_data(Meaning.SHARE),
    ("NonMaxSuppression", 2): _counted(0, _LENGTHS),
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
    ("STFT", 1): _counted(1, _LENGTHS),
    ("STFT", 3): _counted(1, _LENGTHS),
    ("CenterCropPad", 1): _counted(1, 2 * _LENGTHS),
    ("AffineGrid", 1): _counted(1, 3),
    ("HannWindow", 0): _counted(1, 16),
    ("HammingWindow", 0): _counted(1, 16),
    ("BlackmanWindow", 0): _counted(1, 16),
    ("DFT", 1): _counted(1, 16),
    ("Col2Im", 1): _counted(1, 16),
}
