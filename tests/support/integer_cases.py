"""Nodes on integers: for each operator, inputs over the whole range of a type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["TYPES", "Case", "cases"]

Array = npt.NDArray[Any]

TYPES = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]

_SHAPE = (3, 4)
_OUTPUTS = {"TopK": 2, "Unique": 4, "Split": 2}


@dataclass(frozen=True)
class Fixed:
    """An input that the model contains as a constant."""

    array: Array


@dataclass
class Maker:
    """Draws values of one type.

    Attributes:
        dtype: The type.
        rng: The source of randomness.
    """

    dtype: np.dtype[Any]
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def wide(self, *shape: int) -> Array:
        """Draw small values, arbitrary values, and the ends of the type."""
        limits, count = np.iinfo(self.dtype), int(np.prod(shape or _SHAPE))
        low, high = int(limits.min), int(limits.max)
        values = self.rng.integers(low, high, count, dtype=self.dtype, endpoint=True)
        small = self.rng.integers(0, 7, count).astype(self.dtype)
        values = np.where(self.rng.random(count) < 0.5, values, small)
        ends = np.array([low, high, 0, 1, high // 2, high // 2 + 1], self.dtype)[:count]
        values[: len(ends)] = ends
        return self.rng.permutation(values).reshape(shape or _SHAPE)

    def below(self, limit: int, *shape: int) -> Array:
        """Draw values from 0 to below a limit."""
        return self.rng.integers(0, limit, shape or _SHAPE).astype(self.dtype)

    def divisor(self) -> Array:
        """Draw values other than 0 and -1, which trap in hardware."""
        values = self.wide()
        forbidden = (values == 0) | (values + np.ones_like(values) == 0) & (
            np.iinfo(self.dtype).min < 0
        )
        return np.where(forbidden, 3, values).astype(self.dtype)

    def number(self, value: int) -> Fixed:
        """Return a constant scalar of the type."""
        return Fixed(np.array(value, self.dtype))


def ints(*values: int) -> Fixed:
    """Return a constant list of settings."""
    return Fixed(np.array(values, np.int64))


_SCALES = Fixed(np.array([2, 1.5], np.float32))

Inputs = Callable[[Maker], list[Any]]


def _table() -> Iterator[tuple[str, dict[str, Any], Inputs]]:
    for op in [
        "Add",
        "Sub",
        "Mul",
        "Max",
        "Min",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
    ]:
        yield op, {}, lambda m: [m.wide(), m.wide()]
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Sum", "PRelu"):
        yield op, {}, lambda m: [m.wide(), m.wide()]
    for op in [
        "Abs",
        "Neg",
        "Sign",
        "BitwiseNot",
        "Relu",
        "Identity",
        "Transpose",
        "Flatten",
        "Shrink",
        "Trilu",
    ]:
        yield op, {}, lambda m: [m.wide()]
    yield "Div", {}, lambda m: [m.wide(), m.divisor()]
    yield "Mod", {}, lambda m: [m.wide(), m.divisor()]
    yield "Mod", {"fmod": 1}, lambda m: [m.wide(), m.divisor()]
    yield "Pow", {}, lambda m: [m.below(20), m.below(5)]
    yield "Clip", {}, lambda m: [m.wide(), m.number(2), m.number(np.iinfo(m.dtype).max // 2 + 3)]
    yield "Where", {}, lambda m: [m.rng.random(_SHAPE) < 0.5, m.wide(), m.wide()]
    for direction in ("LEFT", "RIGHT"):
        yield (
            "BitShift",
            {"direction": direction},
            lambda m: [m.wide(), m.below(np.iinfo(m.dtype).bits)],
        )
    yield from _sums()
    yield from _choices()
    yield from _moves()


def _sums() -> Iterator[tuple[str, dict[str, Any], Inputs]]:
    kinds = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]
    for op in kinds:
        yield f"Reduce{op}", {}, lambda m: [m.wide()]
        yield f"Reduce{op}", {"keepdims": 0}, lambda m: [m.wide(), ints(1)]
        yield f"Reduce{op}", {"noop_with_empty_axes": 1}, lambda m: [m.wide()]
    for exclusive in (0, 1):
        for op in ("CumSum", "CumProd"):
            attributes = {"exclusive": exclusive, "reverse": exclusive}
            yield op, attributes, lambda m: [m.wide(), Fixed(np.array(1))]
    yield "MatMul", {}, lambda m: [m.wide(3, 4), m.wide(4, 3)]
    yield "Einsum", {"equation": "ij,kj->ik"}, lambda m: [m.wide(), m.wide()]
    yield (
        "DequantizeLinear",
        {},
        lambda m: [m.wide(), np.array(0.5, np.float32), np.array(3, m.dtype)],
    )


def _choices() -> Iterator[tuple[str, dict[str, Any], Inputs]]:
    for op in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            attributes = {"axis": 1, "select_last_index": last}
            yield op, attributes, lambda m: [m.below(4, 4, 7)]
        yield op, {"axis": 1}, lambda m: [m.wide(4, 7)]
    for largest in (0, 1):
        yield "TopK", {"largest": largest}, lambda m: [m.below(4, 4, 9), ints(5)]
        yield "TopK", {"largest": largest, "axis": 0}, lambda m: [m.wide(9, 4), ints(5)]
    yield "Unique", {}, lambda m: [m.below(5)]
    yield "Unique", {"axis": 0}, lambda m: [m.below(2)]
    yield "MaxPool", {"kernel_shape": [2, 2]}, lambda m: [m.wide(1, 2, 4, 4)]
    yield "OneHot", {}, lambda m: [m.below(7, 5), Fixed(np.array(7)), m.wide(2)]


def _moves() -> Iterator[tuple[str, dict[str, Any], Inputs]]:
    for kind in (1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13):
        yield "Cast", {"to": kind}, lambda m: [m.wide()]
    yield "Gather", {}, lambda m: [m.wide(), ints(0, 2, -1)]
    yield "GatherElements", {}, lambda m: [m.wide(), np.array([[0, 2, -1, 1]])]
    yield "GatherND", {}, lambda m: [m.wide(), np.array([[0, 2], [-1, 1]])]
    for reduction in ("none", "add", "mul", "max", "min"):
        how = {"reduction": reduction}
        yield "ScatterND", how, lambda m: [m.wide(), np.array([[0], [-1]]), m.wide(2, 4)]
        yield (
            "ScatterElements",
            how,
            lambda m: [m.wide(), np.array([[0, 2, -1, 1]]), m.wide(1, 4)],
        )
    yield "Concat", {"axis": 0}, lambda m: [m.wide(), m.wide()]
    yield (
        "Pad",
        {},
        lambda m: [m.wide(), ints(1, 0, 0, 2), m.number(np.iinfo(m.dtype).max)],
    )
    yield "Pad", {"mode": "reflect"}, lambda m: [m.wide(), ints(1, 0, 0, 2)]
    yield "Tile", {}, lambda m: [m.wide(), ints(1, 2)]
    yield "Expand", {}, lambda m: [m.wide(), ints(2, 3, 4)]
    yield "Slice", {}, lambda m: [m.wide(), ints(-1), ints(-9), ints(1), ints(-1)]
    yield "Split", {"axis": 1, "num_outputs": 2}, lambda m: [m.wide()]
    yield "ReverseSequence", {}, lambda m: [m.wide(4, 3), np.array([1, 2, 4])]
    yield "SpaceToDepth", {"blocksize": 2}, lambda m: [m.wide(1, 2, 4, 4)]
    yield "DepthToSpace", {"blocksize": 2}, lambda m: [m.wide(1, 8, 2, 2)]
    yield "Range", {}, lambda m: [np.array(n, m.dtype) for n in (1, 9, 2)]
    yield "Compress", {"axis": 1}, lambda m: [m.wide(), np.array([True, False, True, True])]
    yield "TensorScatter", {"axis": 1}, lambda m: [m.wide(2, 5, 3), m.wide(2, 2, 3), np.arange(2)]
    for mode in ("nearest", "linear"):
        yield "Resize", {"mode": mode}, lambda m: [m.below(99), None, _SCALES]


@dataclass(frozen=True)
class Case:
    """One node on inputs of one type.

    Attributes:
        name: The operator, its attributes and the type.
        model: The model of that node.
        feeds: Its inputs.
    """

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Array]


def cases(dtype: np.dtype[Any], opset: int) -> Iterator[Case]:
    """Return the nodes that ONNX allows for a type."""
    for op, attributes, inputs in _table():
        if not onnx.defs.has(op, opset, ""):
            continue
        schema = onnx.defs.get_schema(op, opset)
        if any(name not in schema.attributes for name in attributes):
            continue
        case = _case(op, attributes, inputs(Maker(dtype)), opset)
        try:
            model = onnx.shape_inference.infer_shapes(case.model, strict_mode=True, data_prop=True)
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue
        yield Case(f"{op} {attributes} {dtype}", model, case.feeds)


def _case(op: str, attributes: dict[str, Any], inputs: list[Any], opset: int) -> Case:
    names, ports, feeds, held = [], [], {}, []
    for slot, value in enumerate(inputs):
        name = "" if value is None else f"i{slot}"
        names.append(name)
        if isinstance(value, Fixed):
            held.append(numpy_helper.from_array(value.array, name))
        elif value is not None:
            feeds[name] = value
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            ports.append(helper.make_tensor_value_info(name, kind, value.shape))
    outputs = [f"o{slot}" for slot in range(_OUTPUTS.get(op, 1))]
    node = helper.make_node(op, names, outputs, **attributes)
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([node], "integers", ports, results, held)
    opsets = [helper.make_opsetid("", opset)]
    return Case(op, helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds)
