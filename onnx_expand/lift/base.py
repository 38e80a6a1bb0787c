"""From nodes to the algebra: `lift` says which affine convolution a node is.

The function of an op raises `RefusedError` where the op is linear in general but this node is not,
or cannot be known to be.
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
    """A node seen as an affine convolution.

    Attributes:
        node: The node.
        slot: The index of the input that it maps.
        geometry: The map's shape. A map that treats all channels alike (a scalar factor) has one
            channel and no axes until `on` gives it some.
        axes: The channel axis in x and in y, counted from the front where the rank is known and
            from the back where not; None if any axis would do.
        weight: The constant that holds the weight, where the node has one.
        bias: The constant that holds the bias, where the node has one.
        shift_only: Whether the node only adds a constant.
        entry: The node that reads x, where several nodes are taken as one.
        output: The index of the output that it computes.
        picks: First and last plus one of the channels that it copies, where it copies a range.
        is_part: Whether the nodes also copy other channels, to other values.
        load: Reads the numbers; raises `RefusedError` when they are not finite.
        operands: The constants that weight and bias are made of.
        numbers: Makes weight and bias of the operands, be they arrays or tensors of torch; the
            elements come in the order of the geometry's, one where all are equal, and None for a
            weight of ones or no bias. A module-level function, or a partial of one. None where
            there are no operands, or where they are more than rearranged and scaled.
    """

    node: ir.Node
    slot: int
    geometry: Geometry
    axes: Axes | None
    load: Callable[[], AffineConv]
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
        """The value that the node maps, as the graph is now."""
        return input_of(self.entry or self.node, self.slot)

    @property
    def y(self) -> ir.Value:
        """The value that the node computes."""
        return self.node.outputs[self.output]

    def on(self, axis: int, channels: int) -> Linear:
        """A map that treats all channels alike, for so many channels on an axis."""
        if self.axes is not None:
            return self

        def load() -> AffineConv:
            _require_room(channels)
            one = self.load()
            shift = None if one.bias is None else np.repeat(one.bias, channels)
            return AffineConv.per_channel(np.repeat(one.weight, channels), shift)

        geometry = replace(
            self.geometry, in_channels=channels, out_channels=channels, group=channels
        )
        return replace(self, geometry=geometry, axes=(axis, axis), load=load)


Lifter = Callable[[ir.Node, Facts], "Linear | None"]
LIFTERS = Handlers[Lifter]("which map is it?")


def lift(node: ir.Node, facts: Facts) -> Linear | Refusal | None:
    """The affine convolution that a node computes.

    Returns:
        The map; or why a node of a linear op is none; or None for a node that is not linear.
    """
    lifter = LIFTERS.get(node.op_type) if node.domain == "" else _registered(node)
    if lifter is None or not node.outputs or not _is_float(node, facts):
        return None
    given = next((a.name for a in node.attributes.values() if a.is_ref()), None)
    if given is not None:
        return Refusal(
            Reason.DYNAMIC,
            f"its attribute '{given}' is handed over by the callers of its function",
            hint="inline the functions of the model first",
        )
    try:
        with np.errstate(all="ignore"):  # whatever is not finite is refused when it is written
            linear = lifter(node, facts)
        if linear is not None:
            linear = _checked(linear)
        if linear is not None and any(_is_used(out, node) for out in node.outputs[1:]):
            return Refusal(Reason.UNSUPPORTED, f"{node.op_type} has further outputs")
        return linear
    except RefusedError as error:
        return error.refusal
    except UsageError as error:  # shapes that contradict each other
        return Refusal(Reason.UNSUPPORTED, str(error))
    except CONTRADICTIONS as error:
        return contradiction(error)


def _registered(node: ir.Node) -> Lifter | None:
    """The function that an installed package registers for an op of another domain."""
    name = f"{node.domain}.{node.op_type}"
    if name not in plugins.names(plugins.LINEAR_OPS):
        return None
    lifter: Lifter = plugins.load(plugins.LINEAR_OPS, name)
    return lifter


CONTRADICTIONS = (ArithmeticError, IndexError, TypeError, ValueError)
"""What numpy and Python make of operands that do not fit each other, or of attributes of the wrong
type; ONNX's checker lets such nodes pass."""


def contradiction(error: Exception) -> Refusal:
    """What kept nodes that contradict each other as they are."""
    text = " ".join(str(error).split())
    return Refusal(
        Reason.UNSUPPORTED, f"its operands or attributes contradict each other ({text})"
    )


def _checked(linear: Linear) -> Linear:
    """A map whose weights are refused, not a crash, if they turn out not to fit."""
    geometry, load = linear.geometry, linear.load
    if 0 in (geometry.in_channels, geometry.out_channels, *geometry.kernel):
        refuse("its weight is empty")

    def checked_load() -> AffineConv:
        if linear.weight is None:
            _require_room(math.prod(geometry.weight_shape))
        try:
            with np.errstate(all="ignore"):
                return load()
        except CONTRADICTIONS as error:
            raise RefusedError(contradiction(error)) from error

    return replace(linear, load=checked_load)


def _require_room(elements: int) -> None:
    """Refuse a weight that no constant of the model holds, where it would take gigabytes."""
    if elements > LARGEST:
        refuse(f"as a weight it would have {elements} elements")


LARGEST = 1 << 26
"""Elements of a weight that no constant of the model holds."""


def _is_float(node: ir.Node, facts: Facts) -> bool:
    """Whether a node computes floating-point numbers: others wrap around, or are none."""
    values = (node.outputs[0], *(v for v in node.inputs if v is not None))
    dtype = next((d for d in map(facts.dtype, values) if d is not None), None)
    return dtype is not None and dtype.is_floating_point() and dtype.bitwidth >= 16


def _is_used(output: ir.Value, node: ir.Node) -> bool:
    # A mask that nobody reads changes nothing; a statistic that is asked for turns batch
    # normalization into its training form.
    return (
        bool(output.uses())
        or output.is_graph_output()
        or (bool(output.name) and node.op_type == "BatchNormalization")
    )


def lifts(*op_types: str) -> Callable[[Lifter], Lifter]:
    """Register the function that lifts nodes of some op types; each needs its record."""
    return LIFTERS.register(*op_types)


def input_of(node: ir.Node, index: int, *, optional: bool = False) -> ir.Value:
    """An input of a node; a missing one is refused unless it is optional."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None and not optional:
        refuse(f"input {index} is missing")
    return value  # type: ignore[return-value]


def refuse(message: str) -> NoReturn:
    """Say that this node uses a feature that the algebra does not cover."""
    raise RefusedError(Refusal(Reason.UNSUPPORTED, message))


def refuse_unknown_rank(x: ir.Value) -> NoReturn:
    """Say that the answer depends on the rank of a value."""
    raise RefusedError(
        Refusal(
            Reason.UNKNOWN_SHAPE,
            f"the rank of '{x.name}' is not known",
            hint="run shape inference on the model first",
        )
    )
