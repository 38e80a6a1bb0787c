"""Insert image preprocessing before a model, which fold can merge into the first convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.graph.editing import Rewriter
from onnx_expand.lower import constant
from onnx_expand.options import option, settle

__all__ = ["Preprocess"]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preprocess(ir.passes.InPlacePass):
    """Make a model take raw pixels: `y = (x - mean) / std`, with red and blue swapped on request.

    The input keeps its name, type and shape. Mean and deviation are in the order of the channels
    that the model was trained with.

    Raises:
        UsageError: A value is not finite or beyond the range of the input's type, a deviation is
            not positive, or there is no input of this name.
        UnsupportedError: The input is not a floating-point image with a static channel count.
    """

    mean: tuple[float, ...] = option(
        (0.0,), "Subtract this from the input image first.", metavar="M,..."
    )
    std: tuple[float, ...] = option((1.0,), "Then divide it by this.", metavar="S,...")
    swap_rb: bool = option(False, "The image has red and blue swapped.")
    input: str | None = option(
        None,
        "The image input; may be left out if the model has one input.",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        settle(self)
        for name in ("mean", "std"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty; give one number, or one for each channel")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise UsageError("mean and std must be finite numbers")
        if min(self.std) <= 0:
            raise UsageError(f"std contains {min(self.std):g}; deviations must be above 0")

    @classmethod
    def asked(cls, **options: Any) -> Preprocess | None:
        """Return the preprocessing that options request, or None if they request none.

        Raises:
            UsageError: An option is invalid, or an input is named without any preprocessing.
        """
        given = {name: o for name, o in options.items() if o is not None and o is not False}
        if given.keys() <= {"input"}:
            if given:
                raise UsageError(
                    "an input is named without preprocessing; give mean, std or swap_rb"
                )
            return None
        return cls(**given)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the preprocessing in place."""
        image = self.find_input(model)
        channels = self._channels(image)
        mean, std = (self._spread(name, channels) for name in ("mean", "std"))
        dtype = image.dtype
        assert dtype is not None
        self._check_range("mean", mean, mean, dtype)
        self._check_range("std", std, 1 / std, dtype)
        if self.swap_rb:
            mean, std = mean[::-1], std[::-1]
        name, rewriter = image.name or "input", Rewriter(model)
        readers = list(image.uses())
        steps: list[tuple[str, ir.Value, dict[str, int]]] = []
        column = (1, channels, 1, 1)
        if np.any(mean):
            steps.append(("Sub", constant(mean.reshape(column), f"{name}.mean", dtype), {}))
        if np.any(std != 1):
            steps.append(("Div", constant(std.reshape(column), f"{name}.std", dtype), {}))
        if self.swap_rb:
            order = ir.Tensor(np.arange(channels)[::-1].copy(), name=f"{name}.order")
            steps.append(("Gather", ir.val(order.name, const_value=order), {"axis": 1}))
        value, nodes = image, []
        for op_type, operand, attributes in steps:
            operand.name = rewriter.unique(operand.name or name)
            node = ir.node(
                op_type,
                [value, operand],
                attributes,
                name=rewriter.unique(f"{name}.{op_type.lower()}"),
            )
            value = node.outputs[0]
            value.name = rewriter.unique(f"{node.name}.out")
            value.shape, value.type = image.shape, image.type
            nodes.append(node)
            model.graph.register_initializer(operand)
        for use in readers:
            use.node.replace_input_with(use.idx, value)
        if nodes and len(model.graph):
            model.graph.insert_before(model.graph[0], nodes)
        return ir.passes.PassResult(model, bool(nodes))

    def find_input(self, model: ir.Model) -> ir.Value:
        """Return the image input."""
        held = model.graph.initializers
        inputs = {v.name: v for v in model.graph.inputs if v.name not in held}
        names = ", ".join(f"'{name}'" for name in inputs)
        if self.input is None:
            if len(inputs) != 1:
                raise UsageError(f"the model has the inputs {names}; name one with --input")
            return next(iter(inputs.values()))
        if self.input not in inputs:
            raise UsageError(f"the model has no input '{self.input}'; it has {names}")
        return inputs[self.input]

    def _channels(self, image: ir.Value) -> int:
        shape = image.shape
        if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
            raise UnsupportedError(
                f"input '{image.name}' is not an image [N, C, H, W] with a static channel count"
            )
        if image.dtype is None or not image.dtype.is_floating_point():
            raise UnsupportedError(
                f"input '{image.name}' has type {image.dtype}; preprocessing needs floating point"
            )
        if image.is_graph_output():
            raise UnsupportedError(f"input '{image.name}' is also an output of the graph")
        return shape[1]

    def _spread(self, name: str, channels: int) -> Numbers:
        numbers = np.asarray(getattr(self, name), dtype=np.float64)
        if numbers.size not in {1, channels}:
            raise UsageError(f"{name} has {numbers.size} numbers; give 1 or {channels}")
        return np.broadcast_to(numbers, (channels,)).copy()

    @staticmethod
    def _check_range(name: str, given: Numbers, used: Numbers, dtype: ir.DataType) -> None:
        with np.errstate(over="ignore"):
            held = np.isfinite(used.astype(dtype.numpy()).astype(np.float64))
        if not held.all():
            what = "which" if given is used else "whose reciprocal"
            raise UsageError(
                f"{name} contains {given[~held][0]:g}, {what} {dtype}, the type of the input, "
                "does not hold"
            )
