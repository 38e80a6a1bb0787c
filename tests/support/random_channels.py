"""Random graphs that convert between channels and positions, with maps on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["OPSETS", "random_channels"]

OPSETS = (9, 10, 11, 12, 13, 14, 17, 18, 20)


@dataclass(frozen=True)
class Value:
    """A value [N, channels, height, width], or [N, channels, 1, 1]."""

    name: str
    channels: int
    size: tuple[int, int]


@dataclass
class Builder:
    """Adds nodes to a model.

    Attributes:
        rng: The source of randomness.
        dtype: The element type.
        opset: The opset version.
        dynamic: Whether height and width are symbolic.
    """

    rng: np.random.Generator
    dtype: type
    opset: int
    dynamic: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        """Pick one of some options."""
        return options[int(self.rng.integers(len(options)))]

    def constant(self, array: npt.ArrayLike, dtype: type | None = None) -> str:
        """Add an initializer."""
        name = f"c{len(self.constants)}"
        cast: npt.NDArray[Any] = np.asarray(array).astype(dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(cast, name))
        return name

    def integers(self, *numbers: int) -> str:
        """Add an initializer of integers."""
        return self.constant(numbers, np.int64)

    def weight(self, *shape: int) -> str:
        """Draw normal random values, scaled by fan-in."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(fan_in))

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes)
        )
        return name

    def add(self, name: str, channels: int, size: tuple[int, int]) -> Value:
        """Record a value that others may read."""
        self.values.append(Value(name, channels, size))
        return self.values[-1]

    def cut(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """Add a Slice."""
        if self.opset < 10:
            assert step == 1
            return self.node("Slice", [x], axes=[axis], starts=[start], ends=[end])
        return self.node("Slice", [x, *map(self.integers, (start, end, axis, step))])

    def unsqueezed(self, x: str) -> str:
        """Reshape [N, C] to [N, C, 1, 1]."""
        way = self.pick("Unsqueeze", "Reshape")
        if way == "Reshape":
            channels = next(v.channels for v in self.values if v.name == x)
            return self.node("Reshape", [x, self.integers(-1, channels, 1, 1)])
        if self.opset < 13:
            return self.node("Unsqueeze", [x], axes=[2, 3])
        return self.node("Unsqueeze", [x, self.integers(2, 3)])


FAR = (1 << 63) - 1


def _conv(b: Builder, x: Value) -> Value | None:
    n = int(b.pick(1, 2, 4, 8, x.channels))
    group = b.pick(*[g for g in (1, 1, 2, 4) if x.channels % g == 0 == n % g])
    kernel, pad = b.pick((1, 0), (3, 1), (3, 1), (3, 0), (2, 0), (5, 2))
    stride = b.pick(1, 1, 1, 2)
    size = tuple((s + 2 * pad - kernel) // stride + 1 for s in x.size)
    if min(size) < 1:
        return None
    inputs = [x.name, b.weight(n, x.channels // group, kernel, kernel)]
    inputs += [b.weight(n)] if b.pick(True, False) else []
    found = b.node("Conv", inputs, group=group, pads=[pad] * 4, strides=[stride] * 2)
    return b.add(found, n, (size[0], size[1]))


def _arithmetic(b: Builder, x: Value) -> Value | None:
    """Add a scale or shift per channel or for all, or one that broadcasts a single channel."""
    op, n = b.pick("Add", "Sub", "Mul", "Div"), x.channels
    shapes = [(), (n, 1, 1), (n, 1, 1), (1, n, 1, 1)]
    if n == 1:
        n = b.pick(1, 2, 3, 4)
        shapes = [(), (n, 1, 1), (1, n, 1, 1)]
    shape = b.pick(*shapes)
    inputs = [x.name, b.constant(b.rng.uniform(0.5, 2, shape) * b.pick(1, -1))]
    if op != "Div" and b.pick(True, False):
        inputs.reverse()
    return b.add(b.node(op, inputs), n if shape else x.channels, x.size)


def _batch_norm(b: Builder, x: Value) -> Value | None:
    c = x.channels
    inputs = [b.constant(b.rng.uniform(0.5, 2, c)), b.weight(c), b.weight(c)]
    inputs.append(b.constant(b.rng.uniform(0.5, 2, c)))
    return b.add(b.node("BatchNormalization", [x.name, *inputs]), c, x.size)


def _plain(b: Builder, x: Value) -> Value | None:
    return b.add(b.node(b.pick("Identity", "Neg", "Relu"), [x.name]), x.channels, x.size)


def _expand(b: Builder, x: Value) -> Value | None:
    if x.channels != 1:
        return None
    n = b.pick(1, 2, 3, 4)
    shape = b.pick((1, n, 1, 1), (n, 1, 1))
    return b.add(b.node("Expand", [x.name, b.integers(*shape)]), n, x.size)


def _tile(b: Builder, x: Value) -> Value | None:
    if x.channels > 4:
        return None
    count = b.pick(1, 2, 3)
    found = b.node("Tile", [x.name, b.integers(1, count, 1, 1)])
    return b.add(found, x.channels * count, x.size)


def _repeated(b: Builder, x: Value) -> Value | None:
    """Add Concat(x, 2 x, -x), possibly with another value."""
    if x.channels > 4:
        return None
    parts, channels = [], 0
    for _ in range(b.pick(2, 3)):
        way = b.pick("same", "same", "scaled", "negated", "shifted", "other")
        part = x
        if way == "other":
            part = b.pick(*[v for v in b.values if v.size == x.size])
        name = part.name
        if way == "scaled":
            name = b.node("Mul", [name, b.constant(2.0)])
        elif way == "negated":
            name = b.node("Neg", [name])
        elif way == "shifted":
            name = b.node("Add", [name, b.weight(x.channels, 1, 1)])
        parts.append(name)
        channels += part.channels
    return b.add(b.node("Concat", parts, axis=1), channels, x.size)


def _gather(b: Builder, x: Value) -> Value | None:
    if b.pick(True, False):
        order = b.rng.permutation(x.channels)
    else:
        order = b.rng.integers(0, x.channels, b.pick(1, 2, x.channels))
    found = b.node("Gather", [x.name, b.integers(*map(int, order))], axis=1)
    return b.add(found, len(order), x.size)


def _focus(b: Builder, x: Value) -> Value | None:
    """Add a Concat of slices of every other row and column."""
    if b.opset < 10 or x.channels > 4 or any(s % 2 for s in x.size):
        return None
    places = [(0, 0), (1, 0), (0, 1), (1, 1)]
    parts = []
    for i, j in b.pick(places, places, places[::-1], places[:2]):
        rows = b.cut(x.name, 2, i, FAR, 2)
        parts.append(b.cut(rows, 3, j, FAR, 2))
    size = (x.size[0] // 2, x.size[1] // 2)
    return b.add(b.node("Concat", parts, axis=1), x.channels * len(parts), size)


def _strided(b: Builder, x: Value) -> Value | None:
    """Add a strided slice along one spatial axis."""
    if b.opset < 10 or min(x.size) < 4:
        return None
    axis, step, start = b.pick(2, 3), b.pick(1, 2, 3), b.pick(0, 1, 2)
    end = b.pick(FAR, FAR, -1)
    size = list(x.size)
    size[axis - 2] = len(range(size[axis - 2])[start : None if end == FAR else end : step])
    return b.add(b.cut(x.name, axis, start, end, step), x.channels, (size[0], size[1]))


def _space_to_depth(b: Builder, x: Value) -> Value | None:
    block = b.pick(1, 2, 2, 3)
    if any(s % block for s in x.size) or x.channels > 8:
        return None
    size = (x.size[0] // block, x.size[1] // block)
    found = b.node("SpaceToDepth", [x.name], blocksize=block)
    return b.add(found, x.channels * block * block, size)


def _depth_to_space(b: Builder, x: Value) -> Value | None:
    block = b.pick(1, 2, 2, 3)
    if x.channels % block**2 or max(x.size) > 12:
        return None
    mode = {"mode": b.pick("DCR", "CRD")} if b.opset >= 11 else {}
    found = b.node("DepthToSpace", [x.name], blocksize=block, **mode)
    return b.add(found, x.channels // block**2, (x.size[0] * block, x.size[1] * block))


def _pixel_shuffle(b: Builder, x: Value) -> Value | None:
    """Add a DepthToSpace in the spelling of exporters."""
    if x.channels % 4 or max(x.size) > 12 or b.dynamic:
        return None
    c, (h, w) = x.channels // 4, x.size
    shape, perm = b.pick(
        ((0, c, 2, 2, h, w), (0, 1, 4, 2, 5, 3)), ((0, 2, 2, c, h, w), (0, 3, 4, 1, 5, 2))
    )
    found = b.node("Reshape", [x.name, b.integers(*shape)])
    found = b.node("Transpose", [found], perm=perm)
    found = b.node("Reshape", [found, b.integers(0, c, 2 * h, 2 * w)])
    return b.add(found, c, (2 * h, 2 * w))


def _channel_shuffle(b: Builder, x: Value) -> Value | None:
    groups = b.pick(2, 4)
    if x.channels % groups or b.dynamic:
        return None
    h, w = x.size
    found = b.node("Reshape", [x.name, b.integers(0, groups, x.channels // groups, h, w)])
    found = b.node("Transpose", [found], perm=(0, 2, 1, 3, 4))
    found = b.node("Reshape", [found, b.integers(0, x.channels, h, w)])
    return b.add(found, x.channels, x.size)


def _embedding(b: Builder, x: Value) -> Value | None:
    """Add a map and a per-sample vector that is broadcast over positions."""
    n = x.channels
    b.values.append(Value(b.node("Gemm", ["e", b.weight(4, n), b.weight(n)]), n, (0, 0)))
    vector = b.values.pop()
    b.values.append(vector)
    name = b.unsqueezed(vector.name)
    b.values.remove(vector)
    pair = [x.name, name]
    if b.pick(True, False):
        pair.reverse()
    return b.add(b.node(b.pick("Add", "Sub", "Sum"), pair), n, x.size)


def _split(b: Builder, x: Value) -> Value | None:
    if x.channels % 2:
        return None
    half = x.channels // 2
    names = [f"v{len(b.nodes)}.{i}" for i in range(2)]
    inputs = [x.name] if b.opset < 13 else [x.name, b.integers(half, half)]
    given: dict[str, Any] = {"split": [half, half]} if b.opset < 13 else {}
    name = f"n{len(b.nodes)}"
    b.nodes.append(helper.make_node("Split", inputs, names, name=name, axis=1, **given))
    for part in names:
        b.add(part, half, x.size)
    return b.values[-1]


MAKERS: tuple[Callable[[Builder, Value], Value | None], ...] = (
    *(_conv, _conv, _conv, _conv, _batch_norm, _arithmetic, _arithmetic, _plain),
    *(_expand, _expand, _tile, _repeated, _repeated, _gather, _focus, _focus, _strided),
    *(_space_to_depth, _depth_to_space, _pixel_shuffle, _channel_shuffle, _embedding, _split),
)


def random_channels(
    seed: int, *, length: int, dtype: type = np.float32, opset: int = 17
) -> onnx.ModelProto:
    """Draw a valid model of one image [N, 1 to 4, H, W] and one vector [N, 4] for each sample.

    Args:
        seed: The seed of the model.
        length: The approximate number of nodes.
        dtype: The element type.
        opset: The opset version.
    """
    rng = np.random.default_rng(seed)
    b = Builder(rng, dtype, opset, dynamic=bool(rng.integers(2)))
    image = Value("x", b.pick(1, 1, 2, 3, 4), b.pick((8, 6), (6, 12), (9, 8), (12, 4)))
    b.values.append(image)
    for _ in range(10 * length):
        if len(b.nodes) >= length:
            break
        recent = b.values[-1] if b.rng.uniform() < 0.8 else b.pick(*b.values)
        b.pick(*MAKERS)(b, recent)
    read = {name for node in b.nodes for name in node.input}
    outputs = [v for v in b.values[1:] if v.name not in read]
    extra = b.pick(*b.values[1:])
    if b.rng.uniform() < 0.2 and extra not in outputs:
        outputs.append(extra)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    spatial = ["H", "W"] if b.dynamic else list(image.size)
    inputs = [helper.make_tensor_value_info("x", kind, ["N", image.channels, *spatial])]
    if "e" in read:
        inputs.append(helper.make_tensor_value_info("e", kind, ["N", 4]))
    ports = []
    for v in outputs:
        own = [None, None] if b.dynamic else list(v.size)
        ports.append(helper.make_tensor_value_info(v.name, kind, [None, v.channels, *own]))
    graph = helper.make_graph(b.nodes, "channels", inputs, ports, b.constants)
    graph.doc_string = f"{image.size[0]},{image.size[1]}"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
