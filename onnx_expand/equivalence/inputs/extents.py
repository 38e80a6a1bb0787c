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
            said = _said(node, index, facts)
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


def _said(node: ir.Node, index: int, facts: Facts) -> Wanted | None:
    """Return the constraint of a node on the extents of an input, by those of another."""
    place, rule = _RULES.get((node.op_type, index), (0, None))
    if rule is None or len(node.inputs) <= place:
        return None
    dims = facts.shape(node.inputs[place])
    if not dims or (node.op_type in _PAIRS and not facts.is_constant(node.inputs[place])):
        return None
    known = tuple(extent for extent in dims if extent is not None)
    return rule(known, node, facts.opset) if len(known) == len(dims) else None


Rule: TypeAlias = Callable[[tuple[int, ...], ir.Node, int], Wanted | None]


def _conv(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    return (len(dims), {1: dims[1] * int_of(node, "group", opset)}) if len(dims) > 2 else None


def _conv_transpose(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    return (len(dims), {1: dims[0]}) if len(dims) > 2 else None


def _left(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted:
    return 2, {-1: dims[-2] if len(dims) > 1 else dims[0]}


def _right(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted:
    return 2, {-2: dims[-1]}


def _gemm_left(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    own, other = flag_of(node, "transA", opset), flag_of(node, "transB", opset)
    return (2, {1 - own: dims[other]}) if len(dims) == 2 else None


def _gemm_right(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    own, other = flag_of(node, "transB", opset), flag_of(node, "transA", opset)
    return (2, {own: dims[1 - other]}) if len(dims) == 2 else None


def _channels(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    return (0, {1: dims[0]}) if len(dims) == 1 else None


def _last_axes(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted:
    """Return the constraint of broadcasting, where an extent of one says nothing."""
    return 0, {place - len(dims): extent for place, extent in enumerate(dims) if extent > 1}


def _recurrent(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    return (3, {2: dims[2]}) if len(dims) == 3 else None


def _state(dims: tuple[int, ...], node: ir.Node, opset: int) -> Wanted | None:
    return (3, {0: dims[0], 2: dims[2]}) if len(dims) == 3 else None


# By op and input: the other input that constrains it, and how.
_RULES: dict[tuple[str, int], tuple[int, Rule]] = {
    ("Conv", 0): (1, _conv),
    ("ConvInteger", 0): (1, _conv),
    ("QLinearConv", 0): (3, _conv),
    ("ConvTranspose", 0): (1, _conv_transpose),
    ("MatMul", 0): (1, _left),
    ("MatMul", 1): (0, _right),
    ("MatMulInteger", 0): (1, _left),
    ("QLinearMatMul", 0): (3, _left),
    ("Gemm", 0): (1, _gemm_left),
    ("Gemm", 1): (0, _gemm_right),
    ("BatchNormalization", 0): (1, _channels),
    ("InstanceNormalization", 0): (1, _channels),
    ("LayerNormalization", 0): (1, _last_axes),
    ("RMSNormalization", 0): (1, _last_axes),
    **{(op, 0): (1, _recurrent) for op in ("LSTM", "GRU", "RNN")},
    **{(op, 5): (2, _state) for op in ("LSTM", "GRU", "RNN")},
    ("LSTM", 6): (2, _state),
    **{(op, index): (1 - index, _last_axes) for op in _PAIRS for index in (0, 1)},
}
