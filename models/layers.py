"""A network under construction: its layers are methods that append nodes to a graphsurgeon graph.

Every layer takes the node's name and its input value and gives back its output value. Weights are
initializers that are named after the node as in a torch state dict (`conv1.weight`) and start as
PyTorch starts them. Values carry their shapes, so that a layer knows the width of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_expand.errors import UsageError

__all__ = ["Network", "Value", "parameter_count"]

Value: TypeAlias = "gs.Variable"

_BATCH = "batch"
_OLDEST_OPSET = 13
_LARGEST_SIZE = 1 << 16
# protobuf cannot hold a message of 2 GiB; some room is left for the graph around the weights.
_LARGEST_WEIGHTS = (1 << 31) - (1 << 24)


class Network:
    """A graph from one image `input`, float32 [batch, channels, size, size].

    Args:
        name: The graph's name.
        size: Height and width of the image.
        channels: Channels of the image.
        seed: Seed of the initial weights, which are drawn in the order of the layers.
        opset: Version of the ONNX operators.

    Attributes:
        input: The image.

    Raises:
        UsageError: A value is out of range.
    """

    def __init__(self, name: str, size: int, *, channels: int = 3, seed: int, opset: int) -> None:
        _check_range("size", size, 1, _LARGEST_SIZE)
        _check_range("channels", channels, 1)
        _check_range("seed", seed, 0)
        _check_range("opset", opset, _OLDEST_OPSET, onnx.defs.onnx_opset_version())
        self.input: Value = gs.Variable("input", np.float32, [_BATCH, channels, size, size])
        self._graph = gs.Graph(
            name=name, opset=opset, inputs=[self.input], producer_name="onnx-expand models"
        )
        self._rng = np.random.default_rng(seed)
        self._weight_bytes = 0

    def conv(
        self,
        name: str,
        x: Value,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        group: int = 1,
        bias: bool = True,
    ) -> Value:
        """Convolution: [batch, c, h, w] to [batch, channels, h', w'].

        Args:
            name: Name of the node.
            x: The input.
            channels: Number of output channels.
            kernel: Height and width of the kernel.
            stride: Step along both axes.
            padding: Zeros on each of the four sides.
            group: Number of groups; divides both channel counts.
            bias: Whether a bias is added.

        Raises:
            UsageError: The kernel does not fit on the padded input, or the weights are too large.
        """
        _check_range(f"{name}: group", group, 1)
        if x.shape[1] % group or channels % group:
            raise UsageError(
                f"{name}: {group} groups do not divide {x.shape[1]} and {channels} channels"
            )
        extents = _extents(name, x, kernel, stride, padding)
        width = x.shape[1] // group
        parameters = self._affine(name, [channels, width, kernel, kernel], bias)
        attrs = {"dilations": [1, 1], "group": group, **_window(kernel, stride, padding)}
        return self._node("Conv", name, [x, *parameters], [channels, *extents], attrs)

    def gemm(self, name: str, x: Value, features: int) -> Value:
        """Fully connected layer with a bias: [batch, c] to [batch, features].

        Raises:
            UsageError: The weights are too large.
        """
        parameters = self._affine(name, [features, x.shape[1]], bias=True)
        attrs = {"alpha": 1.0, "beta": 1.0, "transB": 1}
        return self._node("Gemm", name, [x, *parameters], [features], attrs)

    def batch_norm(self, name: str, x: Value) -> Value:
        """Batch normalization in inference form; starts as (nearly) the identity."""
        start = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
        parameters = [
            gs.Constant(f"{name}.{key}", np.full(x.shape[1], value, np.float32))
            for key, value in start.items()
        ]
        attrs = {"epsilon": 1e-5, "momentum": 0.9}
        return self._node("BatchNormalization", name, [x, *parameters], x.shape[1:], attrs)

    def relu(self, name: str, x: Value) -> Value:
        """max(x, 0), of the shape of x."""
        return self._node("Relu", name, [x], x.shape[1:])

    def relu6(self, name: str, x: Value) -> Value:
        """min(max(x, 0), 6), of the shape of x."""
        bounds = [
            gs.Constant(f"{name}.{key}", np.array(value, np.float32))
            for key, value in (("min", 0), ("max", 6))
        ]
        return self._node("Clip", name, [x, *bounds], x.shape[1:])

    def max_pool(
        self, name: str, x: Value, kernel: int, *, stride: int | None = None, padding: int = 0
    ) -> Value:
        """Maximum over windows: [batch, c, h, w] to [batch, c, h', w'].

        Args:
            name: Name of the node.
            x: The input.
            kernel: Height and width of the window.
            stride: Step along both axes; the kernel's size when missing.
            padding: Positions added on each of the four sides, which no maximum counts.

        Raises:
            UsageError: The window does not fit on the padded input.
        """
        stride = kernel if stride is None else stride
        extents = _extents(name, x, kernel, stride, padding)
        attrs = {"ceil_mode": 0, **_window(kernel, stride, padding)}
        return self._node("MaxPool", name, [x], [x.shape[1], *extents], attrs)

    def global_average_pool(self, name: str, x: Value) -> Value:
        """Mean over the image: [batch, c, h, w] to [batch, c, 1, 1]."""
        return self._node("GlobalAveragePool", name, [x], [x.shape[1], 1, 1])

    def flatten(self, name: str, x: Value) -> Value:
        """All but the batch on one axis: [batch, c, h, w] to [batch, c * h * w]."""
        return self._node("Flatten", name, [x], [math.prod(x.shape[1:])], {"axis": 1})

    def add(self, name: str, x: Value, y: Value) -> Value:
        """Sum of two values of one shape."""
        return self._node("Add", name, [x, y], x.shape[1:])

    def finish(self, x: Value) -> onnx.ModelProto:
        """The model whose only output, named `output`, is x."""
        x.name = "output"
        self._graph.outputs = [x]
        # The oldest IR version for these operators, as runtimes lag behind the newest one.
        ir_version = onnx.helper.find_min_ir_version_for(
            [onnx.helper.make_opsetid("", self._graph.opset)]
        )
        model = gs.export_onnx(self._graph, ir_version=ir_version)
        # Strict inference also checks the shapes that the layers have declared.
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)

    def _node(
        self,
        op: str,
        name: str,
        inputs: Sequence[Any],
        shape: Sequence[int],
        attrs: dict[str, Any] | None = None,
    ) -> Value:
        output = gs.Variable(f"{name}.output", np.float32, [_BATCH, *shape])
        self._graph.layer(op=op, name=name, inputs=inputs, outputs=[output], attrs=attrs or {})
        return output

    def _affine(self, name: str, shape: Sequence[int], bias: bool) -> list[Any]:
        shapes = {"weight": shape, "bias": shape[:1]} if bias else {"weight": shape}
        self._weight_bytes += sum(4 * math.prod(part) for part in shapes.values())
        # Before numpy allocates them.
        if self._weight_bytes > _LARGEST_WEIGHTS:
            raise UsageError(
                f"{name}: the network's weights exceed 2 GiB; choose a smaller network"
            )
        # kaiming_uniform(a=sqrt(5)), PyTorch's default, comes to this bound for both.
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return [
            gs.Constant(f"{name}.{key}", self._rng.uniform(-bound, bound, part).astype(np.float32))
            for key, part in shapes.items()
        ]


def parameter_count(model: onnx.ModelProto) -> int:
    """Number of trainable scalars: weights and biases, without BN's running statistics."""
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name.endswith((".weight", ".bias"))
    )


def _extents(name: str, x: Value, kernel: int, stride: int, padding: int) -> list[int]:
    extents = x.shape[2:]
    if min(extents) + 2 * padding < kernel:
        have = "x".join(map(str, extents))
        padded = f" with padding {padding}" if padding else ""
        raise UsageError(
            f"{name}: a {kernel}x{kernel} window does not fit on its {have} input{padded}; "
            "choose a larger size"
        )
    return [(extent + 2 * padding - kernel) // stride + 1 for extent in extents]


def _window(kernel: int, stride: int, padding: int) -> dict[str, list[int]]:
    return {"kernel_shape": [kernel] * 2, "pads": [padding] * 4, "strides": [stride] * 2}


def _check_range(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise UsageError(f"{name} is {value}; it must be {limits}")
