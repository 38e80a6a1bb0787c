"""Elementwise arithmetic, comparisons and logic with numpy's broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from onnx_expand.train.registry import Attributes, op, unary
from onnx_expand.train.tensors import DTYPES

unary(
    Abs=torch.abs,
    Acos=torch.acos,
    Acosh=torch.acosh,
    Asin=torch.asin,
    Asinh=torch.asinh,
    Atan=torch.atan,
    Atanh=torch.atanh,
    BitwiseNot=torch.bitwise_not,
    Ceil=torch.ceil,
    Cos=torch.cos,
    Cosh=torch.cosh,
    Erf=torch.erf,
    Exp=torch.exp,
    Floor=torch.floor,
    IsNaN=torch.isnan,
    Log=torch.log,
    Neg=torch.neg,
    Not=torch.logical_not,
    Reciprocal=torch.reciprocal,
    Round=torch.round,
    Sign=torch.sign,
    Sin=torch.sin,
    Sinh=torch.sinh,
    Sqrt=torch.sqrt,
    Tan=torch.tan,
)


@op("Add", since=7)
def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Add: a + b."""
    return a + b


@op("Sub", since=7)
def sub(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Sub: a - b."""
    return a - b


@op("Mul", since=7)
def mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Mul: a * b."""
    return a * b


@op("Div", since=7)
def div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Div: a / b, truncated for integers."""
    if a.is_floating_point() or a.is_complex():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


@op("Mod")
def mod(a: torch.Tensor, b: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    """Compute the remainder, with the sign of b, or of a if `fmod` is set."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("BitwiseAnd")
def bitwise_and(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute the bitwise AND."""
    return a & b


@op("BitwiseOr")
def bitwise_or(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute the bitwise OR."""
    return a | b


@op("BitwiseXor")
def bitwise_xor(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute the bitwise XOR."""
    return a ^ b


@op("BitShift")
def bit_shift(a: torch.Tensor, b: torch.Tensor, *, direction: str) -> torch.Tensor:
    """Shift the bits of a by b positions to the left or right."""
    return a << b if direction == "LEFT" else a >> b


@op("Pow", since=7, frozen=(1,))
def power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute a to the power of b, in a's type."""
    if a.is_floating_point():
        return torch.pow(a, b if b.is_floating_point() else b.to(a.dtype)).to(a.dtype)
    if b.is_floating_point():
        return torch.pow(a.to(b.dtype), b).to(a.dtype)
    return torch.pow(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)


@op("Sum")
def total(*terms: torch.Tensor) -> torch.Tensor:
    """Compute the sum of all inputs."""
    return functools.reduce(torch.add, terms)


@op("Mean")
def mean(*terms: torch.Tensor) -> torch.Tensor:
    """Compute the mean of all inputs."""
    return functools.reduce(torch.add, terms) / len(terms)


@op("Max")
def maximum(*terms: torch.Tensor) -> torch.Tensor:
    """Compute the elementwise maximum of all inputs."""
    return functools.reduce(torch.maximum, terms)


@op("Min")
def minimum(*terms: torch.Tensor) -> torch.Tensor:
    """Compute the elementwise minimum of all inputs."""
    return functools.reduce(torch.minimum, terms)


@op("Equal", since=7, frozen=(0, 1))
def equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Equal: a == b."""
    return torch.eq(a, b)


@op("Greater", since=7, frozen=(0, 1))
def greater(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Greater: a > b."""
    return torch.gt(a, b)


@op("GreaterOrEqual", frozen=(0, 1))
def greater_or_equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute GreaterOrEqual: a >= b."""
    return torch.ge(a, b)


@op("Less", since=7, frozen=(0, 1))
def less(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Less: a < b."""
    return torch.lt(a, b)


@op("LessOrEqual", frozen=(0, 1))
def less_or_equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute LessOrEqual: a <= b."""
    return torch.le(a, b)


@op("And", since=7)
def logical_and(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute And: a and b."""
    return torch.logical_and(a, b)


@op("Or", since=7)
def logical_or(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Or: a or b."""
    return torch.logical_or(a, b)


@op("Xor", since=7)
def logical_xor(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute Xor: exactly one of a and b."""
    return torch.logical_xor(a, b)


@op("Where")
def where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Select a where the condition is true, else b."""
    return torch.where(condition, a, b)


@op("Identity")
def identity(x: torch.Tensor) -> torch.Tensor:
    """Return the input unchanged."""
    return x


def _check_cast(attributes: Attributes) -> str:
    to = attributes.get("to")
    return "" if to in DTYPES else f"to={to}: torch has no such type"


@op("Cast", since=6, check=_check_cast)
def cast(x: torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    """Convert x to another element type."""
    return x.to(DTYPES[to])


@op("CastLike", frozen=(1,))
def cast_like(
    x: torch.Tensor, other: torch.Tensor, *, saturate: int = 1, round_mode: str = "up"
) -> torch.Tensor:
    """Convert x to the element type of another tensor."""
    return x.to(other.dtype)


@op("CumSum", static=(1,))
def cumulative_sum(
    x: torch.Tensor,
    axis: int | Sequence[int] | torch.Tensor,
    *,
    exclusive: int = 0,
    reverse: int = 0,
) -> torch.Tensor:
    """Compute cumulative sums along an axis, without the element itself if `exclusive`."""
    along = int(axis[0] if isinstance(axis, Sequence) else axis)
    turned = x.flip(along) if reverse else x
    sums = turned.cumsum(along, dtype=x.dtype)
    sums = sums - turned if exclusive else sums
    return sums.flip(along) if reverse else sums
