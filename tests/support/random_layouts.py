"""Random graphs in which pointwise maps meet across changes of layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["random_layouts"]

Dim = int | None
"""An extent; None for the one that holds the batch."""


@dataclass
class _Value:
    name: str
    dims: tuple[Dim, ...]
    factor: int = 1  # the extent of the batch axis is a multiple of the batch


@dataclass
class _Builder:
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: list[_Value] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def constant(self, array: npt.ArrayLike, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array).astype(dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(fan_in))

    def add(self, op: str, inputs: list[str], like: _Value, **attrs: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attrs)
        )
        self.values.append(_Value(name, like.dims, like.factor))


def _transpose(b: _Builder, x: _Value) -> None:
    perm = b.rng.permutation(len(x.dims))
    if b.pick(True, True, False):  # the batch axis usually stays in front
        perm = np.array([0, *(1 + b.rng.permutation(len(x.dims) - 1))])
    b.add("Transpose", [x.name], _Value("", tuple(x.dims[i] for i in perm), x.factor), perm=perm)


def _reshape(b: _Builder, x: _Value) -> None:
    """Merge two neighbouring extents, or split one in two."""
    dims = list(x.dims)
    i = int(b.rng.integers(len(dims)))
    factor = x.factor
    whole = dims[i]
    if b.pick(True, False) and i + 1 < len(dims):
        merged = dims[i : i + 2]
        if None in merged:
            factor *= next(d for d in merged if d is not None)
            dims[i : i + 2] = [None]
        else:
            dims[i : i + 2] = [math.prod(d for d in merged if d is not None)]
    elif whole is not None and whole % 2 == 0 and len(dims) < 4:
        dims[i : i + 1] = b.pick([2, whole // 2], [whole // 2, 2], [1, whole], [whole, 1])
    else:
        return
    if len(dims) < 2:
        return
    target = [-1 if d is None else d for d in dims]
    for axis, (old, new) in enumerate(zip(x.dims, dims, strict=False)):
        if old == new and factor == x.factor and b.pick(True, False):
            target[axis] = 0
        elif old != new:
            break
    b.add("Reshape", [x.name, b.constant(target, np.int64)], _Value("", tuple(dims), factor))


def _flatten(b: _Builder, x: _Value) -> None:
    if x.dims[0] is None:
        rest = math.prod(d for d in x.dims[1:] if d is not None)
        b.add("Flatten", [x.name], _Value("", (None, rest), x.factor))


def _ones(b: _Builder, x: _Value) -> None:
    dims = list(x.dims)
    if 1 in dims and len(dims) > 2 and b.pick(True, False):
        axis = dims.index(1)
        del dims[axis]
        op = "Squeeze"
    elif len(dims) < 4:
        axis = int(b.rng.integers(len(dims) + 1))
        dims.insert(axis, 1)
        op = "Unsqueeze"
    else:
        return
    axes = b.constant([axis], np.int64)
    b.add(op, [x.name, axes], _Value("", tuple(dims), x.factor))


def _matmul(b: _Builder, x: _Value) -> None:
    right = b.pick(True, True, False) or len(x.dims) < 3
    axis = len(x.dims) - (1 if right else 2)
    m = x.dims[axis]
    if m is None:
        return
    n = int(b.pick(2, 4, m))
    dims = (*x.dims[:axis], n, *x.dims[axis + 1 :])
    w = b.weight(n, m)
    if right:
        w = b.constant(numpy_helper.to_array(b.constants.pop()).T)
    b.add("MatMul", [x.name, w] if right else [w, x.name], _Value("", dims, x.factor))


def _gemm(b: _Builder, x: _Value) -> None:
    if len(x.dims) == 2 and x.dims[1] is not None:
        n = int(b.pick(2, 4))
        inputs = [x.name, b.weight(n, x.dims[1]), b.weight(n)]
        b.add("Gemm", inputs, _Value("", (x.dims[0], n), x.factor), transB=1)


def _conv(b: _Builder, x: _Value) -> None:
    if len(x.dims) not in {3, 4} or x.dims[0] is not None or x.dims[1] is None:
        return
    kernel = int(b.pick(1, 1, 3))
    if kernel > 1 and None in x.dims[2:]:
        return
    n, rank = int(b.pick(2, 4)), len(x.dims) - 2
    inputs = [x.name, b.weight(n, x.dims[1], *[kernel] * rank)]
    if b.pick(True, False):
        inputs.append(b.weight(n))
    dims = (x.dims[0], n, *x.dims[2:])
    b.add("Conv", inputs, _Value("", dims, x.factor), pads=[kernel // 2] * 2 * rank)


def _normalize(b: _Builder, x: _Value) -> None:
    if len(x.dims) < 2 or x.dims[1] is None:
        return
    c = x.dims[1]
    inputs = [b.constant(b.rng.uniform(0.5, 2, c)), b.weight(c), b.weight(c)]
    inputs.append(b.constant(b.rng.uniform(0.5, 2, c)))
    b.add("BatchNormalization", [x.name, *inputs], x)


def _scale(b: _Builder, x: _Value) -> None:
    axis = int(b.rng.integers(len(x.dims)))
    size = x.dims[axis]
    shape = () if size is None else (size, *(1,) * (len(x.dims) - axis - 1))
    values = b.rng.uniform(0.5, 2, shape)
    b.add(b.pick("Mul", "Add", "Sub"), [x.name, b.constant(values)], x)


def _relu(b: _Builder, x: _Value) -> None:
    b.add("Relu", [x.name], x)


def _sum(b: _Builder, x: _Value) -> None:
    fits = [v for v in b.values if (v.dims, v.factor) == (x.dims, x.factor)]
    b.add("Add", [x.name, b.pick(*fits).name], x)


_MAKERS = (
    *(_transpose, _transpose, _transpose, _reshape, _reshape, _flatten, _ones),
    *(_matmul, _matmul, _matmul, _gemm, _gemm, _conv, _conv, _conv),
    *(_normalize, _scale, _scale, _relu, _sum),
)


def random_layouts(seed: int, *, length: int) -> onnx.ModelProto:
    """Draw a valid model of one input, [N, 4, 6, 2] or [N, 6, 4], and one or more outputs.

    Args:
        seed: The seed of the model.
        length: The approximate number of nodes.
    """
    b = _Builder(np.random.default_rng(seed))
    b.values.append(_Value("x", b.pick((None, 4, 6, 2), (None, 6, 4))))
    for _ in range(8 * length):
        if len(b.nodes) >= length:
            break
        recent = b.values[-1] if b.rng.uniform() < 0.85 else b.pick(*b.values)
        b.pick(*_MAKERS)(b, recent)
    read = {name for node in b.nodes for name in node.input}
    outputs = [v for v in b.values[1:] if v.name not in read] or [b.values[-1]]
    kind = onnx.TensorProto.FLOAT

    def info(v: _Value) -> onnx.ValueInfoProto:
        held = "N" if v.factor == 1 else f"N*{v.factor}"
        dims = [held if d is None else d for d in v.dims]
        return helper.make_tensor_value_info(v.name, kind, dims)

    graph = helper.make_graph(
        b.nodes, "layouts", [info(b.values[0])], [info(v) for v in outputs], b.constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
