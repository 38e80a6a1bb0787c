"""Graphs of many sites, by size.

What fold has to do at each site is the same, so its time should grow with the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from benchmarks.sketch import Sketch

__all__ = ["SITES", "Site", "gemms", "mixed"]


def gemms(count: int) -> onnx.ModelProto:
    """A chain of Gemms, which fold into one."""
    s, x = Sketch(), "x"
    for _ in range(count):
        # Orthogonal, so that the product of thousands neither grows nor vanishes.
        weight = np.linalg.qr(s.random.standard_normal((8, 8)))[0].astype(np.float32)
        x = s.add("Gemm", x, s.constant(weight), s.constant(weight[0]))
    return s.model({"x": ["N", 8]}, {x: ["N", 8]})


def gemms_and_relus(count: int) -> onnx.ModelProto:
    """Pairs of Gemms with a Relu behind each pair."""
    s, x = Sketch(), "x"
    for _ in range(count // 3):
        for _ in range(2):
            x = s.add("Gemm", x, s.weight(4, 4), s.weight(4))
        x = s.add("Relu", x)
    return s.model({"x": ["N", 4]}, {x: ["N", 4]})


def convolutions(count: int) -> onnx.ModelProto:
    """Convolutions with normalization, from each to the next."""
    s, x = Sketch(), "x"
    for _ in range(count // 2):
        x = _norm(s, s.add("Conv", x, s.weight(4, 4, 1, 1)), 4)
    return s.model({"x": ["N", 4, "H", "W"]}, {x: ["N", 4, "H", "W"]})


def residual_tower(count: int) -> onnx.ModelProto:
    """Residual blocks of two convolutions with normalization."""
    s, x = Sketch(), "x"
    for _ in range(count // 7):
        y = s.add("Relu", _norm(s, s.add("Conv", x, s.weight(4, 4, 3, 3), pads=[1] * 4), 4))
        y = _norm(s, s.add("Conv", y, s.weight(4, 4, 3, 3), pads=[1] * 4), 4)
        x = s.add("Relu", s.add("Add", x, y))
    return s.model({"x": ["N", 4, 16, 16]}, {x: ["N", 4, 16, 16]})


def linear_tower(count: int) -> onnx.ModelProto:
    """Residual blocks without a nonlinear op: each is a join, and all fold into one."""
    s, x = Sketch(), "x"
    for _ in range(count // 2):
        x = s.add("Add", x, s.add("Conv", x, s.weight(4, 4, 1, 1)))
        x = x if len(s.nodes) % 16 else s.add("Relu", x)
    return s.model({"x": ["N", 4, 8, 8]}, {x: ["N", 4, 8, 8]})


def branches(count: int) -> onnx.ModelProto:
    """Re-parameterized blocks: two convolutions and a normalization, added."""
    s, x = Sketch(), "x"
    for _ in range(count // 8):
        parts = [
            _norm(s, s.add("Conv", x, s.weight(4, 4, 3, 3), pads=[1] * 4), 4),
            _norm(s, s.add("Conv", x, s.weight(4, 4, 1, 1)), 4),
            _norm(s, x, 4),
        ]
        x = s.add("Relu", s.add("Add", s.add("Add", parts[0], parts[1]), parts[2]))
    return s.model({"x": ["N", 4, 16, 16]}, {x: ["N", 4, 16, 16]})


def deep_sum(count: int) -> onnx.ModelProto:
    """Products of one input, added one after the other."""
    s = Sketch()
    total = s.add("MatMul", "x", s.weight(4, 4))
    for _ in range(count // 2):
        total = s.add("Add", total, s.add("MatMul", "x", s.weight(4, 4)))
    return s.model({"x": ["N", 4]}, {total: ["N", 4]})


def sum_of_many(count: int) -> onnx.ModelProto:
    """Products of inputs of their own, added one after the other."""
    s, total = Sketch(), "x"
    for _ in range(count // 3):
        total = s.add("Add", total, s.add("MatMul", s.add("Relu", "x"), s.weight(4, 4)))
    return s.model({"x": ["N", 4]}, {total: ["N", 4]})


def wide_sum(count: int) -> onnx.ModelProto:
    """One Sum of many products of one input."""
    s = Sketch()
    y = s.add("Sum", *(s.add("MatMul", "x", s.weight(4, 4)) for _ in range(count)))
    return s.model({"x": ["N", 4]}, {y: ["N", 4]})


def wide_split(count: int) -> onnx.ModelProto:
    """A Split into many parts and their Concat."""
    s = Sketch()
    parts = s.add("Split", "x", s.constant(np.ones(count, np.int64)), outputs=count, axis=1)
    y = s.add("Concat", *parts, axis=1)
    return s.model({"x": ["N", count]}, {s.add("Relu", y): ["N", count]})


def wide_concat(count: int) -> onnx.ModelProto:
    """A Concat of many maps of parts of one input."""
    s = Sketch()
    parts = s.add("Split", "x", outputs=count // 2, axis=1)
    outs = [s.add("Mul", part, s.weight(1)) for part in parts]
    y = s.add("Relu", s.add("Concat", *outs, axis=1))
    return s.model({"x": ["N", count // 2]}, {y: ["N", count // 2]})


def many_readers(count: int) -> onnx.ModelProto:
    """Many products of one scaled input, each with a nonlinear op behind it."""
    s = Sketch()
    y = s.add("Add", s.add("Mul", "x", s.weight(4)), s.weight(4))
    outs = [s.add("Relu", s.add("MatMul", y, s.weight(4, 4))) for _ in range(count // 2)]
    return s.model({"x": ["N", 4]}, {s.add("Concat", *outs, axis=1): ["N", count // 2 * 4]})


def spreads(count: int) -> onnx.ModelProto:
    """Normalization of a concatenation of two convolutions."""
    s, x, before = Sketch(), "x", "x2"
    for _ in range(count // 5):
        parts = [s.add("Conv", v, s.weight(4, 8, 3, 3), pads=[1] * 4) for v in (x, before)]
        before, x = x, s.add("Relu", _norm(s, s.add("Concat", *parts, axis=1), 8))
    extents = ["N", 8, 16, 16]
    return s.model({"x": extents, "x2": extents}, {x: extents})


def encoders(count: int, d: int = 32) -> onnx.ModelProto:
    """Layers of an encoder with decomposed normalization."""
    s, x = Sketch(), "x"
    two, eps, root = (s.constant(np.float32(v)) for v in (2, 1e-5, np.sqrt(d // 4)))
    heads, whole = s.constant(np.array([0, 0, 4, d // 4])), s.constant(np.array([0, 0, d]))

    def affine(v: str, m: int, n: int) -> str:
        return str(s.add("Add", s.add("MatMul", v, s.weight(m, n)), s.weight(n)))

    def norm(v: str) -> str:
        centred = s.add("Sub", v, s.add("ReduceMean", v, axes=[-1]))
        variance = s.add("ReduceMean", s.add("Pow", centred, two), axes=[-1])
        v = s.add("Div", centred, s.add("Sqrt", s.add("Add", variance, eps)))
        return str(s.add("Add", s.add("Mul", v, s.weight(d)), s.weight(d)))

    for _ in range(count // 45):
        a = norm(x)
        q, k, v = (
            s.add("Transpose", s.add("Reshape", affine(a, d, d), heads), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = s.add("Softmax", s.add("Div", s.add("MatMul", q, k), root), axis=-1)
        mixed = s.add("Transpose", s.add("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = s.add("Add", x, affine(s.add("Reshape", mixed, whole), d, d))
        hidden = s.add("Relu", affine(norm(x), d, 4 * d))
        x = s.add("Add", x, affine(hidden, 4 * d, d))
    return s.model({"x": ["B", "S", d]}, {x: ["B", "S", d]})


def views(count: int) -> onnx.ModelProto:
    """Transposes around every normalization, as converters from channels-last write them."""
    s, x = Sketch(), "x"
    for _ in range(count // 4):
        x = s.add("Transpose", x, perm=[0, 3, 1, 2])
        x = s.add("Transpose", _norm(s, x, 4), perm=[0, 2, 3, 1])
        x = s.add("Relu", x)
    return s.model({"x": ["N", 8, 8, 4]}, {x: ["N", 8, 8, 4]})


def row_of_views(count: int) -> onnx.ModelProto:
    """Reshapes and Transposes in a row, which are one of each."""
    s, x = Sketch(), "x"
    split, joined = s.constant(np.array([-1, 2, 2])), s.constant(np.array([-1, 4]))
    for _ in range(count // 4):
        x = s.add("Reshape", s.add("Reshape", x, split), joined)
        x = s.add("Transpose", s.add("Transpose", x, perm=[1, 0]), perm=[1, 0])
    return s.model({"x": ["N", 4]}, {s.add("Relu", x): ["N", 4]})


def permutations(count: int) -> onnx.ModelProto:
    """Permutations of the channels in a row."""
    s, x = Sketch(), "x"
    for _ in range(count):
        x = s.add("Gather", x, s.constant(np.array([1, 2, 3, 0])), axis=1)
    return s.model({"x": ["N", 4]}, {s.add("Relu", x): ["N", 4]})


def one_weight(count: int) -> onnx.ModelProto:
    """Products with one weight in a row."""
    s, x = Sketch(), "x"
    weight = s.constant(np.linalg.qr(s.random.standard_normal((4, 4)))[0].astype(np.float32))
    for _ in range(count):
        x = s.add("MatMul", x, weight)
    return s.model({"x": ["N", 4]}, {x: ["N", 4]})


def concatenated(count: int) -> onnx.ModelProto:
    """A Concat of many products of one input."""
    s = Sketch()
    y = s.add("Concat", *(s.add("MatMul", "x", s.weight(4, 4)) for _ in range(count)), axis=1)
    return s.model({"x": ["N", 4]}, {s.add("Relu", y): ["N", 4 * count]})


def shape_arithmetic(count: int) -> onnx.ModelProto:
    """Reshapes to extents that nodes compute."""
    s, x = Sketch(), "x"
    first, rest = s.constant(np.array([0])), s.constant(np.array([-1]))
    for _ in range(count // 6):
        batch = s.add("Gather", s.add("Shape", x), first, axis=0)
        wanted = s.add("Concat", batch, rest, axis=0)
        x = s.add("Relu", s.add("MatMul", s.add("Reshape", x, wanted), s.weight(4, 4)))
    return s.model({"x": ["N", 4]}, {x: ["N", 4]})


def claims(count: int) -> onnx.ModelProto:
    """Nodes of an unknown op, of whose results only the model says something, and maps of them."""
    s, kind = Sketch(), onnx.TensorProto.FLOAT
    outs = []
    for _ in range(count // 3):
        y = s.add("Unknown", "x", domain="custom")
        outs.append(s.add("Add", s.add("Mul", y, s.weight(1)), s.weight(1)))
    model = s.model({"x": ["N", 4]}, {s.add("Concat", *outs, axis=1): ["N", "M"]})
    model.opset_import.add(domain="custom", version=1)
    for node in model.graph.node[:-1]:
        info = helper.make_tensor_value_info(node.output[0], kind, ["N", 4])
        model.graph.value_info.append(info)
    return model


def unknown_ranks(count: int) -> onnx.ModelProto:
    """Sums of values of whose rank only the last node tells."""
    s, x = Sketch(), "x"
    for _ in range(count // 3):
        x = s.add("Relu", s.add("Add", s.add("Mul", x, s.weight(1)), x))
    model = s.model({"x": ["N"]}, {s.add("Transpose", x, perm=[1, 0]): ["N", "M"]})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def slices(count: int) -> onnx.ModelProto:
    """Slices of what is left, of extents that are not known, with a sum behind each."""
    s, x = Sketch(), "x"
    one, last, axis = (s.constant(np.array([v])) for v in (1, 2**31 - 1, 2))
    for _ in range(count // 4):
        x = s.add("Relu", s.add("Slice", x, one, last, axis))
        x = s.add("Conv", s.add("Conv", x, s.weight(4, 4, 1)), s.weight(4, 4, 1))
    return s.model({"x": ["N", 4, "L"]}, {x: ["N", 4, "M"]})


def stays(count: int) -> onnx.ModelProto:
    """A long stretch of depthwise and 1x1 layers that cost less apart, an Identity behind each."""
    s, x = Sketch(), "x"
    for _ in range(count // 4):
        x = s.add("Identity", s.add("Conv", x, s.weight(8, 1, 3, 3), pads=[1] * 4, group=8))
        x = s.add("Identity", s.add("Conv", x, s.weight(8, 8, 1, 1)))
    return s.model({"x": ["N", 8, 16, 16]}, {x: ["N", 8, 16, 16]})


def mixed(count: int) -> onnx.ModelProto:
    """Blocks of many kinds in turn: residual, branches, attention, views, gates, shapes."""
    s, x = Sketch(), "x"
    halves = s.constant(np.array([2, 2]))
    flat, image = s.constant(np.array([0, 4, 64])), s.constant(np.array([0, 4, 8, 8]))
    while len(s.nodes) < count:
        y = s.add("Relu", _norm(s, s.add("Conv", x, s.weight(4, 4, 3, 3), pads=[1] * 4), 4))
        x = s.add("Add", x, _norm(s, s.add("Conv", y, s.weight(4, 4, 1, 1)), 4))
        a, b = s.add("Split", x, halves, outputs=2, axis=1)
        b = s.add("Mul", s.add("Sigmoid", b), b)
        x = _norm(s, s.add("Concat", a, b, axis=1), 4)
        t = s.add("Transpose", s.add("Reshape", x, flat), perm=[0, 2, 1])
        t = s.add("Add", s.add("MatMul", t, s.weight(4, 8)), s.weight(8))
        t = s.add("MatMul", s.add("Relu", t), s.weight(8, 4))
        x = s.add("Reshape", s.add("Transpose", t, perm=[0, 2, 1]), image)
        g = s.add("Conv", s.add("GlobalAveragePool", x), s.weight(4, 4, 1, 1))
        x = s.add("Mul", s.add("HardSigmoid", g), x)
    return s.model({"x": ["N", 4, 8, 8]}, {x: ["N", 4, 8, 8]})


def _norm(s: Sketch, x: str, channels: int) -> str:
    numbers = (s.weight(channels), s.weight(channels), s.weight(channels))
    variance = s.constant(np.ones(channels, np.float32))
    return str(s.add("BatchNormalization", x, *numbers, variance))


@dataclass(frozen=True)
class Site:
    """A kind of graph.

    Attributes:
        build: Makes one of about so many nodes.
        nodes: The size to begin with.
        has_spans: Whether a single stretch goes through the graph, of which every span of up to
            64 steps is looked at.
    """

    build: Callable[[int], onnx.ModelProto]
    nodes: int
    has_spans: bool = False


SITES = {
    "Gemms in a chain": Site(gemms, 1_000),
    "pairs of Gemms": Site(gemms_and_relus, 1_500),
    "convolutions with normalization": Site(convolutions, 128, has_spans=True),
    "residual tower": Site(residual_tower, 700),
    "linear residual tower": Site(linear_tower, 400, has_spans=True),
    "branches": Site(branches, 800),
    "deep sum of one input": Site(deep_sum, 400),
    "deep sum of many inputs": Site(sum_of_many, 2_000),
    "one wide Sum": Site(wide_sum, 400),
    "Split and Concat": Site(wide_split, 2_000),
    "Concat of maps": Site(wide_concat, 400),
    "many readers": Site(many_readers, 800),
    "spreads": Site(spreads, 400),
    "encoder layers": Site(encoders, 360),
    "views": Site(views, 800),
    "row of views": Site(row_of_views, 800),
    "permutations": Site(permutations, 800),
    "one weight": Site(one_weight, 800),
    "one wide Concat": Site(concatenated, 800),
    "shape arithmetic": Site(shape_arithmetic, 2_000),
    "claims": Site(claims, 2_000),
    "unknown ranks": Site(unknown_ranks, 2_000),
    "slices": Site(slices, 800),
    "layers that stay apart": Site(stays, 200, has_spans=True),
    "mixed": Site(mixed, 1_500),
}
"""Kinds of graphs by name."""
