"""The registry of liftable ops, and `lift`, which returns the affine convolution of a node.

The function registered for an op raises `RefusedError` if the op is linear in general but the
given node is not, or is not known to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand import plugins
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Handlers

__all__ = [
    "Array",
    "Axes",
    "Linear",
    "Numbers",
    "input_of",
    "lift",
    "lifts",
    "refuse",
    "refuse_unknown_rank",
]

Axes = tuple[int, int]
Array = npt.NDArray[np.float64]
Numbers = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Linear:
    """A node as an affine convolution.

    Attributes:
        node: The node.
        slot: The index of the mapped input.
        geometry: The geometry of the map. A map that treats all channels alike (a scalar factor)
            has one channel and no axes until `on` assigns them.
        axes: The channel axis in x and in y, counted from the front if the rank is known and from
            the back if not; None if any axis is possible.
        read: Reads weight and bias; callers use `load`, which checks them.
        weight: The constant of the weight, if the node has one.
        bias: The constant of the bias, if the node has one.
        shift_only: Whether the node only adds a constant.
        entry: The node that reads x, if several nodes form the map.
        output: The index of the computed output.
        picks: The range [first, end) of the channels that the node copies, if it copies a range.
        is_part: Whether the nodes also copy other channels, to other values.
        operands: The constants from which weight and bias are computed.
        numbers: Computes weight and bias from the operands, which are arrays or torch tensors.
            The elements have the order of the geometry's weight; a single element stands for all
            if they are equal, and None for a weight of ones or no bias. It is a module-level
            function, or a partial of one; None if there are no operands, or if more than
            rearranging and scaling is needed.
    """

    node: ir.Node
    slot: int
    geometry: Geometry
    axes: Axes | None
    read: Callable[[], AffineConv]
    weight: ir.Value | None = None
    bias: ir.Value | None = None
    shift_only: bool = False
    entry: ir.Node | None = None
    output: int = 0
    picks: tuple[int, int] | None = None
    is_part: bool = False
    operands: tuple[ir.Value, ...] = ()
    numbers: Numbers | None = None

    @property
    def x(self) -> ir.Value:
        """The mapped input, in the current state of the graph."""
        return input_of(self.entry or self.node, self.slot)

    @property
    def y(self) -> ir.Value:
        """The computed output."""
        return self.node.outputs[self.output]

    def load(self) -> AffineConv:
        """Load weight and bias.

        Raises:
            RefusedError: An element is not finite, there are too many elements, or they
                contradict the geometry.
        """
        if self.weight is None:
            _require_room(math.prod(self.geometry.weight_shape))
        try:
            with np.errstate(all="ignore"):
                return self.read()
        except CONTRADICTIONS as error:
            raise RefusedError(contradiction(error)) from error

    def on(self, axis: int, channels: int) -> Linear:
        """Return a map that treats all channels alike as one of `channels` channels on an axis."""
        if self.axes is not None:
            return self

        def read() -> AffineConv:
            _require_room(channels)
            one = self.load()
            shift = None if one.bias is None else np.repeat(one.bias, channels)
            return AffineConv.per_channel(np.repeat(one.weight, channels), shift)

        geometry = replace(
            self.geometry, in_channels=channels, out_channels=channels, group=channels
        )
        return replace(self, geometry=geometry, axes=(axis, axis), read=read)


Lifter = Callable[[ir.Node, Facts], "Linear | None"]
LIFTERS = Handlers[Lifter]("which map is it?")


def lift(node: ir.Node, facts: Facts) -> Linear | Refusal | None:
    """Return the affine convolution that a node computes.

    Returns:
        The map, the refusal for a node of a linear op that is not one, or None for other nodes.
    """
    lifter = LIFTERS.get(node.op_type) if node.domain == "" else _registered(node)
    if lifter is None or not node.outputs or not _is_float(node, facts):
        return None
    given = next((a.name for a in node.attributes.values() if a.is_ref()), None)
    if given is not None:
        return Refusal(
            Reason.DYNAMIC,
            f"its attribute '{given}' refers to an attribute of the enclosing function",
            hint="inline the functions of the model first",
        )
    try:
        with np.errstate(all="ignore"):  # values that are not finite are refused when written
            linear = lifter(node, facts)
        if linear is not None:
            _refuse_empty(linear.geometry)
        if linear is not None and any(_is_used(out, node) for out in node.outputs[1:]):
            return Refusal(Reason.UNSUPPORTED, f"{node.op_type} has further outputs")
        return linear
    except RefusedError as error:
        return error.refusal
    except UsageError as error:  # the shapes contradict each other
        return Refusal(Reason.UNSUPPORTED, str(error))
    except CONTRADICTIONS as error:
        return contradiction(error)


def _registered(node: ir.Node) -> Lifter | None:
    """Return the function that an installed plugin registers for an op of another domain."""
    name = f"{node.domain}.{node.op_type}"
    if name not in plugins.names(plugins.LINEAR_OPS):
        return None
    lifter: Lifter = plugins.load(plugins.LINEAR_OPS, name)
    return lifter


CONTRADICTIONS = (ArithmeticError, IndexError, TypeError, ValueError)
"""Exceptions caused by operands that do not match or attributes of the wrong type, which ONNX's
checker accepts."""


def contradiction(error: Exception) -> Refusal:
    """Return the refusal of nodes whose operands or attributes contradict each other."""
    text = " ".join(str(error).split())
    return Refusal(
        Reason.UNSUPPORTED, f"its operands or attributes contradict each other ({text})"
    )


def _refuse_empty(geometry: Geometry) -> None:
    if 0 in (geometry.in_channels, geometry.out_channels, *geometry.kernel):
        refuse("its weight is empty")


def _require_room(elements: int) -> None:
    """Refuse to build a weight of gigabytes for a node that has no such constant."""
    if elements > LARGEST:
        refuse(f"as a weight it would have {elements} elements")


LARGEST = 1 << 26
"""The largest number of elements of a weight that is built for a node without a constant."""


def _is_float(node: ir.Node, facts: Facts) -> bool:
    """Return whether a node computes floats of 16 bits or more; integers wrap around."""
    values = (node.outputs[0], *(v for v in node.inputs if v is not None))
    dtype = next((d for d in map(facts.dtype, values) if d is not None), None)
    return dtype is not None and dtype.is_floating_point() and dtype.bitwidth >= 16


def _is_used(output: ir.Value, node: ir.Node) -> bool:
    # An unused mask has no effect, but any named statistics output makes a BatchNormalization of
    # old opsets compute its training form.
    return (
        bool(output.uses())
        or output.is_graph_output()
        or (bool(output.name) and node.op_type == "BatchNormalization")
    )


def lifts(*op_types: str) -> Callable[[Lifter], Lifter]:
    """Register a function that lifts nodes of these op types, which need records in `ops`."""
    return LIFTERS.register(*op_types)


def input_of(node: ir.Node, index: int, *, optional: bool = False) -> ir.Value:
    """Return an input of a node; refuse a missing one unless it is optional."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None and not optional:
        refuse(f"input {index} is missing")
    return value  # type: ignore[return-value]


def refuse(message: str) -> NoReturn:
    """Refuse a node that uses a feature outside the algebra."""
    raise RefusedError(Refusal(Reason.UNSUPPORTED, message))


def refuse_unknown_rank(x: ir.Value) -> NoReturn:
    """Refuse a node whose map depends on the unknown rank of a value."""
    raise RefusedError(
        Refusal(
            Reason.UNKNOWN_SHAPE,
            f"the rank of '{x.name}' is not known",
            hint="run shape inference on the model first",
        )
    )
