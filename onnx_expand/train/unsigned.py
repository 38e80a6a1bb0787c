"""Unsigned integers of 16, 32 and 64 bits, which torch stores but mostly cannot compute with.

Three detours compute an operator's translation on signed integers instead. `modular`: sums,
products and moves have the same bits for both signs. `ordered`: with the highest bit flipped,
signed order is unsigned order. `widened`: operators that need the actual values use int64, which
can represent 16- and 32-bit unsigned integers. An operator in none of the tables is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from onnx_expand.train.registry import find

__all__ = ["UNSIGNED", "detour", "modular", "ordered", "widened"]

UNSIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
"""The types that need a detour, with the signed types of the same width."""

_MODULAR = {
    *("Add", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Compress"),
    *("Concat", "CumProd", "CumSum", "DepthToSpace", "Einsum", "Equal", "Expand", "Flatten"),
    *("Gather", "GatherElements", "GatherND", "Identity", "MatMul", "Mul", "OneHot", "Pad"),
    *("Reshape", "Resize", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND"),
    *("Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "TensorScatter", "Tile"),
    *("Transpose", "Trilu", "Unsqueeze", "Where"),
}
_ORDERED = {
    *("ArgMax", "ArgMin", "Clip", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
    *("MaxPool", "Min", "ReduceMax", "ReduceMin", "TopK", "Unique"),
}
_WIDENED = {"Abs", "BitShift", "Div", "Mod", "PRelu", "Sign"}

# Operators that torch computes on these types, or computes in another type.
_NATIVE = {
    *("Bitcast", "Cast", "CastLike", "ConstantOfShape", "DequantizeLinear", "Pow", "Range"),
    *("Shape", "Size"),
}

# Slots in which a setting has the type of the tensor.
_NUMBERS: Mapping[str, tuple[int, ...]] = {"Pad": (2,), "Clip": (1, 2)}

# Outputs that are indices or counts.
_TYPED: Mapping[str, int] = {"ArgMax": 0, "ArgMin": 0, "TopK": 1, "Unique": 1}


def detour(name: str, attributes: Mapping[str, Any], dtype: torch.dtype) -> Callable[..., Any]:
    """Return the function that computes an operator on an unsigned type.

    Args:
        name: The operator, in ONNX's own domain.
        attributes: Its attributes.
        dtype: One of `UNSIGNED`.

    Raises:
        NotImplementedError: There is none.
    """
    if name in _NATIVE:
        return direct
    if name.startswith("Scatter") and attributes.get("reduction") in {"max", "min"}:
        return ordered
    if name == "Resize" and attributes.get("mode", "nearest") != "nearest":
        raise NotImplementedError(name)
    if name in _MODULAR:
        return modular
    if name in _ORDERED:
        return ordered
    if name in _WIDENED and (dtype != torch.uint64 or name in _LONG):
        return widened
    raise NotImplementedError(name)


def direct(name: str, opset: int, *args: Any, **attributes: Any) -> Any:
    """Apply an operator's translation to the types as they are."""
    translation = find("", name, opset)
    assert translation is not None
    return translation.target(*args, **attributes)


def modular(name: str, opset: int, *args: Any, **attributes: Any) -> Any:
    """Apply an operator's translation to the same bits as signed integers."""
    return _turned(name, opset, args, attributes, 0)


def ordered(name: str, opset: int, *args: Any, **attributes: Any) -> Any:
    """Apply an operator's translation to signed integers of the same order."""
    return _turned(name, opset, args, attributes, 1)


def _turned(
    name: str, opset: int, args: Sequence[Any], attributes: Mapping[str, Any], flip: int
) -> Any:
    dtype = _unsigned(args)
    signed = UNSIGNED[dtype]
    lowest = torch.iinfo(signed).min
    places = _NUMBERS.get(name, ())

    def into(slot: int, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.dtype != dtype:
                return value
            bits = value.view(signed)
            return bits ^ lowest if flip else bits
        if slot not in places or value is None:
            return value
        number = int(value[0] if isinstance(value, Sequence) else value)
        if flip:
            return number + lowest
        return number if number < -lowest else number + 2 * lowest

    def out_of(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != signed:
            return value
        return (value ^ lowest if flip else value).view(dtype)

    taken = [into(slot, value) for slot, value in enumerate(args)]
    found = direct(name, opset, *taken, **attributes)
    typed = _TYPED.get(name)
    if isinstance(found, tuple):
        return tuple(
            value if typed is not None and slot >= typed else out_of(value)
            for slot, value in enumerate(found)
        )
    return found if typed == 0 else out_of(found)


def widened(name: str, opset: int, *args: Any, **attributes: Any) -> Any:
    """Apply an operator's translation in int64, or a separate function for uint64."""
    dtype = _unsigned(args)
    if dtype == torch.uint64:
        return _LONG[name](*(value.view(torch.int64) for value in args), **attributes).view(dtype)
    wide = (
        value.to(torch.int64)
        if isinstance(value, torch.Tensor) and value.dtype == dtype
        else value
        for value in args
    )
    return direct(name, opset, *wide, **attributes).to(dtype)


def _unsigned(args: Sequence[Any]) -> torch.dtype:
    return next(
        value.dtype
        for value in args
        if isinstance(value, torch.Tensor) and value.dtype in UNSIGNED
    )


def _below(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return whether a < b, as unsigned integers."""
    lowest = torch.iinfo(torch.int64).min
    return (a ^ lowest) < (b ^ lowest)


def _shifted(a: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Shift bits to the right and fill with zeros."""
    by = by.expand_as(a + by)
    rest = (a >> 1) & torch.iinfo(torch.int64).max
    return torch.where(by == 0, a, rest >> (by - 1).clamp(min=0))


def _shift(a: torch.Tensor, by: torch.Tensor, *, direction: str) -> torch.Tensor:
    return a << by if direction == "LEFT" else _shifted(a, by)


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute a / b for unsigned integers: the quotient of a >> 1, doubled, is exact or one less.

    A divisor above the largest signed value divides at most once.
    """
    divisor = torch.where(b > 0, b, 1)
    half = torch.div(_shifted(a, torch.ones_like(a)), divisor, rounding_mode="trunc") << 1
    more = (~_below(a - half * divisor, divisor)).to(torch.int64)
    return torch.where(b > 0, half + more, (~_below(a, b)).to(torch.int64))


def _remainder(a: torch.Tensor, b: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    return a - _quotient(a, b) * b


_LONG: Mapping[str, Callable[..., torch.Tensor]] = {
    "Abs": torch.clone,
    "BitShift": _shift,
    "Div": _quotient,
    "Mod": _remainder,
    "Sign": lambda x: (x != 0).to(torch.int64),
}
