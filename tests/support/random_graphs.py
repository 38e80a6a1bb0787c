"""Random graphs of linear and other nodes over images, with forks, joins and extra consumers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["random_graph"]


@dataclass
class _Value:
    name: str
    channels: int
    size: tuple[int, int]


@dataclass
class _Builder:
    rng: np.random.Generator
    dtype: type
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: list[_Value] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def constant(self, array: npt.ArrayLike, dtype: type | None = None) -> str:
        name = f"c{len(self.constants)}"
        cast: npt.NDArray[Any] = np.asarray(array).astype(dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(cast, name))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(fan_in))

    def add(
        self, op: str, inputs: list[str], channels: int, size: tuple[int, int], **attrs: Any
    ) -> _Value:
        value = _Value(f"v{len(self.nodes)}", channels, size)
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [value.name], name=name, **attrs))
        self.values.append(value)
        return value


def _conv(b: _Builder, x: _Value) -> _Value | None:
    n, (h, w) = int(b.pick(1, 2, 4, x.channels)), x.size
    group = b.pick(*[g for g in (1, 2, 4) if x.channels % g == 0 == n % g])
    kernel = [b.pick(1, 1, 2, 3), b.pick(1, 1, 2, 3)]
    stride = b.pick(1, 1, 1, 2)
    dilation = b.pick(1, 1, 2)
    pads = [int(b.pick(0, 0, 1, 2)) for _ in range(4)]
    sizes = [
        (s + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilation - 1) // stride + 1
        for i, s in enumerate((h, w))
    ]
    if min(sizes) < 1:
        return None
    inputs = [x.name, b.weight(n, x.channels // group, *kernel)]
    if b.pick(True, False):
        inputs.append(b.weight(n))
    return b.add(
        "Conv",
        inputs,
        n,
        (sizes[0], sizes[1]),
        group=group,
        pads=pads,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
    )


def _conv_transpose(b: _Builder, x: _Value) -> _Value | None:
    if max(x.size) > 12:
        return None
    n = int(b.pick(2, 4))
    group = b.pick(*[g for g in (1, 2) if x.channels % g == 0])
    kernel, stride, pad = b.pick(1, 2, 3), b.pick(1, 2), b.pick(0, 0, 1)
    sizes = [(s - 1) * stride + kernel - 2 * pad for s in x.size]
    if min(sizes) < 1:
        return None
    inputs = [x.name, b.weight(x.channels, n // group, kernel, kernel)]
    if b.pick(True, False):
        inputs.append(b.weight(n))
    size = (sizes[0], sizes[1])
    return b.add(
        "ConvTranspose", inputs, n, size, group=group, strides=[stride] * 2, pads=[pad] * 4
    )


def _batch_norm(b: _Builder, x: _Value) -> _Value | None:
    c = x.channels
    inputs = [b.constant(b.rng.uniform(0.5, 2, c)), b.weight(c), b.weight(c)]
    inputs.append(b.constant(b.rng.uniform(0.5, 2, c)))
    return b.add("BatchNormalization", [x.name, *inputs], c, x.size)


def _arithmetic(b: _Builder, x: _Value) -> _Value | None:
    op = b.pick("Add", "Sub", "Mul", "Div")
    shape = b.pick((), (1,), (x.channels, 1, 1), (1, x.channels, 1, 1), (1, 1, 1))
    values = b.rng.uniform(0.5, 2, shape) * b.pick(1, -1)
    inputs = [x.name, b.constant(values)]
    if op != "Div" and b.pick(True, False):
        inputs.reverse()
    return b.add(op, inputs, x.channels, x.size)


def _plain(b: _Builder, x: _Value) -> _Value | None:
    return b.add(b.pick("Identity", "Neg", "Relu", "Dropout"), [x.name], x.channels, x.size)


def _pool(b: _Builder, x: _Value) -> _Value | None:
    if min(x.size) < 2:
        return None
    pad, count = b.pick(0, 1), b.pick(0, 1)
    sizes = [(s + 2 * pad - 2) // 2 + 1 for s in x.size]
    return b.add(
        "AveragePool",
        [x.name],
        x.channels,
        (sizes[0], sizes[1]),
        kernel_shape=[2, 2],
        strides=[2, 2],
        pads=[pad] * 4,
        count_include_pad=count,
    )


def _pad(b: _Builder, x: _Value) -> _Value | None:
    top, left, bottom, right = (int(b.pick(0, 1, 2)) for _ in range(4))
    pads = b.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    size = (x.size[0] + top + bottom, x.size[1] + left + right)
    return b.add("Pad", [x.name, pads], x.channels, size)


def _slice(b: _Builder, x: _Value) -> _Value | None:
    axis = int(b.pick(1, 2, 3))
    extents = [x.channels, *x.size]
    start = int(b.pick(0, 1))
    if extents[axis - 1] - start - 1 < 1:
        return None
    bounds = [b.constant([v], np.int64) for v in (start, -1, axis)]
    extents[axis - 1] -= start + 1
    return b.add("Slice", [x.name, *bounds], extents[0], (extents[1], extents[2]))


def _gather(b: _Builder, x: _Value) -> _Value | None:
    n = int(b.pick(1, 2, 4))
    indices = b.constant(b.rng.integers(0, x.channels, n), np.int64)
    return b.add("Gather", [x.name, indices], n, x.size, axis=1)


def _parts(b: _Builder, x: _Value) -> _Value | None:
    """Split the channels in two, map the parts or not, and join them again."""
    if x.channels < 2:
        return None
    first = int(b.pick(1, x.channels // 2))
    counts = [first, x.channels - first]
    names = [f"v{len(b.nodes)}.{i}" for i in range(2)]
    inputs = [x.name, b.constant(counts, np.int64)]
    b.nodes.append(helper.make_node("Split", inputs, names, name=f"n{len(b.nodes)}", axis=1))
    parts = [_Value(name, c, x.size) for name, c in zip(names, counts, strict=True)]
    b.values += parts
    for i, part in enumerate(parts):
        if b.pick(True, True, False):
            w = b.weight(part.channels, part.channels, 3, 3)
            parts[i] = b.add("Conv", [part.name, w], part.channels, x.size, pads=[1] * 4)
    if b.pick(True, False, False):
        parts.reverse()
    return b.add("Concat", [p.name for p in parts], x.channels, x.size, axis=1)


def _join(b: _Builder, x: _Value) -> _Value | None:
    op = b.pick("Add", "Sub", "Sum", "Mean", "Concat")
    fits = [
        v for v in b.values if v.size == x.size and (op == "Concat" or v.channels == x.channels)
    ]
    other = b.pick(*fits)
    if op == "Concat":
        return b.add(op, [x.name, other.name], x.channels + other.channels, x.size, axis=1)
    return b.add(op, [x.name, other.name], x.channels, x.size)


_MAKERS = (
    *(_conv, _conv, _conv, _conv, _batch_norm, _batch_norm, _arithmetic, _arithmetic),
    *(_plain, _pool, _pad, _slice, _gather, _join, _join, _join, _join, _conv_transpose),
    _parts,
)


def random_graph(seed: int, *, length: int, dtype: type = np.float32) -> onnx.ModelProto:
    """Draw a valid model of one image, [N, 4, 9, 8], with one to three outputs.

    Args:
        seed: The seed of the model.
        length: The approximate number of nodes.
        dtype: The element type.
    """
    b = _Builder(np.random.default_rng(seed), dtype)
    b.values.append(_Value("x", 4, (9, 8)))
    for _ in range(8 * length):
        if len(b.nodes) >= length:
            break
        # Recent values make chains, older ones forks.
        recent = b.values[-1] if b.rng.uniform() < 0.7 else b.pick(*b.values)
        b.pick(*_MAKERS)(b, recent)
    read = {name for node in b.nodes for name in node.input}
    outputs = [v for v in b.values[1:] if v.name not in read] or [b.values[-1]]
    extra = b.pick(*b.values[1:])
    if b.rng.uniform() < 0.3 and extra not in outputs:
        outputs.append(extra)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        b.nodes,
        "random",
        [helper.make_tensor_value_info("x", kind, ["N", 4, 9, 8])],
        [helper.make_tensor_value_info(v.name, kind, ["N", v.channels, *v.size]) for v in outputs],
        b.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
