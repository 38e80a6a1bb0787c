"""The nodes of one crossing, and the ways to store its constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tests.support.opsets import NEWEST

__all__ = ["SCOPES", "STORES", "Array", "Cell", "NoNodeError"]

Array = npt.NDArray[Any]

STORES = (
    *("initializer", "initializer", "Constant", "shared", "output", "overridable", "computed"),
    *("dequantized", "inner", "captured", "given"),
)
"""Where constants are stored: `inner` is the body itself, `captured` the graph around it, and
`given` an operand of the call of a function. In the main graph these are initializers."""

SCOPES = ("main", "main", "main", "If", "Loop", "function")
"""Where the nodes are."""

_TYPES = (*[np.float32] * 6, np.float16, np.float16, ml_dtypes.bfloat16, np.float64)
_INTEGERS = (np.int32, np.int64)
_OF_INTEGERS = {
    *("Add", "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Mul", "Reshape"),
    *("Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze"),
}
_SIDES = (1, 2, 4, 5, 6)


class NoNodeError(Exception):
    """No node of the wanted kind fits the current value."""


class Cell:
    """A model under construction around one op.

    Args:
        rng: The source of all choices.
        subject: The op.

    Attributes:
        current: The value that the next node reads.
        shapes: The shape of each value at the size for which the model is built.
        held: The initializers of the main graph; `inner` those of the body, and `given` the
            initializers that calls pass to a function.
        outputs: Values that are also outputs; `tied` are initializers that are.
        free: The axes of the input whose extents may differ from run to run.
    """

    def __init__(self, rng: np.random.Generator, subject: str) -> None:
        self.rng, self.subject = rng, subject
        self.opset = self._opset()
        integers = subject in _OF_INTEGERS and self.chance(0.15)
        self.dtype = np.dtype(self.pick(*(_INTEGERS if integers else _TYPES)))
        if self.dtype == ml_dtypes.bfloat16:
            self.opset = max(self.opset, 13)
        self.scope, self.store = self.pick(*SCOPES), self.pick(*STORES)
        if self.scope != "main":
            self.opset = max(self.opset, 11)
        rank = self.pick(2, 3, 3, 4, 4, 4, 5)
        channels = self.pick(1, 2, 4, 4, 6)
        self.x = (self.pick(1, 2, 3), channels, *(self.pick(*_SIDES) for _ in range(rank - 2)))
        self.nodes: list[onnx.NodeProto] = []
        self.held: dict[str, Array] = {}
        self.inner: dict[str, Array] = {}
        self.given: dict[str, Array] = {}
        self.overridable: list[str] = []
        self.outputs: list[str] = []
        self.tied: list[str] = []
        self.free: list[int] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": self.x}
        self.current = "x"
        self._pool: dict[tuple[int, ...], str] = {}

    def _opset(self) -> int:
        """Draw an opset, mostly one of those that change the op."""
        versions = {
            schema.since_version
            for schema in onnx.defs.get_all_schemas_with_history()
            if schema.name == self.subject and schema.domain == "" and not schema.deprecated
        }
        ends = [v for v in versions if 7 <= v <= NEWEST] + [v - 1 for v in versions if v > 7]
        own = [v for v in ends if min(versions) <= v]
        drawn = int(self.pick(*own, 7, 11, 13, 17, 18, 21, NEWEST))
        return min(max(drawn, min(versions)), NEWEST)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the current value."""
        return self.shapes[self.current]

    @property
    def rank(self) -> int:
        """The rank of the current value."""
        return len(self.shape)

    @property
    def kind(self) -> int:
        """The element type, as an ONNX enum value."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.kind not in "iu"

    def pick(self, *options: Any) -> Any:
        """Pick one of several options."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float = 0.5) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def need(self, condition: object) -> None:
        """Give up unless a condition holds."""
        if not condition:
            raise NoNodeError

    def axis(self) -> int:
        """Draw an axis of the current value, from either end where the opset allows it."""
        axis = int(self.rng.integers(self.rank))
        return axis - self.rank if self.opset >= 13 and self.chance(0.3) else axis

    # -- Nodes ------------------------------------------------------------------------------

    def add(
        self,
        op: str,
        *operands: str,
        outputs: int = 1,
        shape: tuple[int, ...] | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node that reads the current value.

        Args:
            op: The op.
            operands: What it reads; `_` is the current value, which comes first if it is missing.
            outputs: The number of its outputs.
            shape: The shape of its output, if ONNX does not infer it.
            attributes: Its attributes.
        """
        inputs = list(operands) if "_" in operands else ["_", *operands]
        inputs = [self.current if name == "_" else name for name in inputs]
        names = [f"v{len(self.shapes) + i}" for i in range(outputs)]
        node = helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attributes)
        shapes = [shape] if shape is not None else self._inferred(node, names)
        self.nodes.append(node)
        self.shapes.update(zip(names, shapes, strict=True))
        self.current = names[0]
        return names[0]

    def _inferred(self, node: onnx.NodeProto, names: list[str]) -> list[tuple[int, ...]]:
        """Return the shapes of a node's outputs by ONNX's inference."""
        ports = [
            helper.make_tensor_value_info(name, self.kind, self.shapes[name])
            for name in {*node.input} & {*self.shapes}
        ]
        known = {**self.held, **self.inner, **self.given}
        tensors = [_tensor(known[name], name) for name in {*node.input} & {*known}]
        others = [n for n in self.nodes if not {*n.input} & {*self.shapes}]
        graph = helper.make_graph(
            [*others, node], "g", ports, [onnx.ValueInfoProto(name=n) for n in names], tensors
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        try:
            found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception as error:
            raise NoNodeError from error
        result = []
        for port in found.graph.output:
            dims = port.type.tensor_type.shape.dim
            self.need(port.type.tensor_type.HasField("shape"))
            self.need(all(d.HasField("dim_value") and d.dim_value > 0 for d in dims))
            result.append(tuple(int(d.dim_value) for d in dims))
            self.need(np.prod(result[-1]) <= 4096)
        return result

    # -- Constants --------------------------------------------------------------------------

    def normal(self, *shape: int) -> str:
        """Store weights that keep the size of values."""
        if not self.is_float:
            return self.constant(self.rng.integers(-3, 4, shape))
        fan = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(max(1.0, fan)))

    def positive(self, *shape: int) -> str:
        """Store positive numbers near 1."""
        if not self.is_float:
            return self.constant(self.rng.integers(1, 4, shape))
        return self.constant(self.rng.uniform(0.5, 2, shape))

    def ints(self, *numbers: int) -> str:
        """Store integers that tell axes or extents."""
        return self._place(np.array(numbers, np.int64), "i")

    def integers(self, values: npt.ArrayLike) -> str:
        """Store indices or a mask of any shape."""
        array = np.asarray(values)
        return self._place(array if array.dtype == bool else array.astype(np.int64), "i")

    def constant_axis(self, axis: int) -> str:
        """Store an axis as a number."""
        return self._place(np.array(axis, np.int64), "i")

    def numbers(self, array: Array) -> str:
        """Store floats in their own type."""
        return self._place(array, "i")

    def constant(self, values: npt.ArrayLike, *, plain: bool = False) -> str:
        """Store a constant in the model's way, unless it must be plain."""
        array = np.asarray(values).astype(self.dtype)
        store = "initializer" if plain or self.chance(0.2) else self.store
        if store == "shared" and array.shape in self._pool:
            return self._pool[array.shape]
        makers: dict[str, Callable[[Array], str]] = {
            "Constant": self._constant_node,
            "computed": self._computed,
            "dequantized": self._dequantized,
        }
        made = makers.get(store)
        if made is not None:
            return made(array)
        name = self._place(array, "w", store)
        if store == "shared":
            self._pool[array.shape] = name
        return name

    def _place(self, array: Array, prefix: str, store: str = "initializer") -> str:
        name = f"{prefix}{len(self.held) + len(self.inner) + len(self.given)}"
        if self.scope == "function":
            if store == "given" and prefix == "w":
                self.given[name] = array
                return name
            return self._constant_node(array)
        if self.scope != "main" and (store == "inner" or (prefix == "i" and self.chance())):
            self.inner[name] = array
            return name
        self.held[name] = array
        if store == "output":
            self.tied.append(name)
        if store == "overridable" and prefix == "w":
            self.overridable.append(name)
        return name

    def _constant_node(self, array: Array) -> str:
        name = f"k{len(self.nodes)}"
        node = helper.make_node("Constant", [], [name], f"n{name}", value=_tensor(array, ""))
        self.nodes.append(node)
        return name

    def _computed(self, array: Array) -> str:
        """Compute a constant from another one by a node or two."""
        name = f"k{len(self.nodes)}c"
        if array.ndim > 1 and self.chance():
            source = self._place(np.ascontiguousarray(array.T), "w")
            node = helper.make_node("Transpose", [source], [name], f"n{name}")
        elif self.dtype == np.float16 and self.chance():
            source = self._place(array.astype(np.float32), "w")
            node = helper.make_node("Cast", [source], [name], f"n{name}", to=self.kind)
        else:
            sources = [self._place(array, "w"), self._place(np.ones(1, array.dtype), "w")]
            node = helper.make_node("Mul", sources, [name], f"n{name}")
        self.nodes.append(node)
        return name

    def _dequantized(self, array: Array) -> str:
        """Store a constant as int8 with a scale, where onnxruntime can dequantize it."""
        least = {np.dtype(np.float32): 10, np.dtype(np.float16): 19}.get(self.dtype, 99)
        if self.opset < least:
            return self._place(array, "w")
        wide = array.astype(np.float64)
        axis = 0 if array.ndim > 1 and self.opset >= 13 and self.chance() else None
        others = tuple(i for i in range(array.ndim) if i != axis)
        largest = np.abs(wide).max(axis=others) if array.size else np.ones(())
        scale = np.asarray(np.maximum(largest, 1e-2) / 127).astype(self.dtype)
        along = scale if axis is None else scale.reshape(-1, *(1,) * (array.ndim - 1))
        steps = np.rint(wide / along.astype(np.float64))
        if wide.size and (wide > 0).all():
            steps = np.maximum(steps, 1)
        sources = [self._place(steps.clip(-127, 127).astype(np.int8), "w")]
        sources.append(self._place(scale, "w"))
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        name = f"k{len(self.nodes)}q"
        node = helper.make_node("DequantizeLinear", sources, [name], f"n{name}", **attributes)
        self.nodes.append(node)
        return name


def _tensor(array: Array, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)
