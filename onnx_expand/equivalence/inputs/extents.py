"""Derive the input extents that a model leaves open from its weights.

Exporters may make every axis of every input symbolic. The first convolution still determines the
number of channels, and the first matrix the length of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TypeAlias

import onnx_ir as ir

from onnx_expand.equivalence.inputs.signature import Signature
from onnx_expand.equivalence.parts.cells import inlined
from onnx_expand.errors import UsageError
from onnx_expand.graph.attributes import flag_of, int_of, ints_of
from onnx_expand.graph.facts import Facts

__all__ = ["fix_extents", "known_shapes"]

Shape: TypeAlias = tuple[int | str, ...]
# For each axis of a value the input axis that it corresponds to, or None.
Axes: TypeAlias = tuple[int | None, ...]
# The constraint of a consumer: the rank of its input (0 if any), and extents by axis (negative
# axes count from the end).
Wanted: TypeAlias = tuple[int, dict[int, int]]

_SAME = {
    *("Abs", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "DequantizeLinear"),
    *("Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "HardSigmoid"),
    *("HardSwish", "Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu"),
    *("Log", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg"),
    *("PRelu", "QuantizeLinear", "RMSNormalization", "Reciprocal", "Relu", "Round", "Selu"),
    *("Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh"),
    *("ThresholdedRelu",),
}
_MOST = 1 << 40  # elements of an input; no machine can hold more

_PAIRS = {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"}
_CHANNELS_STAY = {
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Pad", "Resize"),
    *("Upsample",),
}


def known_shapes(
    model: ir.Model, signature: Signature, wanted: Mapping[str, Sequence[int | str]]
) -> dict[str, Shape]:
    """Return the shapes of the inputs with every extent that is known.

    Args:
        model: The model.
        signature: Its inputs.
        wanted: Requested extents by input; a name leaves an extent open.

    Returns:
        Extents by input; a symbol that is fixed on one axis is fixed on all. Inputs of unknown
        rank are left out.

    Raises:
        UsageError: There is no such input, or it has other extents.
    """
    _require_fit(signature, wanted)
    model = inlined(model)
    facts = Facts(model)
    shapes: dict[str, Shape] = {}
    fixed: dict[str, set[int]] = {}
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        port = signature.inputs.get(value.name or "")
        if port is None:
            continue
        rank, extents = _wanted(value, None if port.shape is None else len(port.shape), facts)
        asked = wanted.get(port.name)
        own: Shape | None = (
            port.symbols()
            if port.shape is not None
            else _open(port.name, len(asked or ()) or rank)
        )
        if own is None:
            continue
        shapes[port.name] = own
        for axis, symbol in enumerate(own):
            if not isinstance(symbol, str):
                continue
            if asked is not None and isinstance(number := asked[axis], int):
                sizes[symbol] = number
            elif axis in extents:
                fixed.setdefault(symbol, set()).add(extents[axis])
    # A symbol with two extents is contradictory; such a model is tried at other sizes.
    for symbol, numbers in fixed.items():
        if len(numbers) == 1:
            sizes.setdefault(symbol, *numbers)
    return {
        name: tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)
        for name, shape in shapes.items()
    }


def fix_extents(model: ir.Model, wanted: Mapping[str, Sequence[int | str]]) -> None:
    """Set the inputs of a model to the requested extents, and to those that follow from them.

    Raises:
        UsageError: There is no such input, or it has other extents.
    """
    shapes = known_shapes(model, Signature.of(model), wanted)
    for value in model.graph.inputs:
        if (shape := shapes.get(value.name or "")) is not None:
            value.shape = ir.Shape(shape)


def _require_fit(signature: Signature, wanted: Mapping[str, Sequence[int | str]]) -> None:
    for name, extents in wanted.items():
        port = signature.inputs.get(name)
        if port is None:
            known = ", ".join(signature.inputs)
            raise UsageError(f"shape: there is no input '{name}'; the inputs are {known}")
        own = port.symbols()
        fits = port.shape is None or (
            len(own) == len(extents)
            and all(not isinstance(o, int) or o == e for o, e in zip(own, extents, strict=True))
        )
        if not fits:
            raise UsageError(f"shape: input '{name}' has extents {list(own)}, not {list(extents)}")
        numbers = [e for e, o in zip_longest(extents, own) if isinstance(e, int) and e != o]
        if min(numbers, default=1) < 1 or math.prod(numbers) > _MOST:
            raise UsageError(
                f"shape: extents {list(extents)} of input '{name}': each is 1 or more, and all "
                f"together hold at most {_MOST} numbers"
            )


def _open(name: str, rank: int) -> Shape | None:
    return tuple(f"{name}[{axis}]" for axis in range(rank)) if rank else None


def _wanted(value: ir.Value, rank: int | None, facts: Facts) -> tuple[int, dict[int, int]]:
    """Return the rank of an input and extents by axis, as far as its consumers determine them."""
    if rank is None:
        ranks = {found for _, _, (found, _) in _readers(value, (), facts) if found}
        rank = ranks.pop() if len(ranks) == 1 else 0
    extents: dict[int, int] = {}
    for _, axes, (_, found) in _readers(value, tuple(range(rank)), facts):
        for axis, extent in found.items():
            if -len(axes) <= axis < len(axes) and (place := axes[axis]) is not None:
                extents.setdefault(place, extent)
    return rank, extents


def _readers(value: ir.Value, axes: Axes, facts: Facts) -> Iterator[tuple[ir.Node, Axes, Wanted]]:
    """Yield the nodes that constrain a value's extents, also behind nodes that keep its axes."""
    pending, seen = [(value, axes)], {value}
    while pending:
        current, own = pending.pop(0)
        for node, index in current.uses():
            if node.domain not in {"", "ai.onnx"}:
                continue
            reader = _READERS.get((node.op_type, index))
            said = reader(node, facts) if reader is not None else None
            if said is not None:
                yield node, own, said
            after = _after(node, index, own, facts)
            if after is not None and node.outputs and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append((node.outputs[0], after))


def _after(node: ir.Node, index: int, axes: Axes, facts: Facts) -> Axes | None:
    """Map the axes of a node's output to those of the input, or return None if they are lost."""
    op = node.op_type
    if op in _SAME and index == 0:
        return axes
    if op in _CHANNELS_STAY and index == 0:
        return tuple(axis if place < 2 else None for place, axis in enumerate(axes))
    if op == "Transpose" and axes:
        perm = ints_of(node, "perm") or range(len(axes))[::-1]
        return tuple(axes[place] for place in perm) if len(perm) == len(axes) else None
    if op in _PAIRS and len(node.inputs) == 2:
        other = facts.shape(node.inputs[1 - index])
        is_shorter = other is not None and len(other) <= len(axes)
        return axes if is_shorter or not axes else None
    if op == "Concat" and axes:
        along = int_of(node, "axis", facts.opset) % len(axes)
        return tuple(None if place == along else axis for place, axis in enumerate(axes))
    return None


def _dims(node: ir.Node, index: int, facts: Facts) -> tuple[int, ...] | None:
    """Return the extents of an operand if all are known."""
    shape = facts.shape(node.inputs[index]) if len(node.inputs) > index else None
    if shape is None or any(extent is None for extent in shape):
        return None
    return tuple(extent for extent in shape if extent is not None)


def _conv(weight: int) -> Callable[[ir.Node, Facts], Wanted | None]:
    def said(node: ir.Node, facts: Facts) -> Wanted | None:
        dims = _dims(node, weight, facts)
        if dims is None or len(dims) < 3:
            return None
        return len(dims), {1: dims[1] * int_of(node, "group", facts.opset)}

    return said


def _conv_transpose(node: ir.Node, facts: Facts) -> Wanted | None:
    dims = _dims(node, 1, facts)
    return None if dims is None or len(dims) < 3 else (len(dims), {1: dims[0]})


def _matrix(other: int, own: int) -> Callable[[ir.Node, Facts], Wanted | None]:
    """Return the constraint of a matrix product on its left (`own` 0) or right (1) operand."""

    def said(node: ir.Node, facts: Facts) -> Wanted | None:
        dims = _dims(node, other, facts)
        if dims is None or not dims:
            return None
        if own == 0:
            return (2, {-1: dims[-2] if len(dims) > 1 else dims[0]})
        return (2, {-2: dims[-1]})

    return said


def _gemm(index: int) -> Callable[[ir.Node, Facts], Wanted | None]:
    def said(node: ir.Node, facts: Facts) -> Wanted | None:
        dims = _dims(node, 1 - index, facts)
        if dims is None or len(dims) != 2:
            return None
        mine = flag_of(node, "transB" if index else "transA", facts.opset)
        others = flag_of(node, "transA" if index else "transB", facts.opset)
        # The inner extent is the last of the left operand and the first of the right one.
        inner = dims[(1 - others) if index else others]
        return 2, {(mine if index else 1 - mine): inner}

    return said


def _channels(index: int, axis: int) -> Callable[[ir.Node, Facts], Wanted | None]:
    def said(node: ir.Node, facts: Facts) -> Wanted | None:
        dims = _dims(node, index, facts)
        return None if dims is None or len(dims) != 1 else (0, {axis: dims[0]})

    return said


def _last_axes(node: ir.Node, facts: Facts) -> Wanted | None:
    dims = _dims(node, 1, facts)
    if dims is None:
        return None
    return 0, {place - len(dims): extent for place, extent in enumerate(dims) if extent > 1}


def _recurrent(node: ir.Node, facts: Facts) -> Wanted | None:
    dims = _dims(node, 1, facts)
    return None if dims is None or len(dims) != 3 else (3, {2: dims[2]})


def _state(node: ir.Node, facts: Facts) -> Wanted | None:
    dims = _dims(node, 2, facts)
    return None if dims is None or len(dims) != 3 else (3, {0: dims[0], 2: dims[2]})


def _operand(index: int) -> Callable[[ir.Node, Facts], Wanted | None]:
    """Return the constraint of an elementwise operation with a constant."""

    def said(node: ir.Node, facts: Facts) -> Wanted | None:
        if len(node.inputs) != 2 or not facts.is_constant(node.inputs[1 - index]):
            return None
        dims = _dims(node, 1 - index, facts) or ()
        return 0, {place - len(dims): extent for place, extent in enumerate(dims) if extent > 1}

    return said


_READERS: dict[tuple[str, int], Callable[[ir.Node, Facts], Wanted | None]] = {
    ("Conv", 0): _conv(1),
    ("ConvInteger", 0): _conv(1),
    ("QLinearConv", 0): _conv(3),
    ("ConvTranspose", 0): _conv_transpose,
    ("MatMul", 0): _matrix(1, 0),
    ("MatMul", 1): _matrix(0, 1),
    ("MatMulInteger", 0): _matrix(1, 0),
    ("QLinearMatMul", 0): _matrix(3, 0),
    ("Gemm", 0): _gemm(0),
    ("Gemm", 1): _gemm(1),
    ("BatchNormalization", 0): _channels(1, 1),
    ("InstanceNormalization", 0): _channels(1, 1),
    ("LayerNormalization", 0): _last_axes,
    ("RMSNormalization", 0): _last_axes,
    ("LSTM", 0): _recurrent,
    ("GRU", 0): _recurrent,
    ("RNN", 0): _recurrent,
    ("LSTM", 5): _state,
    ("LSTM", 6): _state,
    ("GRU", 5): _state,
    ("RNN", 5): _state,
    **{(op, index): _operand(index) for op in _PAIRS for index in (0, 1)},
}
