"""Random graphs in which axes are easily confused.

Extents are small and often 1 or equal, constants come first or second in every broadcastable
shape, and views insert, remove and permute axes.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

__all__ = ["AxisGraph", "axis_graph", "outcome"]

Array = npt.NDArray[Any]
OPSETS = (7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22, 24)
_TYPES = (np.float32, np.float32, np.float32, np.float64, np.float64, np.float16)
_EXTENTS = (1, 1, 2, 3, 4)
_FAR = 2**31 - 1  # the value that exporters write for the end of any axis


class AxisGraph:
    """A graph that grows by nodes that onnxruntime can run.

    Args:
        seed: The seed of the graph.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.dtype = np.dtype(_TYPES[int(self.rng.integers(len(_TYPES)))])
        rank = int(self.rng.integers(1, 6))
        if self.rng.random() < 0.3:  # squares
            shape = [int(self.rng.choice(_EXTENTS))] * rank
        else:
            shape = [int(self.rng.choice(_EXTENTS)) for _ in range(rank)]
        self.x: Array = self.normal(*shape)
        self.declared: list[int | str] = [
            f"D{i}" if self.rng.random() < 0.4 else e for i, e in enumerate(shape)
        ]
        self.values: dict[str, Array] = {"x": self.x}
        self.shapes: dict[str, Array] = {}
        self.current = "x"

    # -- Growing ----------------------------------------------------------------------------

    def add(self, op: str, inputs: list[Any], outputs: int = 1, /, **attributes: Any) -> list[str]:
        """Add a node if it runs; arrays among its inputs become constants.

        Returns:
            The names of its outputs; none if it does not run.
        """
        names: list[str] = []
        constants: list[onnx.TensorProto] = []
        for given in inputs:
            if isinstance(given, str):
                names.append(given)
                continue
            name = f"c{len(self.constants) + len(constants)}"
            constants.append(numpy_helper.from_array(np.asarray(given), name))
            names.append(name)
        outs = [f"v{len(self.values) + i}" for i in range(outputs)]
        node = helper.make_node(op, names, outs, name=f"n{len(self.nodes)}", **attributes)
        known = self.values | self.shapes
        feeds = {name: known[name] for name in names if name in known}
        try:
            arrays = run(self._model([node], constants, feeds, outs), feeds)
        except Exception:  # any error of onnxruntime
            return []
        if any(a.size == 0 or a.size > 4096 for a in arrays):
            return []
        self.nodes.append(node)
        self.constants += constants
        self.values |= dict(zip(outs, arrays, strict=True))
        return outs

    def _model(
        self,
        nodes: list[onnx.NodeProto],
        constants: list[onnx.TensorProto],
        feeds: dict[str, Array],
        outs: list[str],
    ) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = [
            helper.make_tensor_value_info(
                name,
                TensorProto.INT64 if name in self.shapes else kind,
                self.declared if name == "x" else [f"{name}_{i}" for i in range(a.ndim)],
            )
            for name, a in feeds.items()
        ]
        outputs = [helper.make_tensor_value_info(name, kind, None) for name in outs]
        graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the current value."""
        return self.values[self.current].shape

    def normal(self, *shape: int) -> Array:
        """Draw normal random values."""
        return self.rng.standard_normal(shape).astype(self.dtype)

    def chance(self, probability: float = 0.5) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def extent(self) -> int:
        """Draw an extent."""
        return int(self.rng.choice(_EXTENTS))

    def axis(self, rank: int) -> int:
        """Draw an axis, counted from either end."""
        return int(self.rng.integers(-rank, rank)) if rank else 0

    def grow(self) -> None:
        """Append one more node that reads the current value."""
        if self.chance(0.12) and len(self.values) > 2:
            fork(self)
            return
        growers = _GROWERS if self.shape else _OF_NUMBERS
        found = growers[int(self.rng.integers(len(growers)))](self)
        if found:
            self.current = found[int(self.rng.integers(len(found)))]

    def model(self) -> onnx.ModelProto:
        """Return the graph as a model whose output is the current value."""
        used, names = [], {self.current}
        for node in reversed(self.nodes):
            if names & set(node.output):
                used.append(node)
                names |= set(node.input)
        constants = [c for c in self.constants if c.name in names]
        last = self.current
        shapes = {name: shape for name, shape in self.shapes.items() if name in names}
        model = self._model(used[::-1], constants, {"x": self.x} | shapes, [last])
        del model.graph.output[:]
        dims = [f"O{i}" for i in range(self.values[last].ndim)]
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        info = helper.make_tensor_value_info(last, kind, dims)
        model.graph.output.append(info)
        return model

    def inputs(self) -> list[Array]:
        """Draw inputs of the sizes that the model accepts."""
        found = [self.x]
        for other in (1, 2, 3, 5):
            shape = [other if isinstance(d, str) else d for d in self.declared]
            found.append(self.normal(*shape))
        mixed = [int(self.rng.integers(1, 5)) if isinstance(d, str) else d for d in self.declared]
        found.append(self.normal(*mixed))
        return found


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Run the model in onnxruntime on the CPU, without optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(a) for a in session.run(None, feeds)]


# -- Nodes ----------------------------------------------------------------------------------


def matmul(g: AxisGraph) -> list[str]:
    """Append a product with a constant on either side, of any rank."""
    shape = g.shape
    if g.chance(0.65):
        weight = g.normal(shape[-1], *((g.extent(),) if g.chance(0.9) else ()))
        inputs: list[Any] = [g.current, _with_ones(g, weight)]
    else:
        m = shape[-2] if len(shape) > 1 else shape[0]
        weight = g.normal(*((g.extent(),) if g.chance(0.9) else ()), m)
        inputs = [_with_ones(g, weight), g.current]
    return g.add("MatMul", inputs)


def _with_ones(g: AxisGraph, weight: Array) -> Array:
    if weight.ndim == 2 and g.chance(0.25):
        return weight.reshape((1,) * int(g.rng.integers(1, 3)) + weight.shape)
    return weight


def gemm(g: AxisGraph) -> list[str]:
    """Append a Gemm with its constant on either side, transposed or not, and any C."""
    if len(g.shape) != 2:
        return []
    trans_a, trans_b = int(g.chance()), int(g.chance())
    n = g.extent()
    if g.chance():
        k = g.shape[0 if trans_a else 1]
        weight = g.normal(*((n, k) if trans_b else (k, n)))
        inputs: list[Any] = [g.current, weight]
        rows, columns = g.shape[1 if trans_a else 0], n
    else:
        k = g.shape[1 if trans_b else 0]
        weight = g.normal(*((k, n) if trans_a else (n, k)))
        inputs = [weight, g.current]
        rows, columns = n, g.shape[0 if trans_b else 1]
    shapes = [(columns,), (1,), (), (1, columns), (rows, 1), (rows, columns), (1, 1)]
    if g.opset < 11 or g.chance(0.75):
        inputs.append(g.normal(*shapes[int(g.rng.integers(len(shapes)))]))
    attributes: dict[str, Any] = {"transA": trans_a, "transB": trans_b}
    if g.chance(0.3):
        attributes |= {"alpha": 0.5, "beta": -2.0}
    return g.add("Gemm", inputs, **attributes)


def elementwise(g: AxisGraph) -> list[str]:
    """Append a sum or product with a constant of any shape that broadcasts in either direction."""
    shape = [e if g.chance(0.35) else 1 for e in g.shape]
    if g.chance(0.4) and shape:
        keep = int(g.rng.integers(len(shape)))
        shape = [e if i == keep else 1 for i, e in enumerate(g.shape)]
    if g.chance(0.15):  # an axis of extent one is broadcast
        ones = [i for i, e in enumerate(g.shape) if e == 1]
        if ones:
            shape[int(g.rng.choice(ones))] = int(g.rng.integers(2, 4))
    while shape and shape[0] == 1 and g.chance():
        shape.pop(0)
    if g.chance(0.15):
        shape = [1] * int(g.rng.integers(1, 3)) + shape
    op = str(g.rng.choice(["Add", "Sub", "Mul", "Div", "Sum"]))
    constant = g.normal(*shape)
    constant = np.where(np.abs(constant) < 0.2, 0.5, constant).astype(g.dtype)
    inputs: list[Any] = [g.current, constant]
    if op != "Div" and g.chance(0.4):
        inputs.reverse()
    return g.add(op, inputs)


def normalization(g: AxisGraph) -> list[str]:
    """Append a batch normalization."""
    if len(g.shape) < 2:
        return []
    c = g.shape[1]
    spread = g.rng.uniform(0.5, 2, c).astype(g.dtype)
    return g.add("BatchNormalization", [g.current, g.normal(c), g.normal(c), g.normal(c), spread])


def convolution(g: AxisGraph) -> list[str]:
    """Append a convolution, possibly transposed, with any number of groups."""
    rank = len(g.shape) - 2
    if rank < 1:
        return []
    c, n = g.shape[1], g.extent()
    groups = [d for d in range(1, 5) if c % d == 0 and n % d == 0]
    group = int(g.rng.choice(groups))
    kernel = [int(g.rng.integers(1, 4)) for _ in range(rank)]
    if g.chance():
        kernel = [1] * rank
    pads = [int(g.rng.integers(0, k)) for k in kernel] * 2
    strides = [int(g.rng.integers(1, 3)) for _ in range(rank)]
    attributes = {"pads": pads, "strides": strides, "group": group, "kernel_shape": kernel}
    if g.chance(0.2):
        attributes["pads"] = [0] * (2 * rank)
        weight = g.normal(c, n // group, *kernel)
        return g.add("ConvTranspose", [g.current, weight, g.normal(n)], **attributes)
    bias = [g.normal(n)] if g.chance() else []
    return g.add("Conv", [g.current, g.normal(n, c // group, *kernel), *bias], **attributes)


def transpose(g: AxisGraph) -> list[str]:
    """Append a Transpose."""
    perm = [int(i) for i in g.rng.permutation(len(g.shape))]
    return g.add("Transpose", [g.current], **({} if g.chance(0.2) else {"perm": perm}))


def reshape(g: AxisGraph) -> list[str]:
    """Append a Reshape that regroups extents, with or without zeros and -1."""
    shape = list(g.shape)
    for _ in range(int(g.rng.integers(1, 3))):
        at = int(g.rng.integers(0, len(shape) + 1))
        what = g.rng.random()
        if what < 0.35 and len(shape) < 5:
            shape.insert(at, 1)
        elif what < 0.55 and 1 in shape:
            shape.remove(1)
        elif what < 0.8 and at + 1 < len(shape):
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        elif at < len(shape) and shape[at] in {4, 6, 8, 9} and len(shape) < 5:
            first = {4: 2, 6: 2, 8: 2, 9: 3}[shape[at]]
            shape[at : at + 1] = [first, shape[at] // first]
    spelled = [
        0 if i < len(g.shape) and e == g.shape[i] and g.chance(0.4) else e
        for i, e in enumerate(shape)
    ]
    if spelled and g.chance(0.6):
        spelled[int(g.rng.integers(len(spelled)))] = -1
    return g.add("Reshape", [g.current, np.array(spelled, np.int64)])


def veil(g: AxisGraph) -> list[str]:
    """Append a Reshape to a target that the caller provides, so that the rank is unknown."""
    name = f"s{len(g.shapes)}"
    shape = [*g.shape]
    if g.chance(0.3):
        shape.insert(int(g.rng.integers(len(shape) + 1)), 1)
    g.shapes[name] = np.array(shape, np.int64)
    return g.add("Reshape", [g.current, name])


def flatten(g: AxisGraph) -> list[str]:
    """Append a Flatten."""
    rank = len(g.shape)
    low = 0 if g.opset < 11 else -rank
    return g.add("Flatten", [g.current], axis=int(g.rng.integers(low, rank + 1)))


def squeeze(g: AxisGraph) -> list[str]:
    """Append a Squeeze of some or all axes of extent one."""
    rank = len(g.shape)
    ones = [i for i, e in enumerate(g.shape) if e == 1]
    if not ones:
        return []
    chosen = [i for i in ones if g.chance(0.6)] or ones[:1]
    if g.chance(0.15):
        return g.add("Squeeze", [g.current])
    return _with_axes(g, "Squeeze", chosen, rank)


def unsqueeze(g: AxisGraph) -> list[str]:
    """Append an Unsqueeze."""
    count = int(g.rng.integers(1, 3))
    rank = len(g.shape) + count
    if rank > 5:
        return []
    chosen = [int(i) for i in g.rng.choice(rank, size=count, replace=False)]
    return _with_axes(g, "Unsqueeze", chosen, rank)


def _with_axes(g: AxisGraph, op: str, axes: list[int], rank: int) -> list[str]:
    if g.opset >= 11:
        axes = [a - rank if g.chance(0.3) else a for a in axes]
    if g.opset >= 13:
        return g.add(op, [g.current, np.array(axes, np.int64)])
    return g.add(op, [g.current], axes=axes)


def split(g: AxisGraph) -> list[str]:
    """Append a Split that keeps one part, or permutes and joins the parts."""
    if not g.shape:
        return []
    axis = g.axis(len(g.shape))
    size = g.shape[axis]
    if size < 2:
        return []
    first = int(g.rng.integers(1, size))
    sizes = [first, size - first]
    if g.opset >= 13:
        parts = g.add("Split", [g.current, np.array(sizes, np.int64)], 2, axis=axis)
    else:
        parts = g.add("Split", [g.current], 2, axis=axis, split=sizes)
    if parts and g.chance():
        return g.add("Concat", parts[::-1], axis=axis)
    return parts


def cut(g: AxisGraph) -> list[str]:
    """Append a Slice or a Gather."""
    if not g.shape:
        return []
    axis = g.axis(len(g.shape))
    size = g.shape[axis]
    if g.chance():
        picks = g.rng.integers(0, size, int(g.rng.integers(1, size + 1)))
        indices = np.array(picks[0] if g.chance(0.2) else picks, np.int64)
        return g.add("Gather", [g.current, indices], axis=axis)
    start = int(g.rng.integers(0, size))
    end = int(g.rng.integers(start + 1, size + 1))
    end = int(g.rng.choice([end, end - size if end < size else _FAR, _FAR]))
    if g.opset < 10:
        axes = [axis % len(g.shape)]
        return g.add("Slice", [g.current], axes=axes, starts=[start], ends=[end])
    bounds = [np.array([i], np.int64) for i in (start, end, axis)]
    return g.add("Slice", [g.current, *bounds])


def einsum(g: AxisGraph) -> list[str]:
    """Append an Einsum: a product or a scale along one axis, with weights possibly broadcast."""
    rank = len(g.shape)
    if not rank or g.opset < 12:
        return []
    letters = list(string.ascii_lowercase[:rank])
    axis = int(g.rng.integers(rank))
    after = list(letters)
    m = 1 if g.chance(0.2) else g.shape[axis]
    if g.chance(0.3):
        weight, own = g.normal(m), [letters[axis]]
    else:
        weight, own = g.normal(m, g.extent()), [letters[axis], "z"]
        if g.chance():
            weight, own = weight.T.copy(), own[::-1]
        after[axis] = "z"
        if g.chance(0.15):
            after.append(after.pop(axis))
    terms, inputs = ["".join(letters), "".join(own)], [g.current, weight]
    if g.chance(0.3):
        terms.reverse()
        inputs.reverse()
    return g.add("Einsum", inputs, equation=f"{','.join(terms)}->{''.join(after)}")


def pointwise(g: AxisGraph) -> list[str]:
    """Append a node of one input."""
    return g.add(str(g.rng.choice(["Identity", "Neg", "Relu"])), [g.current])


def pool(g: AxisGraph) -> list[str]:
    """Append a pooling or a padding."""
    rank = len(g.shape) - 2
    if rank < 1:
        return []
    kind = g.rng.random()
    if kind < 0.3:
        return g.add("GlobalAveragePool", [g.current])
    if kind < 0.6:
        low = 0 if g.opset < 11 or g.chance() else -1
        pads = [0, 0, *(int(g.rng.integers(low, 2)) for _ in range(rank))] * 2
        if g.opset < 11:
            return g.add("Pad", [g.current], pads=pads)
        return g.add("Pad", [g.current, np.array(pads, np.int64)])
    kernel = [int(g.rng.integers(1, 4)) for _ in range(rank)]
    return g.add(
        "AveragePool",
        [g.current],
        kernel_shape=kernel,
        strides=[int(g.rng.integers(1, 4)) for _ in range(rank)],
        pads=[int(g.rng.integers(0, min(2, k))) for k in kernel] * 2,
        count_include_pad=1,
    )


def fork(g: AxisGraph) -> None:
    """Combine the current value with an earlier one."""
    other = str(g.rng.choice([v for v in g.values if v != g.current]))
    if g.chance(0.6) or not g.shape:
        pair = [other, g.current] if g.chance() else [g.current, other]
        found = g.add(str(g.rng.choice(["Add", "Sub", "Sum"])), pair)
    else:
        found = g.add("Concat", [g.current, other], axis=g.axis(len(g.shape)))
    if found:
        g.current = found[0]


Grower = Callable[[AxisGraph], list[str]]
_GROWERS: list[Grower] = [
    *(matmul, matmul, gemm, gemm, elementwise, elementwise, elementwise, normalization),
    *(convolution, transpose, reshape, reshape, flatten, squeeze, unsqueeze, split, cut),
    *(einsum, pointwise, pool, veil),
]
_OF_NUMBERS: list[Grower] = [elementwise, pointwise, unsqueeze]


def axis_graph(seed: int) -> AxisGraph:
    """Draw a graph of a few nodes."""
    g = AxisGraph(seed)
    wanted = int(g.rng.integers(2, 7))
    for _ in range(60):
        if len(g.nodes) >= wanted:
            break
        g.grow()
    return g


# -- Judging --------------------------------------------------------------------------------


def outcome(g: AxisGraph, source: onnx.ModelProto, rewritten: onnx.ModelProto) -> str:
    """Return the outcome of folding a model at every size: `equal`, `wrong` or `cannot run`.

    The allowed deviation is far above rounding and far below that of a confused axis.
    """
    read = {i.name for i in source.graph.input}
    shapes = {name: shape for name, shape in g.shapes.items() if name in read}
    for x in g.inputs():
        try:
            expected = run(source, {"x": x} | shapes)
        except Exception:  # the model does not accept this size
            continue
        try:
            found = run(rewritten, {"x": x} | shapes)
        except Exception as error:
            return f"cannot run {list(x.shape)}: {' '.join(str(error).split())[:200]}"
        for a, b in zip(expected, found, strict=True):
            if a.shape != b.shape:
                return f"wrong: shape {a.shape}, then {b.shape}"
            if a.dtype != b.dtype:
                return f"wrong: type {a.dtype}, then {b.dtype}"
            a, b = a.astype(np.float64), b.astype(np.float64)
            scale = max(1.0, float(np.max(np.abs(a), initial=0.0)))
            allowed = scale * (0.1 if g.dtype == np.float16 else 1e-3)
            if not np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True):
                return f"wrong: {float(np.max(np.abs(a - b))):.2g} off of {scale:.2g}"
    return "equal"
