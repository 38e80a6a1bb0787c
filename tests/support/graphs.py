"""Random chains of linear nodes, and their results in float64 and in onnxruntime."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_expand.runtimes.reference import Reference

__all__ = [
    "Array",
    "Chain",
    "as_double",
    "chains",
    "compute",
    "doubled",
    "matrix_chains",
    "named",
    "retrained",
    "sized",
]

Array: TypeAlias = npt.NDArray[Any]


def named(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Give names to the nodes of a model, in order."""
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def as_double(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of a model computed in float64, with its constants taken as exact."""
    private = onnx.ModelProto()
    private.CopyFrom(model)
    session = Reference().session(ir.serde.deserialize_model(private))
    return list(session.run(feeds).values())


def compute(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of a model in onnxruntime on the CPU, with graph optimizations off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Its own fusions would be part of the measurement.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(y) for y in session.run(None, dict(feeds))]


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert every float32 input, weight and output of a model to float64."""
    double = copy.deepcopy(model)
    for tensor in double.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*double.graph.input, *double.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return double


def sized(model: onnx.ModelProto, shape: Iterable[int]) -> onnx.ModelProto:
    """Set static extents for the first input of a model."""
    static = copy.deepcopy(model)
    for dim, size in zip(static.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    return static


def retrained(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Replace every weight of a model by other values, as after training.

    Statistics of batch normalizations stay positive, and weights are scaled by fan-in, so that the
    outputs depend on the input and do not overflow.
    """
    rng = np.random.default_rng(seed)
    trained = copy.deepcopy(model)
    variances = {n.input[4] for n in trained.graph.node if n.op_type == "BatchNormalization"}
    for tensor in trained.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size <= 1 or array.dtype.kind != "f":
            continue
        fan_in = int(np.prod(array.shape[1:]))
        new = rng.standard_normal(array.shape) * np.sqrt(2 / fan_in if array.ndim > 1 else 0.3)
        if tensor.name in variances:
            new = rng.uniform(0.5, 2, array.shape)
        tensor.CopyFrom(numpy_helper.from_array(new.astype(array.dtype), tensor.name))
    return trained


# -- Random chains ----------------------------------------------------------------------------


@dataclass
class Chain:
    """A model under construction, whose values follow each other.

    Attributes:
        shape: The shape of the input, None for the batch.
        sizes: The shapes of inputs to test.
        seed: The seed of the weights.
        nodes: The nodes so far.
        weights: The initializers so far.
        outputs: Names of values that are graph outputs.
        overridable: Names of initializers that are also graph inputs.
    """

    shape: list[int | str]
    sizes: list[tuple[int, ...]]
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    overridable: list[str] = field(default_factory=list)
    value: str = "x"

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def weight(self, *shape: int, positive: bool = False) -> str:
        """Add an initializer of normal values scaled by fan-in, or of positive uniform ones."""
        name = f"w{len(self.weights)}"
        if positive:
            array = self._rng.uniform(0.5, 2, shape)
        else:
            fan_in = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 1
            array = self._rng.standard_normal(shape) / np.sqrt(fan_in)
        self.weights[name] = array.astype(np.float32)
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> None:
        """Append a node whose output becomes the current value."""
        output = f"v{len(self.nodes)}"
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        self.value = output

    def branch(self, *, activation: bool) -> None:
        """Add another consumer of the current value: a Relu, or the caller."""
        if activation:
            side = f"side{len(self.nodes)}"
            self.nodes.append(helper.make_node("Relu", [self.value], [side], f"n.{side}"))
            self.outputs.append(side)
        elif self.nodes and self.value not in self.outputs:
            self.outputs.append(self.value)

    def model(self) -> onnx.ModelProto:
        """Return the model, checked in full."""
        if not self.nodes:
            self.add("Identity", self.value)
        names = dict.fromkeys([*self.outputs, self.value])
        unknown = [None] * len(self.shape)
        outputs = [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, unknown) for n in names
        ]
        inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, self.shape)]
        inputs += [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, self.weights[n].shape)
            for n in dict.fromkeys(self.overridable)
        ]
        constants = [numpy_helper.from_array(array, n) for n, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "chain", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self) -> list[dict[str, Array]]:
        """Return an input of every size."""
        return [{"x": self._rng.standard_normal(size).astype(np.float32)} for size in self.sizes]


_POINTWISE = ("BatchNormalization", "Mul", "Add", "Sub", "Div", "scalar", "Neg", "Identity")


def _add_pointwise(draw: st.DrawFn, chain: Chain, channels: int, trailing: int) -> None:
    """Append a per-channel map; `trailing` axes follow the channels."""
    op = draw(st.sampled_from(_POINTWISE))
    if op in {"Neg", "Identity"}:
        chain.add(op, chain.value)
    elif op == "scalar":
        constant = chain.weight(positive=True)
        chain.weights[constant] = chain.weights[constant].reshape(draw(st.sampled_from(_ONES)))
        inputs = [chain.value, constant]
        kind = draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
        turned = kind != "Div" and draw(st.booleans())
        chain.add(kind, *(inputs[::-1] if turned else inputs))
    elif op == "BatchNormalization":
        parts = [chain.weight(channels, positive=p) for p in (True, False, False, True)]
        chain.add(op, chain.value, *parts, epsilon=0.01)
    else:
        shape = (channels, *(1,) * trailing)
        constant = chain.weight(*shape, positive=op in {"Mul", "Div"})
        inputs = [chain.value, constant]
        turned = op != "Div" and draw(st.booleans())
        chain.add(op, *(inputs[::-1] if turned else inputs))


_ONES: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1))


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Draw convolutions and pointwise maps in one or two dimensions, with activations."""
    rank = draw(st.sampled_from([1, 2, 2]))
    channels = draw(st.sampled_from([2, 3, 4]))
    sizes = [
        (2, channels, *extents[:rank]) for extents in draw(st.sampled_from([_ODD, _ODD[::-1]]))
    ]
    dynamic = draw(st.booleans())
    extents: list[int | str] = [*"HW"[:rank]] if dynamic else [*sizes[0][2:]]
    if not dynamic:
        sizes = sizes[:1]
    chain = Chain(["N", channels, *extents], sizes, draw(st.integers(0, 2**32 - 1)))
    left = [list(size[2:]) for size in sizes]
    for _ in range(draw(st.integers(2, 6))):
        kind = draw(st.sampled_from(["conv"] * 5 + ["pointwise"] * 4 + ["Relu"]))
        if kind == "Relu":
            chain.add("Relu", chain.value)
        elif kind == "pointwise":
            _add_pointwise(draw, chain, channels, rank)
        else:
            channels = _add_conv(draw, chain, channels, rank, left)
        fate = draw(st.sampled_from(["alone"] * 8 + ["output", "read twice"]))
        if fate != "alone":
            chain.branch(activation=fate == "read twice")
    return chain


_ODD = ((13, 16), (18, 11))


def _add_conv(
    draw: st.DrawFn, chain: Chain, channels: int, rank: int, left: list[list[int]]
) -> int:
    """Append a convolution whose windows fit at every size; return its output channels."""
    n = draw(st.sampled_from([2, 3, 4, 6]))
    group = draw(st.sampled_from([g for g in (1, 1, 2, 3, 4) if not (n % g or channels % g)]))
    kernel = draw(st.sampled_from([1, 1, 2, 3, 3]))
    kernels = [kernel] * rank
    strides = [draw(st.sampled_from([1, 1, 1, 2])) for _ in range(rank)]
    dilations = [draw(st.sampled_from([1, 1, 2]))] * rank
    pads = [draw(st.sampled_from([0, 0, 1, 1, 2])) for _ in range(2 * rank)]
    if draw(st.sampled_from(["padded", "bare"])) == "bare":
        pads = [0] * 2 * rank
    after = []
    for extents in left:
        after.append(
            [
                (size + pads[i] + pads[i + rank] - (kernel - 1) * dilations[i] - 1) // strides[i]
                + 1
                for i, size in enumerate(extents)
            ]
        )
    if min(itertools.chain(*after)) < 1:
        return channels
    left[:] = after
    shape = (n, channels // group, *kernels)
    twins = [name for name, w in chain.weights.items() if w.shape == shape]
    shared, biased = draw(st.tuples(st.booleans(), st.booleans()))
    weight = draw(st.sampled_from(twins)) if twins and shared else chain.weight(*shape)
    bias = [chain.weight(n)] if biased else []
    if draw(st.integers(0, 9)) == 0:
        chain.overridable.append(draw(st.sampled_from([weight, *bias])))
    chain.add(
        "Conv",
        chain.value,
        weight,
        *bias,
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
    )
    return n


@st.composite
def matrix_chains(draw: st.DrawFn) -> Chain:
    """Draw Gemm, MatMul and pointwise maps of rank 2 and 3, with activations between them."""
    rank = draw(st.sampled_from([2, 3]))
    sizes = [(size, *[5] * (rank - 2), 4) for size in (1, 3)]
    rows, channels = 5, 4
    chain = Chain(["N", *sizes[0][1:]], sizes, draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(2, 6))):
        kind = draw(st.sampled_from(["matrix"] * 5 + ["pointwise"] * 3 + ["Relu"]))
        n = draw(st.sampled_from([1, 2, 3, 4, 6]))
        if kind == "Relu":
            chain.add("Relu", chain.value)
        elif kind == "pointwise" and rank == 2:
            _add_pointwise(draw, chain, channels, 0)
        elif kind == "pointwise":
            # Batch normalization has its channels on axis 1, and so does `x * [rows, 1]`.
            _add_pointwise(draw, chain, rows, 1)
        elif rank == 2 and draw(st.booleans()):
            transposed = draw(st.integers(0, 1))
            weight = chain.weight(*((n, channels) if transposed else (channels, n)))
            shape = draw(st.sampled_from([(), (1,), (n,), (1, n), (1, 1), None]))
            bias = [] if shape is None else [chain.weight(*shape)]
            alpha, beta = draw(st.sampled_from([(1.0, 1.0), (0.5, 2.0), (-2.0, 0.25)]))
            chain.add(
                "Gemm", chain.value, weight, *bias, alpha=alpha, beta=beta, transB=transposed
            )
            channels = n
        elif rank == 3 and draw(st.integers(0, 2)) == 0:
            chain.add("MatMul", chain.weight(n, rows), chain.value)
            rows = n
        else:
            ones = (1,) * draw(st.integers(0, rank - 2))
            chain.add("MatMul", chain.value, chain.weight(*ones, channels, n))
            channels = n
            if draw(st.booleans()):
                # A row of constants after a matrix product is its bias.
                chain.add("Add", chain.value, chain.weight(n))
        fate = draw(st.sampled_from(["alone"] * 8 + ["output", "read twice"]))
        if fate != "alone":
            chain.branch(activation=fate == "read twice")
    return chain
