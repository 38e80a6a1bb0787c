"""Evaluate constants that a graph computes, such as weights that exporters left as arithmetic.

Nodes are evaluated on demand, in the model's own types, as a runtime would; the graph is not
changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import int_of, ints_of
from onnx_expand.graph.budget import Budget
from onnx_expand.graph.evaluators import compute

__all__ = ["evaluate", "is_defined", "run_nodes"]

# Attributes used as divisors: kernels assume that none is zero.
_DIVIDING = ("strides", "dilations", "kernel_shape")


def evaluate(
    node: ir.Node,
    inputs: Sequence[npt.NDArray[np.generic] | None],
    opset: int,
    budget: Budget,
) -> list[npt.NDArray[np.generic]] | None:
    """Evaluate a node whose inputs are constants.

    Args:
        node: A node of a pure op.
        inputs: One array for each of its inputs, None for an omitted one. For Shape and Size only
            the array's shape is used.
        opset: The opset of the default domain.
        budget: The budget to charge.

    Returns:
        One array for each named output; None if runtimes may compute different results, or if the
        budget does not suffice.
    """
    if node.op_type in {"Shape", "Size"}:
        return _measured(node, inputs, opset)
    try:
        if is_defined(node, inputs) and budget.take(node, inputs):
            return compute(node, inputs, opset)
    except (MemoryError, ValueError):  # operands exceed memory or do not match
        return None
    return None


def run_nodes(
    nodes: Sequence[ir.Node],
    feeds: Mapping[str, npt.NDArray[Any]],
    result: str,
    opset: int,
    budget: Budget,
) -> npt.NDArray[Any] | None:
    """Evaluate nodes in topological order; return one value, or None if it is not defined."""
    values = dict(feeds)
    for node in nodes:
        names = [None if value is None else value.name or "" for value in node.inputs]
        if any(name is not None and name not in values for name in names):
            return None
        inputs = [None if name is None else values[name] for name in names]
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            results = None if tensor is None else [tensor.numpy()]
        else:
            results = evaluate(node, inputs, opset, budget)
        if results is None:
            return None
        outputs = (out.name for out in node.outputs if out.name)
        values |= dict(zip(outputs, results, strict=True))
    return values.get(result)


def _measured(
    node: ir.Node, inputs: Sequence[npt.NDArray[np.generic] | None], opset: int
) -> list[npt.NDArray[np.generic]] | None:
    """Evaluate Shape or Size, which need only the extents of their input."""
    array = inputs[0] if inputs else None
    if array is None:
        return None
    if node.op_type == "Size":
        return [np.array(array.size, np.int64)]
    if opset < 15:
        return [np.array(array.shape, np.int64)]
    # Bounds beyond the rank are clamped, as in Python slices.
    start, end = int_of(node, "start", opset), int_of(node, "end", opset, array.ndim)
    return [np.array(array.shape[start:end], np.int64)]


def is_defined(node: ir.Node, inputs: Sequence[npt.NDArray[np.generic] | None]) -> bool:
    """Return whether ONNX defines the result of a node; runtimes may crash if it does not."""
    if any(number < 1 for name in _DIVIDING for number in ints_of(node, name)):
        return False
    if node.op_type in {"Conv", "ConvTranspose"} and int_of(node, "group") < 1:
        return False
    if node.op_type == "Split":
        return int_of(node, "num_outputs", missing=len(node.outputs)) == len(node.outputs)
    given = [array for array in inputs if array is not None]
    if node.op_type == "Concat":
        return _continue(given, int_of(node, "axis", missing=1))
    if node.op_type in {"Div", "Mod"} and len(given) == 2:
        return _divides(*given)
    if node.op_type == "Pow" and len(given) == 2:
        return _has_power(*given)
    if node.op_type == "Cast" and given:
        return _has_room(given[0], ir.DataType(int_of(node, "to")).numpy())
    if node.op_type == "CastLike" and len(given) == 2:
        return _has_room(given[0], given[1].dtype)
    return True


def _continue(parts: Sequence[npt.NDArray[np.generic]], axis: int) -> bool:
    """Return whether arrays have equal extents on all axes but one.

    onnxruntime ignores empty arrays, and up to 1.30 crashes if one has another rank.
    """
    ranks = {part.ndim for part in parts}
    if len(ranks) != 1 or not -max(ranks) <= axis < max(ranks):
        return False
    return len({np.delete(part.shape, axis).tobytes() for part in parts}) == 1


def _divides(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Return whether an integer quotient is defined and fits; others always do."""
    if a.dtype.kind not in "iu":
        return True
    if not np.all(b):
        return False
    return a.dtype.kind == "u" or not (np.any(b == -1) and np.any(a == np.iinfo(a.dtype).min))


def _has_power(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Return whether powers of integers are integers that fit their type."""
    if a.dtype.kind not in "iu":
        return True
    with np.errstate(all="ignore"):
        if np.any(b < 0):
            return False
        powers = np.power(a.astype(np.float64), b.astype(np.float64))
    return _has_room(powers, a.dtype) and bool(np.all(np.abs(powers) < 2.0**53))


def _has_room(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Return whether all elements of an array, truncated to integers, fit a type.

    Integers wrap around when they lose high bits, which is defined for whole bytes.
    """
    to = ir.DataType.from_numpy(dtype)
    if not to.is_integer() or array.size == 0:
        return True
    if array.dtype.kind in "iub":
        return to.bitwidth >= 8 or bool(
            _limits(to)[0] <= array.min() <= array.max() <= _limits(to)[1]
        )
    if array.dtype.kind not in "fV":
        return False
    cut = np.trunc(array.astype(np.float64))
    low, high = _limits(to)
    return bool(np.all(np.isfinite(cut)) and np.all((cut >= low) & (cut < float(high) + 1)))


def _limits(dtype: ir.DataType) -> tuple[int, int]:
    signed = dtype.is_signed()
    return (-(1 << (dtype.bitwidth - 1)) if signed else 0), (1 << (dtype.bitwidth - signed)) - 1
