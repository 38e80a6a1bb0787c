"""The builder of random models: values of known extents, and constants in every form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tests.support.random_models.structure import structured

__all__ = ["Builder", "Dims", "Value", "fixed"]

Array = npt.NDArray[Any]
Dims = tuple[tuple[int, ...], ...]
"""An extent for each axis, and for each of the sizes at which the model is to run."""


def fixed(dims: Dims) -> tuple[int, ...]:
    """Return the extents of axes that are equal at all sizes, and -1 for others."""
    return tuple(axis[0] if len(set(axis)) == 1 else -1 for axis in dims)


@dataclass(frozen=True)
class Value:
    """A floating-point tensor that the graph computes.

    Attributes:
        name: Its name.
        dims: Its extents.
    """

    name: str
    dims: Dims

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.dims)

    @property
    def fixed(self) -> tuple[int, ...]:
        """Its static extents, -1 for others."""
        return fixed(self.dims)

    @property
    def largest(self) -> int:
        """The maximum number of elements."""
        return (
            max(int(np.prod(sizes)) for sizes in zip(*self.dims, strict=True)) if self.dims else 1
        )


@dataclass
class Scope:
    """The state that all graphs of one model share."""

    rng: np.random.Generator
    dtype: np.dtype[Any]
    opset: int
    sizes: int
    counter: int = 0
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    calls: dict[str, Any] = field(default_factory=dict)
    is_structured: bool = False


@dataclass
class Builder:
    """One graph, or one function body, under construction.

    Attributes:
        scope: The state shared with the other graphs.
        parent: The surrounding graph.
        formal: For a function body, the arrays that callers pass, by input name.
    """

    scope: Scope
    parent: Builder | None = None
    formal: dict[str, Array] | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    overridable: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    extra_inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    pool: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    @property
    def rng(self) -> np.random.Generator:
        """The model's only source of randomness."""
        return self.scope.rng

    @property
    def opset(self) -> int:
        """The opset version."""
        return self.scope.opset

    @property
    def kind(self) -> int:
        """The element type, as an ONNX enum value."""
        return int(helper.np_dtype_to_tensor_dtype(self.scope.dtype))

    @property
    def depth(self) -> int:
        """The nesting depth of this graph."""
        return 0 if self.parent is None else 1 + self.parent.depth

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, *options: Any) -> Any:
        """Pick one of several options."""
        return options[int(self.rng.integers(len(options)))]

    def fresh(self, prefix: str = "v") -> str:
        """Create a name that is unused in the model."""
        self.scope.counter += 1
        return f"{prefix}{self.scope.counter}"

    def visible(self) -> list[Value]:
        """Return the values that nodes of this graph may read."""
        outer = [] if self.parent is None or self.formal is not None else self.parent.visible()
        return [*outer, *self.values]

    def node(
        self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Append a node; return the names of its outputs."""
        names = [self.fresh() for _ in range(outputs)]
        label = self.fresh("n") if self.chance(0.9) else ""
        made = helper.make_node(op, list(inputs), names, name=label, **attributes)
        self.nodes.append(made)
        return names

    def add(self, op: str, inputs: Sequence[str], dims: Dims, **attributes: Any) -> Value:
        """Append a node with one output of known extents."""
        (name,) = self.node(op, inputs, **attributes)
        value = Value(name, dims)
        self.values.append(value)
        return value

    # Constants

    def numbers(self, shape: Sequence[int]) -> Array:
        """Draw weights of a size that keeps activations near one."""
        shape = tuple(shape)
        if self.scope.is_structured:
            return structured(shape, self.rng)
        fan_in = max(1, int(np.prod(shape[1:])) if len(shape) > 1 else 1)
        found = np.asarray(self.rng.standard_normal(shape) / np.sqrt(fan_in))
        if found.size and self.chance(0.06):
            found[self.rng.integers(len(found)) if found.ndim else ...] = 0
        if self.chance(0.03):
            found = np.zeros(shape)
        if len(shape) == 2 and shape[0] == shape[1] and self.chance(0.1):
            found = np.eye(shape[0])
        return found

    def weight(self, *shape: int) -> str:
        """Return a constant of random values, sometimes one that another node already reads."""
        known = [name for name, own in self.pool if own == shape]
        if known and self.chance(0.12):
            return str(self.pick(*known))
        name = self.constant(self.numbers(shape))
        self.pool.append((name, tuple(shape)))
        return name

    def constant(self, array: npt.ArrayLike) -> str:
        """Add a floating-point constant: initializer, Constant node, overridable or computed."""
        values = np.asarray(array).astype(self.scope.dtype)
        if self.formal is not None:
            if self.chance(0.5):
                name = self.fresh("p")
                self.formal[name] = values
                return name
            return self._constant_node(values)
        draw = self.rng.random()
        if draw < 0.12:
            return self._constant_node(values)
        if draw < 0.2:
            return self._computed(values)
        owner = self
        while owner.parent is not None and (self.chance(0.5) or draw > 0.97):
            owner = owner.parent
        name = self.fresh("w")
        tensor = numpy_helper.from_array(values, name)
        hidden = draw > 0.97 and owner.parent is None
        (owner.overridable if hidden else owner.initializers).append(tensor)
        return name

    def integers(self, values: npt.ArrayLike) -> str:
        """Add a constant of int64."""
        array = np.asarray(values, np.int64)
        plain = self.opset >= 9 and self.chance(0.15)  # only floats before
        if self.formal is not None or plain:
            return self._constant_node(array)
        name = self.fresh("i")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def _constant_node(self, values: Array) -> str:
        name = self.fresh("k")
        short = self.opset >= 12 and values.dtype == np.float32 and values.ndim < 2
        if short and values.size and self.chance(0.3):
            plain = [float(v) for v in values.reshape(-1)]
            attributes: dict[str, Any] = {"value_floats": plain} if values.ndim else {}
            attributes = attributes or {"value_float": plain[0]}
        else:
            attributes = {"value": numpy_helper.from_array(values, "")}
        label = self.fresh("n")
        self.nodes.append(helper.make_node("Constant", [], [name], name=label, **attributes))
        return name

    def _computed(self, values: Array) -> str:
        """Add a constant that nodes compute from others."""
        how = self.pick("Transpose", "Identity", "Mul", "Reshape", "Cast", "Neg")
        if how == "Transpose" and values.ndim > 1:
            return self.node("Transpose", [self._constant_node(np.ascontiguousarray(values.T))])[0]
        if how == "Reshape":
            shape = self.integers(values.shape)
            return self.node("Reshape", [self._constant_node(values.reshape(-1)), shape])[0]
        if how == "Cast":
            wide = self._constant_node(values.astype(np.float64))
            return self.node("Cast", [wide], to=self.kind)[0]
        if how == "Mul":
            half = self._constant_node(values * values.dtype.type(0.5))
            two = self._constant_node(np.asarray(2, values.dtype))
            return self.node("Mul", [half, two])[0]
        if how == "Neg":
            return self.node("Neg", [self._constant_node(-values)])[0]
        return self.node("Identity", [self._constant_node(values)])[0]

    def axes(self, value: Value, **where: int) -> int:
        """Return an axis counted from either end, if the opset allows it."""
        axis = where["axis"]
        return axis - value.rank if self.opset >= 11 and self.chance(0.3) else axis
