"""Elementwise arithmetic, comparisons and logic with numpy's broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from onnx_expand.train.host import integers
from onnx_expand.train.registry import op, plain
from onnx_expand.train.tensors import DTYPES

plain(
    Abs=torch.abs,
    Acos=torch.acos,
    Acosh=torch.acosh,
    Asin=torch.asin,
    Asinh=torch.asinh,
    Atan=torch.atan,
    Atanh=torch.atanh,
    BitwiseAnd=torch.bitwise_and,
    BitwiseNot=torch.bitwise_not,
    BitwiseOr=torch.bitwise_or,
    BitwiseXor=torch.bitwise_xor,
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
    Where=torch.where,
)
plain(
    since=7,
    Add=torch.add,
    And=torch.logical_and,
    Mul=torch.mul,
    Or=torch.logical_or,
    Sub=torch.sub,
    Xor=torch.logical_xor,
)
# A comparison passes no gradient on.
plain(frozen=(0, 1), GreaterOrEqual=torch.ge, LessOrEqual=torch.le)
plain(frozen=(0, 1), since=7, Equal=torch.eq, Greater=torch.gt, Less=torch.lt)


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


@op("Identity")
def identity(x: torch.Tensor) -> torch.Tensor:
    """Return the input unchanged."""
    return x


@op("Cast", since=6, allowed={"to": DTYPES})
def cast(x: torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    """Convert x to another element type."""
    return x.to(DTYPES[to])


@op("CastLike", frozen=(1,))
def cast_like(
    x: torch.Tensor, other: torch.Tensor, *, saturate: int = 1, round_mode: str = "up"
) -> torch.Tensor:
    """Convert x to the element type of another tensor."""
    return x.to(other.dtype)


@op("CumSum", static=(1,), product=False)
@op("CumProd", static=(1,), product=True)
def cumulate(
    x: torch.Tensor,
    axis: int | Sequence[int] | torch.Tensor,
    *,
    exclusive: int = 0,
    reverse: int = 0,
    product: bool,
) -> torch.Tensor:
    """Compute sums or products up to each element, without the element itself if `exclusive`."""
    (dim,) = integers(axis)
    x = x.flip(dim) if reverse else x
    if exclusive:
        first = torch.full_like(x.narrow(dim, 0, min(1, x.shape[dim])), int(product))
        x = torch.cat([first, x.narrow(dim, 0, max(0, x.shape[dim] - 1))], dim)
    y = (torch.cumprod if product else torch.cumsum)(x, dim, dtype=x.dtype)
    return y.flip(dim) if reverse else y
