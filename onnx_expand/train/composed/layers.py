"""Linear nodes as maps whose values change during training.

`lift` determines the map of a node and how its values follow from its constants. Here the
constants are tensors, and the function that runs the node alone is stored with the map.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import RefusedError
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.lift import Linear, conv_geometry, lift
from onnx_expand.train.composed.kernels import Numbers
from onnx_expand.train.names import CONSTANTS
from onnx_expand.train.registry import Translation
from onnx_expand.train.tensors import DTYPES

if TYPE_CHECKING:
    from onnx_expand.train.composed.chain import Branches

__all__ = ["Lifter", "LinearNode", "Tensors", "is_same"]

Tensors: TypeAlias = Mapping[str, torch.Tensor]

# Larger kernels without an initializer, such as those that select channels, stay nodes.
_LARGEST = 1 << 18

# Maps that depend on declared extents; a module must accept images of any size.
_SIZED = {"Expand", "GlobalAveragePool", "ReduceMean"}


class _Path(str):
    """The path of a module's tensor, among the arguments of a node."""


@dataclass(frozen=True)
class Call:
    """The computation of a single node.

    Attributes:
        target: The function.
        args: Its arguments, with paths in place of tensors.
        settings: Its attributes.
        slot: The index of the argument that is mapped.
    """

    target: Callable[..., torch.Tensor]
    args: tuple[Any, ...]
    settings: Mapping[str, Any]
    slot: int

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the tensors that it reads."""
        return tuple(str(arg) for arg in self.args if isinstance(arg, _Path))

    def __call__(self, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Compute the node."""
        args = [tensors[arg] if isinstance(arg, _Path) else arg for arg in self.args]
        args[self.slot] = x
        return self.target(*args, **self.settings)


@dataclass(frozen=True)
class LinearNode:
    """One linear node.

    Attributes:
        label: The name in messages: its weight, or the node itself.
        geometry: The geometry of its map. Even a zero bias counts, since training changes it.
        axis: The channel axis of its input and output.
        call: The computation of the node.
        operands: The paths of the tensors from which weight and bias are computed.
        read: Computes weight and bias from them, in the layout of the geometry.
        fixed: Whether it has no weights: it pads, averages, slices or selects.
    """

    label: str
    geometry: Geometry
    axis: int
    call: Call
    operands: tuple[str, ...]
    read: Callable[..., tuple[Any, Any]]
    fixed: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the tensors that it reads, composed or alone."""
        return tuple(dict.fromkeys((*self.operands, *self.call.paths)))

    def at_rank(self, rank: int) -> LinearNode:
        """Return the same map with this number of spatial axes."""
        return replace(self, geometry=self.geometry.at_rank(rank))

    def numbers(self, tensors: Tensors) -> Numbers:
        """Compute weight and bias; the weight is None for a per-channel shift."""
        weight, bias = self.read(*(tensors[path] for path in self.operands))
        geometry = self.geometry
        if weight is None and not geometry.is_per_channel:
            weight = bias.new_ones(1)
        return Numbers(
            None if weight is None else _shaped(weight, geometry.weight_shape),
            None if bias is None else _shaped(bias, (geometry.out_channels,)),
        )


def _shaped(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tensor.numel() == 1 < math.prod(shape):
        return tensor.reshape([1] * len(shape)).expand(shape)
    return tensor.reshape(shape)


class Lifter:
    """Lifts the nodes of a graph whose constants are a module's tensors.

    Args:
        facts: Shapes, types and constants of the graph.
        plans: The translation and attributes of each node that a function of these and of its
            inputs computes.
        stored: The tensors of the module, with their paths.

    Attributes:
        fixed: Kernels without an initializer, by the paths that layers assign to them.
    """

    def __init__(
        self,
        facts: Facts,
        translations: Mapping[ir.Node, tuple[Translation, Mapping[str, Any]]],
        stored: Mapping[ir.Value, tuple[str, torch.Tensor]],
    ) -> None:
        self.facts = facts
        self.translations = translations
        self.stored = stored
        self.fixed: dict[str, torch.Tensor] = {}

    def linear(self, node: ir.Node) -> Linear | None:
        """Lift a node whose other inputs are tensors of the module, or return None."""
        if node not in self.translations or node.op_type in {"BatchNormalization", *_SIZED}:
            return None
        linear = lift(node, self.facts)
        if not isinstance(linear, Linear) or self.facts.is_constant(linear.x):
            return None
        if linear.axes is not None and linear.axes[0] != linear.axes[1]:
            return None
        if node.op_type == "Slice" and linear.geometry.rank:
            return None  # the removed part depends on the extent
        others = [value for i, value in enumerate(node.inputs) if i != linear.slot]
        if not all(value is None or value in self.stored for value in others):
            return None
        if node.op_type != "Conv":
            return linear
        assert linear.weight is not None
        shape = self.facts.dims(linear.weight)
        return replace(linear, geometry=conv_geometry(node, shape, None))

    def layer(self, linear: Linear, above: LinearNode | Branches | None) -> LinearNode | None:
        """Convert a map to a layer if its channel axis is known.

        Args:
            linear: The map.
            above: The layer that computes its input, if there is one.
        """
        if above is not None:
            linear = linear.on(above.axis, above.geometry.out_channels)
        elif Trait.LAYER not in op_of(linear.node).traits:
            shape = self.facts.shape(linear.x)
            if shape is None or len(shape) < 2:
                return None  # it may be computed with Python numbers
            axis = 1 if len(shape) > 2 else -1
            linear = linear.on(axis % len(shape), shape[axis] or 0) if shape[axis] else linear
        if linear.axes is None:
            return None
        node, geometry = linear.node, linear.geometry
        if linear.numbers is not None:
            tensors = [self.stored[value] for value in linear.operands]
            paths = tuple(path for path, _ in tensors)
            with torch.enable_grad():
                _, bias = linear.numbers(*(tensor for _, tensor in tensors))
            biased = bias is not None and (bias.requires_grad or bool(bias.detach().any()))
            geometry = replace(geometry, bias=biased)
            name = paths[0]
            return LinearNode(
                name, geometry, linear.axes[0], self._call(linear), paths, linear.numbers
            )
        held = self._fixed(linear)
        if held is None:
            return None
        path, read = held
        call = self._call(linear)
        return LinearNode(label(node), geometry, linear.axes[0], call, (path,), read, True)

    def _call(self, linear: Linear) -> Call:
        plan, settings = self.translations[linear.node]
        args: list[Any] = []
        for slot, value in enumerate(linear.node.inputs):
            if value is None or slot == linear.slot:
                args.append(None)
            elif slot in plan.static:
                args.append(self.stored[value][1].tolist())
            else:
                args.append(_Path(self.stored[value][0]))
        while args and args[-1] is None and len(args) > linear.slot + 1:
            args.pop()
        return Call(plan.target, tuple(args), settings, linear.slot)

    def _fixed(self, linear: Linear) -> tuple[str, Callable[..., tuple[Any, Any]]] | None:
        """Store the kernel of a map without weights; return its path and how to read it.

        Its elements are one value, its negative, or zero: only signs are stored, exact in every
        type.
        """
        dtype = DTYPES.get(self.facts.dtype(linear.y) or 0)
        own = linear.weight is None and linear.bias is None
        if not own or dtype is None or math.prod(linear.geometry.weight_shape) > _LARGEST:
            return None
        try:
            affine = linear.load()
        except RefusedError:
            return None
        scale = float(np.abs(affine.weight).max())
        signs = np.sign(affine.weight)
        if not scale or affine.geometry.bias or np.any(affine.weight != scale * signs):
            return None
        path = f"{CONSTANTS}.kernel_{len(self.fixed)}"
        self.fixed[path] = torch.from_numpy(signs).to(dtype)
        return path, functools.partial(_signed, scale=scale)


def _signed(signs: torch.Tensor, scale: float) -> tuple[torch.Tensor, None]:
    return signs if scale == 1 else signs * scale, None


def is_same(linear: Linear) -> bool:
    """Return whether a node returns its input unchanged."""
    return linear.axes is None and linear.shift_only and not linear.operands
