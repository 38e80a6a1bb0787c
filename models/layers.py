"""A network under construction: its layers are methods that append nodes to a graphsurgeon graph.

Every layer takes the node's name and its input value and gives back its output value. Weights are
initializers that are named after the node as in a torch state dict (`conv1.weight`). Values carry
their shapes, so that a layer knows the width of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_expand.errors import UsageError

from .initial import TORCH, Initial

__all__ = ["Network", "Value", "check_range", "parameter_count"]

Value: TypeAlias = "gs.Variable"

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
        batch: Images in a batch; 0 leaves the axis open, with the name `batch`.
        seed: Seed of the initial weights, which are drawn in the order of the layers.
        opset: Version of the ONNX operators.
        conv_initial: How convolutions start.
        dense_initial: How fully connected layers start.

    Attributes:
        input: The image.

    Raises:
        UsageError: A value is out of range.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        channels: int = 3,
        batch: int = 0,
        seed: int,
        opset: int,
        conv_initial: Initial = TORCH,
        dense_initial: Initial = TORCH,
    ) -> None:
        check_range("size", size, 1, _LARGEST_SIZE)
        check_range("channels", channels, 1)
        check_range("batch", batch, 0)
        check_range("seed", seed, 0)
        check_range("opset", opset, _OLDEST_OPSET, onnx.defs.onnx_opset_version())
        self._batch: int | str = batch or "batch"
        self.input: Value = gs.Variable("input", np.float32, [self._batch, channels, size, size])
        self._graph = gs.Graph(
            name=name, opset=opset, inputs=[self.input], producer_name="onnx-expand models"
        )
        self._rng = np.random.default_rng(seed)
        self._conv_initial, self._dense_initial = conv_initial, dense_initial
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
        check_range(f"{name}: group", group, 1)
        if x.shape[1] % group or channels % group:
            raise UsageError(
                f"{name}: {group} groups do not divide {x.shape[1]} and {channels} channels"
            )
        extents = _extents(name, x, kernel, stride, padding)
        shape = [channels, x.shape[1] // group, kernel, kernel]
        fans = (math.prod(shape[1:]), channels * kernel * kernel)
        parameters = self._affine(name, shape, channels if bias else 0, fans, self._conv_initial)
        attrs = {"dilations": [1, 1], "group": group, **_window(kernel, stride, padding)}
        return self._node("Conv", name, [x, *parameters], [channels, *extents], attrs)

    def conv_transpose(
        self, name: str, x: Value, channels: int, kernel: int, *, stride: int = 1
    ) -> Value:
        """Transposed convolution, biased and unpadded: [batch, c, h, w] to [batch, channels, ...].

        With a stride of the kernel's size every output has one product per input channel.

        Raises:
            UsageError: The weights are too large.
        """
        extents = [(extent - 1) * stride + kernel for extent in x.shape[2:]]
        shape = [x.shape[1], channels, kernel, kernel]
        fan_in = max(1, x.shape[1] * kernel * kernel // (stride * stride))
        fans = (fan_in, channels * kernel * kernel)
        parameters = self._affine(name, shape, channels, fans, self._conv_initial)
        attrs = {"dilations": [1, 1], "group": 1, **_window(kernel, stride, 0)}
        return self._node("ConvTranspose", name, [x, *parameters], [channels, *extents], attrs)

    def gemm(self, name: str, x: Value, features: int) -> Value:
        """Fully connected layer with a bias: [batch, c] to [batch, features].

        Raises:
            UsageError: The weights are too large.
        """
        shape = [features, x.shape[1]]
        parameters = self._affine(name, shape, features, (shape[1], features), self._dense_initial)
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

    def leaky_relu(self, name: str, x: Value, slope: float) -> Value:
        """X where it is positive, else slope * x; of the shape of x."""
        return self._node("LeakyRelu", name, [x], x.shape[1:], {"alpha": slope})

    def sigmoid(self, name: str, x: Value) -> Value:
        """1 / (1 + exp(-x)), of the shape of x."""
        return self._node("Sigmoid", name, [x], x.shape[1:])

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

    def dropout(self, name: str, x: Value, ratio: float) -> Value:
        """Dropout, which does nothing in inference; training drops so large a part."""
        constant = gs.Constant(f"{name}.ratio", np.array(ratio, np.float32))
        return self._node("Dropout", name, [x, constant], x.shape[1:])

    def flatten(self, name: str, x: Value) -> Value:
        """All but the batch on one axis: [batch, c, h, w] to [batch, c * h * w]."""
        return self._node("Flatten", name, [x], [math.prod(x.shape[1:])], {"axis": 1})

    def add(self, name: str, x: Value, y: Value) -> Value:
        """Sum of two values of one shape."""
        return self._node("Add", name, [x, y], x.shape[1:])

    def multiply(self, name: str, x: Value, y: Value) -> Value:
        """Product of x and a value of its shape, or of extent 1 along some axes."""
        return self._node("Mul", name, [x, y], x.shape[1:])

    def concat(self, name: str, values: Sequence[Value]) -> Value:
        """The channels of several values of one height and width, one after the other."""
        channels = sum(value.shape[1] for value in values)
        shape = [channels, *values[0].shape[2:]]
        return self._node("Concat", name, values, shape, {"axis": 1})

    def split(self, name: str, x: Value, sizes: Sequence[int]) -> list[Value]:
        """The channels of a value in consecutive parts of these sizes."""
        parts = [
            gs.Variable(f"{name}.output{i}", np.float32, [self._batch, size, *x.shape[2:]])
            for i, size in enumerate(sizes)
        ]
        constant = gs.Constant(f"{name}.sizes", np.array(sizes, np.int64))
        self._graph.layer(
            op="Split", name=name, inputs=[x, constant], outputs=parts, attrs={"axis": 1}
        )
        return parts

    def shuffle(self, name: str, x: Value, groups: int) -> Value:
        """The channels of so many groups in turn: the first of each group, then the second, ...

        Three nodes: `<name>.split`, `<name>.swap` and `<name>.merge`.
        """
        channels, *extents = x.shape[1:]
        parted = [groups, channels // groups, *extents]
        x = self._reshape(f"{name}.split", x, parted)
        swapped = [parted[1], groups, *extents]
        x = self._node("Transpose", f"{name}.swap", [x], swapped, {"perm": [0, 2, 1, 3, 4]})
        return self._reshape(f"{name}.merge", x, [channels, *extents])

    def crop(self, name: str, x: Value, size: int) -> Value:
        """The middle of an image, of this height and width."""
        starts = [(extent - size) // 2 for extent in x.shape[2:]]
        bounds = {"starts": starts, "ends": [start + size for start in starts], "axes": [2, 3]}
        constants = [
            gs.Constant(f"{name}.{key}", np.array(value, np.int64))
            for key, value in bounds.items()
        ]
        return self._node("Slice", name, [x, *constants], [x.shape[1], size, size])

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

    def _reshape(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        # A 0 keeps the extent, here of the batch.
        constant = gs.Constant(f"{name}.shape", np.array([0, *shape], np.int64))
        return self._node("Reshape", name, [x, constant], shape)

    def _node(
        self,
        op: str,
        name: str,
        inputs: Sequence[Any],
        shape: Sequence[int],
        attrs: dict[str, Any] | None = None,
    ) -> Value:
        output = gs.Variable(f"{name}.output", np.float32, [self._batch, *shape])
        self._graph.layer(op=op, name=name, inputs=inputs, outputs=[output], attrs=attrs or {})
        return output

    def _affine(
        self, name: str, shape: Sequence[int], bias: int, fans: tuple[int, int], initial: Initial
    ) -> list[Any]:
        self._weight_bytes += 4 * (math.prod(shape) + bias)
        # Before numpy allocates them.
        if self._weight_bytes > _LARGEST_WEIGHTS:
            raise UsageError(
                f"{name}: the network's weights exceed 2 GiB; choose a smaller network"
            )
        weight = initial.weight(self._rng, shape, *fans).astype(np.float32)
        parameters = [gs.Constant(f"{name}.weight", weight)]
        if bias:
            vector = initial.bias(self._rng, bias, *fans).astype(np.float32)
            parameters.append(gs.Constant(f"{name}.bias", vector))
        return parameters


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


def check_range(name: str, value: float, least: float, most: float | None = None) -> None:
    """Refuse an option that is out of range.

    Raises:
        UsageError: The value is below `least`, above `most`, or not a number.
    """
    if not value >= least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise UsageError(f"{name} is {value}; it must be {limits}")
