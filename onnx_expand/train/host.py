"""Shape arithmetic on Python numbers.

Graphs read extents from a tensor's shape, gather and multiply them, and pass them to Reshape. On
tensors each step would launch a kernel, and each use would wait for the device. Therefore values
derived from a shape stay Python ints, or lists of them, until an op needs a tensor.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from onnx_expand.train.registry import Attributes
from onnx_expand.train.tensors import DTYPES

__all__ = ["HostOp", "Known", "as_tensor", "find_host", "integers", "numbers"]

Number = int | float
HostValue = Number | list[Number]


@dataclass(frozen=True)
class Known:
    """A value that is a Python number or list while the module runs.

    Attributes:
        value: The fx node that computes it, or for a constant the number or list itself.
        dtype: The element type of the tensor that it represents.
        rank: 0 for a number, 1 for a list.
    """

    value: Any
    dtype: torch.dtype
    rank: int


@dataclass(frozen=True)
class HostOp:
    """The computation of one operator on numbers (rank 0) and lists of them (rank 1).

    Attributes:
        function: Takes the inputs in order and the attributes by name.
        rank: Returns the rank of the result; above 1 it cannot be computed here.
        like: The input whose element type the result has; None if it has another one.
        first: Arguments of the function before the inputs.
    """

    function: Callable[..., HostValue]
    rank: Callable[[Sequence[Known], Attributes], int]
    like: int | None = 0
    first: tuple[str, ...] = ()


def integers(value: Number | Sequence[Number] | torch.Tensor) -> list[int]:
    """Convert a setting of a node in any form to Python ints."""
    return [int(v) for v in numbers(value)]


def numbers(value: Number | Sequence[Number] | torch.Tensor) -> list[Number]:
    """Convert a setting of a node in any form to Python numbers."""
    if isinstance(value, torch.Tensor):
        return list(value.reshape(-1).tolist())
    return list(value) if isinstance(value, Sequence) else [value]


def as_tensor(value: HostValue, dtype: torch.dtype, like: torch.Tensor | None) -> torch.Tensor:
    """Convert Python numbers to a tensor on the device of `like`."""
    return torch.tensor(value, dtype=dtype, device=None if like is None else like.device)


def _each(function: Callable[..., Number], *values: HostValue) -> HostValue:
    """Apply a function elementwise; numbers and lists of one element are broadcast."""
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return function(*values)
    length = max(len(value) for value in lists) if all(lists) else 0
    rows = []
    for value in values:
        row = value if isinstance(value, list) else [value]
        rows.append(row * length if len(row) == 1 else row)
    return [function(*row) for row in zip(*rows, strict=True)]


def _quotient(a: Number, b: Number) -> Number:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    # ONNX truncates integer division; extents are rarely negative.
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def _choice(condition: Number, a: Number, b: Number) -> Number:
    return a if condition else b


def _largest(*values: Number) -> Number:
    return max(values)


def _smallest(*values: Number) -> Number:
    return min(values)


_ELEMENTWISE: dict[str, Callable[..., Number]] = {
    "Add": operator.add,
    "Ceil": math.ceil,
    "Div": _quotient,
    "Equal": operator.eq,
    "Floor": math.floor,
    "Max": _largest,
    "Min": _smallest,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Sqrt": math.sqrt,
    "Sub": operator.sub,
    "Where": _choice,
}


def elementwise(name: str, *values: HostValue) -> HostValue:
    """Compute an operator of `_ELEMENTWISE`."""
    return _each(_ELEMENTWISE[name], *values)


def mod(a: HostValue, b: HostValue, *, fmod: int = 0) -> HostValue:
    """Compute Mod: the remainder of a / b."""
    return _each(math.fmod if fmod else operator.mod, a, b)


def identity(a: HostValue) -> HostValue:
    """Compute Identity: the input itself."""
    return a


def cast(a: HostValue, *, to: int, saturate: int = 1, round_mode: str = "up") -> HostValue:
    """Compute Cast to a float, an int or a bool."""
    dtype = DTYPES[to]
    if dtype.is_floating_point:
        return _each(float, a)
    return _each(bool if dtype is torch.bool else int, a)


def gather(data: list[Number], indices: HostValue, *, axis: int = 0) -> HostValue:
    """Compute Gather: the elements at some indices."""
    if isinstance(indices, list):
        return [data[int(index)] for index in indices]
    return data[int(indices)]


def concat(*values: list[Number], axis: int) -> HostValue:
    """Compute Concat: the concatenation of lists."""
    return [number for value in values for number in value]


def slices(
    data: list[Number],
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> HostValue:
    """Compute Slice: a part of a list."""
    step = numbers(steps)[0] if steps is not None else 1
    first, last = numbers(starts)[0], numbers(ends)[0]
    return data[slice(int(first), int(last), int(step))]


def unsqueeze(data: Number, axes: HostValue) -> HostValue:
    """Compute Unsqueeze: a number as a list."""
    return [data]


def squeeze(data: list[Number], axes: HostValue | None = None) -> HostValue:
    """Compute Squeeze: a list of one element as a number."""
    return data[0]


def reduce_prod(
    data: HostValue,
    axes: HostValue | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> HostValue:
    """Compute ReduceProd: the product of a list."""
    product = math.prod(numbers(data))
    return [product] if keepdims and isinstance(data, list) else product


def reshape(data: HostValue, shape: HostValue, *, allowzero: int = 0) -> HostValue:
    """Compute Reshape: a number as a list, or the reverse."""
    return numbers(data) if shape else numbers(data)[0]


def _same_rank(inputs: Sequence[Known], attributes: Attributes) -> int:
    return max(known.rank for known in inputs)


def _list_rank(inputs: Sequence[Known], attributes: Attributes) -> int:
    return 1 if inputs[0].rank == 1 else 2


def _unsqueeze_rank(inputs: Sequence[Known], attributes: Attributes) -> int:
    axes = inputs[1].value if len(inputs) == 2 else attributes["axes"]
    return 1 if inputs[0].rank == 0 and axes in ([0], [-1], 0, -1) else 2


def _reshape_rank(inputs: Sequence[Known], attributes: Attributes) -> int:
    shape = inputs[1].value
    return len(shape) if isinstance(shape, list) else 2


_TABLE = {
    **{name: HostOp(elementwise, _same_rank, first=(name,)) for name in _ELEMENTWISE},
    "Cast": HostOp(cast, _same_rank, None),
    "Concat": HostOp(concat, _list_rank),
    "Equal": HostOp(elementwise, _same_rank, None, ("Equal",)),
    "Gather": HostOp(gather, lambda known, _: known[1].rank if known[0].rank == 1 else 2),
    "Identity": HostOp(identity, _same_rank),
    "Mod": HostOp(mod, _same_rank),
    "ReduceProd": HostOp(
        reduce_prod, lambda known, given: known[0].rank if given.get("keepdims", 1) else 0
    ),
    "Reshape": HostOp(reshape, _reshape_rank),
    "Slice": HostOp(slices, _list_rank),
    "Squeeze": HostOp(squeeze, lambda known, _: 0 if known[0].rank == 1 else 2),
    "Unsqueeze": HostOp(unsqueeze, _unsqueeze_rank),
    "Where": HostOp(elementwise, _same_rank, 1, ("Where",)),
}


def find_host(domain: str, name: str) -> HostOp | None:
    """Return how to compute an operator on Python numbers, or None if it cannot be."""
    return _TABLE.get(name) if domain in {"", "ai.onnx"} else None
