"""Bound the memory and time of constant evaluation.

A few nodes can require any amount of memory or time. The cost of a node is bounded from its inputs
before it runs, and all evaluations for one model are charged to one budget, which grows with the
size of the stored constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import flag_of, int_of, ints_of, text_of
from onnx_expand.graph.ops import Trait, op_of

__all__ = ["Budget", "Work", "work_of"]

Operand: TypeAlias = npt.NDArray[Any] | None
Operands: TypeAlias = Sequence[Operand]

_BYTES = 1 << 28
_STEPS = 1 << 33
_BYTES_PER_STORED = 2
_STEPS_PER_STORED = 128  # per byte: many products of one weight with narrow matrices
_STEPS_PER_READ = 4  # the cost of an element read, in products
# In float64; composing wide layers needs more than the budget for single weights allows.
_COMPOSITIONS = 1 << 36
_COMPOSITIONS_PER_STORED = 1024
_SLOW = {"e": 8, "d": 2, "V": 16}  # time of a product in other types, relative to float32
_LONGEST = 64  # axes


@dataclass(frozen=True)
class Work:
    """An upper bound of the cost of a node.

    Attributes:
        elements: Elements that it writes, intermediate results included.
        products: Multiply-accumulates.
    """

    elements: int
    products: int = 0


class Budget:
    """The remaining budget for evaluating the constants of one model.

    Args:
        stored: Bytes of the constants that the model stores.

    Attributes:
        exhausted: Whether a node asked for more than was left.
    """

    def __init__(self, stored: int) -> None:
        self._bytes = _BYTES + _BYTES_PER_STORED * stored
        self._steps = _STEPS + _STEPS_PER_STORED * stored
        self._compositions = _COMPOSITIONS + _COMPOSITIONS_PER_STORED * stored
        self.exhausted = False

    def take(self, node: ir.Node, inputs: Operands) -> bool:
        """Charge the cost of a node; return whether the budget sufficed.

        Inputs that the node leaves out are None.
        """
        work = work_of(node, inputs)
        if work is None:
            return False
        given = [array for array in inputs if array is not None]
        width = max((array.dtype.itemsize for array in given), default=1)
        size = work.elements * (8 if Trait.RETYPES in op_of(node).traits else width)
        slow = max((_SLOW.get(_kind(array), 1) for array in given), default=1)
        read = work.elements + sum(array.size for array in given)
        steps = work.products * slow + _STEPS_PER_READ * read
        if size > self._bytes or steps > self._steps:
            self.exhausted = True
            return False
        self._bytes -= size
        self._steps -= steps
        return True

    def compose(self, products: int) -> bool:
        """Charge multiply-accumulates for composing maps; return whether the budget sufficed."""
        if products > self._compositions:
            return False
        self._compositions -= products
        return True


def _kind(array: npt.NDArray[Any]) -> str:
    return array.dtype.char if array.dtype.char in "efd" else "V"


def work_of(node: ir.Node, inputs: Operands) -> Work | None:
    """Return an upper bound of the cost of a node.

    Args:
        node: A node of a pure op.
        inputs: What it reads, None for an input that is left out.

    Returns:
        The bound; None if there is none, or if the operands do not match.
    """
    rule = _RULES.get(node.op_type, _broadcast)
    try:
        return rule(node, inputs)
    except (ArithmeticError, IndexError, TypeError, ValueError):
        return None


def _broadcast(node: ir.Node, inputs: Operands) -> Work:
    del node
    return Work(math.prod(_aligned(*(a.shape for a in inputs if a is not None))))


def _aligned(*shapes: Sequence[int]) -> list[int]:
    """Return an upper bound of the extents that shapes broadcast to."""
    rank = max((len(shape) for shape in shapes), default=0)
    spread = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return [0 if 0 in extents else max(extents) for extents in zip(*spread, strict=True)]


def _numbers(array: Operand) -> list[int]:
    """Return the elements of an operand that specifies extents."""
    if array is None or array.size > _LONGEST or array.dtype.kind not in "iu":
        raise ValueError
    return [int(number) for number in array.ravel()]


def _extents(array: Operand) -> list[int]:
    numbers = _numbers(array)
    if any(number < 0 for number in numbers):
        raise ValueError
    return numbers


def _given(array: Operand) -> npt.NDArray[Any]:
    if array is None:
        raise ValueError
    return array


def _range(node: ir.Node, inputs: Operands) -> Work:
    del node
    start, limit, delta = (float(_given(array).reshape(())) for array in inputs)
    return Work(max(0, math.ceil((limit - start) / delta)))


def _pad(node: ir.Node, inputs: Operands) -> Work:
    x = _given(inputs[0])
    pads = list(ints_of(node, "pads") or ints_of(node, "paddings"))
    if len(inputs) > 1:
        pads = _numbers(inputs[1])
    axes = range(x.ndim)
    if len(inputs) > 3 and inputs[3] is not None:
        axes = [axis % x.ndim for axis in _numbers(inputs[3])]  # type: ignore[assignment]
    extents = list(x.shape)
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        extents[axis] += max(begin, 0) + max(end, 0)
    return Work(math.prod(extents))


def _resize(node: ir.Node, inputs: Operands) -> Work:
    x, rest = _given(inputs[0]), [a for a in inputs[1:] if a is not None and a.size]
    last = rest[-1]
    axes = ints_of(node, "axes") or range(x.ndim)
    extents: list[float] = list(x.shape)
    for axis, number in zip(axes, last.ravel().tolist(), strict=True):
        extents[axis] = number if last.dtype.kind in "iu" else extents[axis] * number + 1
    if not all(math.isfinite(extent) and extent >= 0 for extent in extents):
        raise ValueError
    size = math.ceil(math.prod(extents))
    return Work(size, size << (2 * x.ndim))


def _gather(node: ir.Node, inputs: Operands) -> Work:
    data, indices = _given(inputs[0]), _given(inputs[1])
    extent = data.shape[int_of(node, "axis")]
    return Work(data.size // max(extent, 1) * indices.size)


def _gather_nd(node: ir.Node, inputs: Operands) -> Work:
    data, indices = _given(inputs[0]), _given(inputs[1])
    named = indices.shape[-1] + int_of(node, "batch_dims")
    return Work(math.prod(indices.shape[:-1]) * math.prod(data.shape[named:]))


def _matmul(node: ir.Node, inputs: Operands) -> Work:
    del node
    a, b = (_given(array).shape for array in inputs)
    batch = math.prod(_aligned(a[:-2], b[:-2]))
    size = batch * (a[-2] if len(a) > 1 else 1) * (b[-1] if len(b) > 1 else 1)
    return Work(size, size * a[-1])


def _gemm(node: ir.Node, inputs: Operands) -> Work:
    a, b = _given(inputs[0]), _given(inputs[1])
    m = a.shape[1 if flag_of(node, "transA") else 0]
    n = b.shape[0 if flag_of(node, "transB") else 1]
    return Work(2 * m * n, a.size * n)


def _einsum(node: ir.Node, inputs: Operands) -> Work:
    left, arrow, right = text_of(node, "equation").replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, array in zip(left.split(","), inputs, strict=True):
        shape = _given(array).shape
        head, dots, tail = term.partition("...")
        more = len(shape) - len(head) - len(tail) if dots else 0
        letters = [*head, *(f".{more - i}" for i in range(more)), *tail]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    total = math.prod(sizes.values())
    if not arrow or len(inputs) > 2:
        return Work(total, total)  # the product of the first two may have all the letters
    kept = [size for letter, size in sizes.items() if letter[0] == "." or letter in right]
    copies = sum(_given(array).size for array in inputs)
    return Work(math.prod(kept) + copies, total)


def _conv(node: ir.Node, inputs: Operands) -> Work:
    x, w = _given(inputs[0]).shape, _given(inputs[1]).shape
    rank = len(x) - 2
    pads, strides = ints_of(node, "pads") or (0,) * 2 * rank, ints_of(node, "strides")
    around = [max(0, pads[i]) + max(0, pads[i + rank]) for i in range(rank)]
    sizes = [
        -(-(size + more) // step)
        for size, more, step in zip(x[2:], around, strides or (1,) * rank, strict=True)
    ]
    positions, fan_in = math.prod(sizes), math.prod(w[1:])
    size = x[0] * w[0] * positions
    return Work(size + fan_in * int_of(node, "group") * positions, size * fan_in)


def _conv_transpose(node: ir.Node, inputs: Operands) -> Work:
    x, w = _given(inputs[0]).shape, _given(inputs[1]).shape
    ones = (1,) * (len(x) - 2)
    strides, holes = (ints_of(node, name) or ones for name in ("strides", "dilations"))
    extra = ints_of(node, "output_padding") or (0,) * len(ones)
    sizes = [
        size * step + kernel * hole + more
        for size, step, kernel, hole, more in zip(x[2:], strides, w[2:], holes, extra, strict=True)
    ]
    sizes = [
        max(a, b)
        for a, b in zip(sizes, ints_of(node, "output_shape")[-len(ones) :] or sizes, strict=True)
    ]
    fan_out, positions = math.prod(w[1:]), math.prod(x[2:])
    group = int_of(node, "group")
    size = x[0] * w[1] * group * math.prod(sizes)
    return Work(size + fan_out * group * positions, x[0] * x[1] * positions * fan_out)


_Rule = Callable[[ir.Node, Operands], Work]
_RULES: dict[str, _Rule] = {
    # Ops that write no more elements than they read.
    **dict.fromkeys(
        ("Concat", "ScatterElements", "ScatterND", "Slice", "Split", "BatchNormalization"),
        lambda node, inputs: Work(sum(a.size for a in inputs if a is not None)),
    ),
    **dict.fromkeys(
        (
            *("Cast", "CastLike", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"),
            *("Trilu", "Unsqueeze", "Softmax", "ReduceMax", "ReduceMean", "ReduceMin"),
            *("ReduceProd", "ReduceSum", "ReduceSumSquare", "ReduceL2", "Shape", "Size"),
        ),
        lambda node, inputs: Work(_given(inputs[0]).size),
    ),
    "ConstantOfShape": lambda node, inputs: Work(math.prod(_extents(inputs[0]))),
    "Expand": lambda node, inputs: Work(
        math.prod(_aligned(_given(inputs[0]).shape, _extents(inputs[1])))
    ),
    "Tile": lambda node, inputs: Work(_given(inputs[0]).size * math.prod(_extents(inputs[1]))),
    "GatherElements": lambda node, inputs: Work(_given(inputs[1]).size),
    "NonZero": lambda node, inputs: Work(_given(inputs[0]).size * max(1, _given(inputs[0]).ndim)),
    "Range": _range,
    "Pad": _pad,
    "Resize": _resize,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
}
