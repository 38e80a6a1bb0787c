"""Lifted nodes: each map computes the same as ONNX's reference evaluator does for its node."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import Linear, lift
from onnx_expand.passes.snapshot import Snapshot
from tests.support.graphs import Array
from tests.support.graphs_text import graph
from tests.support.lifting import acts_as_its_node, lifted, normal, one_node
from tests.support.random_models import KINDS, random_model

# -- Conv ------------------------------------------------------------------------------------

CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "1-D": ((2, 4, 9), (6, 4, 3), ""),
    "1-D, all": ((2, 4, 11), (6, 2, 3), "<strides=[2], pads=[2,1], dilations=[2], group=2>"),
    "2-D": ((2, 4, 7, 8), (6, 4, 3, 2), ""),
    "2-D, all": (
        (2, 4, 9, 8),
        (6, 2, 3, 2),
        "<strides=[2,1], pads=[1,0,2,1], dilations=[1,3], group=2, kernel_shape=[3,2]>",
    ),
    "depthwise": ((2, 4, 7, 8), (8, 1, 3, 3), "<group=4, pads=[1,1,1,1]>"),
    "1x1": ((2, 4, 5, 5), (3, 4, 1, 1), "<strides=[2,2]>"),
    "3-D": ((1, 3, 5, 4, 6), (2, 3, 2, 3, 2), "<strides=[1,1,2], pads=[1,0,1,0,1,0]>"),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str, bias: bool) -> None:
    """Conv of any rank, with every attribute, with and without bias."""
    extents, weight, attributes = CONVS[name]
    constants = {"w": normal(*weight)} | ({"b": normal(weight[0])} if bias else {})
    x, inputs = normal(*extents, seed=1), ", ".join(["x", *constants])
    linear = acts_as_its_node(one_node(f"y = Conv{attributes}({inputs})", x, **constants), x)
    assert linear.geometry.bias is bias


@pytest.mark.parametrize("auto_pad", ["VALID", "SAME_UPPER", "SAME_LOWER", "NOTSET"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 9), (6, 5)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_conv_auto_pad(auto_pad: str, stride: int, height: int, width: int, kernel: int) -> None:
    """auto_pad is resolved for odd and even extents, kernels and strides."""
    x, w = normal(2, 3, height, width), normal(2, 3, kernel, 3)
    text = f'y = Conv<auto_pad="{auto_pad}", strides=[{stride},{stride}]>(x, w)'
    acts_as_its_node(one_node(text, x, w=w), x)


# -- Gemm and MatMul ---------------------------------------------------------------------------

BIASES: tuple[tuple[int, ...] | None, ...] = (None, (), (1,), (1, 1), (-1,), (1, -1))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("alpha_beta", [(1.0, 1.0), (0.5, -2.0)])
@pytest.mark.parametrize(("trans_a", "trans_b"), list(itertools.product([0, 1], [0, 1])))
@pytest.mark.parametrize("left", [False, True])
def test_gemm(
    left: bool,
    trans_a: int,
    trans_b: int,
    alpha_beta: tuple[float, float],
    bias: tuple[int, ...] | None,
) -> None:
    """Gemm with its weight on either side, transposed or not, scaled, and any bias of channels."""
    m, n, others = 3, 4, 5
    if left:  # [n, m] x [m, others]: the channels of y are its rows
        w = normal(m, n) if trans_a else normal(n, m)
        x = normal(others, m) if trans_b else normal(m, others)
        bias = (-1, 1) if bias in {(-1,), (1, -1)} else bias
    else:
        w = normal(n, m) if trans_b else normal(m, n)
        x = normal(m, others) if trans_a else normal(others, m)
    constants = {"w": w}
    if bias is not None:
        constants["c"] = normal(*(n if size == -1 else size for size in bias))
    operands = ["w", "x"] if left else ["x", "w"]
    operands += ["c"] if "c" in constants else []
    alpha, beta = alpha_beta
    text = (
        f"y = Gemm<alpha={alpha}, beta={beta}, transA={trans_a}, transB={trans_b}>"
        f"({', '.join(operands)})"
    )
    acts_as_its_node(one_node(text, x, **constants), x)


@pytest.mark.parametrize(
    ("rank", "left"), [(1, False), *itertools.product([2, 3, 4], [False, True])]
)
def test_matmul(rank: int, left: bool) -> None:
    """MatMul with a constant on either side, for inputs of rank 1 to 4."""
    x = normal(*(2, 3, 5, 6)[4 - rank :])
    w = normal(4, x.shape[-2]) if left else normal(x.shape[-1], 4)
    text = "y = MatMul(w, x)" if left else "y = MatMul(x, w)"
    acts_as_its_node(one_node(text, x, w=w), x)


def test_matmul_with_leading_ones() -> None:
    """A weight of shape [1, m, n] is one matrix where x has the axes for it."""
    x = normal(2, 5, 3)
    acts_as_its_node(one_node("y = MatMul(x, w)", x, w=normal(1, 3, 4)), x)


# -- Pointwise -------------------------------------------------------------------------------


@pytest.mark.parametrize("extents", [(3, 4), (3, 4, 5), (3, 4, 5, 6)])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_batch_normalization(extents: tuple[int, ...], epsilon: float) -> None:
    """Batch normalization in inference form, with its own epsilon."""
    x, c = normal(*extents), 4
    model = one_node(
        f"y = BatchNormalization<epsilon={epsilon}>(x, s, b, m, v)",
        x,
        s=normal(c),
        b=normal(c, seed=1),
        m=normal(c, seed=2),
        v=np.abs(normal(c, seed=3)),
    )
    acts_as_its_node(model, x)


@pytest.mark.parametrize("op", ["Identity", "Neg"])
def test_unary(op: str) -> None:
    """Identity and Neg treat all channels alike, whatever the rank."""
    for extents in ((3,), (2, 3), (2, 3, 4, 5)):
        x = normal(*extents)
        assert acts_as_its_node(one_node(f"y = {op}(x)", x), x).axes is not None


@pytest.mark.parametrize(
    ("op", "first"), [("Div", False), *itertools.product(["Add", "Sub", "Mul"], [False, True])]
)
@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1, 1), (4, 1, 1), (1, 4, 1, 1), (5, 1), (6,), (1, 1, 1, 6)]
)
def test_arithmetic(op: str, first: bool, shape: tuple[int, ...]) -> None:
    """A constant operand on either side, a scalar or varying along any one axis."""
    x, c = normal(3, 4, 5, 6), np.abs(normal(*shape)) + 0.5
    text = f"y = {op}({'c, x' if first else 'x, c'})"
    acts_as_its_node(one_node(text, x, c=c), x)


# -- Refusals --------------------------------------------------------------------------------

X = "double[N,4,6,6] x"
Y = "double[A,B,C,D] y"
NAN, INFINITY = np.full((4, 4, 1, 1), np.nan), np.full((4, 4, 1, 1), np.inf)
STATISTICS = {"s": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4))}
ROW = {"w": normal(4, 3), "c": normal(2, 3)}

REFUSED: dict[str, tuple[str, dict[str, Any], Reason]] = {
    "overridable weight": (
        f"g ({X}, double[4,4,1,1] w) => ({Y}) {{ y = Conv(x, w) }}",
        {"w": normal(4, 4, 1, 1)},
        Reason.OVERRIDABLE,
    ),
    "overridable bias": (
        f"g ({X}, double[4] b) => ({Y}) {{ y = Conv(x, w, b) }}",
        {"w": normal(4, 4, 1, 1), "b": normal(4)},
        Reason.OVERRIDABLE,
    ),
    "weight from the caller": (
        f"g ({X}, double[4,4,1,1] w) => ({Y}) {{ y = Conv(x, w) }}",
        {},
        Reason.DYNAMIC,
    ),
    "computed weight": (
        f"g ({X}, double[4,4,1,1] v) => ({Y}) {{ w = Relu(v) y = Conv(x, w) }}",
        {},
        Reason.DYNAMIC,
    ),
    "NaN, found with the numbers": (
        f"g ({X}) => ({Y}) {{ y = Mul(x, c) }}",
        {"c": np.array(np.nan)},
        Reason.NON_FINITE,
    ),
    "infinite statistics": (
        f"g ({X}) => ({Y}) {{ y = BatchNormalization(x, s, b, m, v) }}",
        STATISTICS | {"m": np.full(4, np.inf)},
        Reason.NON_FINITE,
    ),
    "negative variance": (
        f"g ({X}) => ({Y}) {{ y = BatchNormalization(x, s, b, m, v) }}",
        STATISTICS | {"v": np.full(4, -1.0)},
        Reason.UNSUPPORTED,
    ),
    "training mode": (
        f"g ({X}) => ({Y}, double[4] n, double[4] o) "
        "{ y, n, o = BatchNormalization<training_mode=1>(x, s, b, m, v) }",
        STATISTICS,
        Reason.UNSUPPORTED,
    ),
    "higher rank": (
        "g (double[N,4] x) => (double[1,N,4] y) { y = Add(x, c) }",
        {"c": normal(1, 1, 4)},
        Reason.UNSUPPORTED,
    ),
    "broadcast of an unknown extent": (
        "g (double[N,C,6,6] x) => (double[N,D,6,6] y) { y = Mul(x, c) }",
        {"c": normal(4, 1, 1)},
        Reason.UNKNOWN_SHAPE,
    ),
    "several axes": (
        f"g ({X}) => ({Y}) {{ y = Mul(x, c) }}",
        {"c": normal(6, 6)},
        Reason.UNSUPPORTED,
    ),
    "C varies by row": (
        "g (double[2,4] x) => (double[2,3] y) { y = Gemm(x, w, c) }",
        ROW,
        Reason.UNSUPPORTED,
    ),
    "C varies by column": (
        "g (double[4,3] x) => (double[2,3] y) { y = Gemm(w, x, c) }",
        {"w": normal(2, 4), "c": normal(3)},
        Reason.UNSUPPORTED,
    ),
    "batch of matrices": (
        "g (double[2,3,4] x) => (double[2,3,5] y) { y = MatMul(x, w) }",
        {"w": normal(2, 4, 5)},
        Reason.UNSUPPORTED,
    ),
    "a matrix that adds an axis": (
        "g (double[3,4] x) => (double[1,3,5] y) { y = MatMul(x, w) }",
        {"w": normal(1, 4, 5)},
        Reason.UNSUPPORTED,
    ),
    "division by zero": (
        f"g ({X}) => ({Y}) {{ y = Div(x, c) }}",
        {"c": np.array([1.0, 0, 1, 1]).reshape(4, 1, 1)},
        Reason.UNSUPPORTED,
    ),
    "pads that auto_pad makes void": (
        f'g ({X}) => ({Y}) {{ y = AveragePool<auto_pad="VALID", '
        "kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }",
        {},
        Reason.UNSUPPORTED,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    """A node of a linear op that is not linear, or not known to be, is refused with the reason."""
    text, constants, reason = REFUSED[name]
    refusal = lifted(graph(text, constants))
    assert isinstance(refusal, Refusal), refusal
    assert refusal.reason is reason
    assert refusal.message


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("y = Div(c, x)", {"c": np.array(2.0)}),
        ("y = Mul(x, x)", {}),
        ("y = Relu(x)", {}),
    ],
)
def test_nonlinear_nodes_are_none(text: str, constants: dict[str, Any]) -> None:
    """Nodes that are not linear with any attributes return None, not a refusal."""
    assert lifted(one_node(text, normal(2, 4, 6, 6), **constants)) is None


def test_statistics_outputs_are_refused() -> None:
    """In old opsets, a BatchNormalization with statistics as outputs is in training mode."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 9]> g (float[N,4] x, float[4] s, float[4] b, '
        "float[4] m, float[4] v) => (float[N,4] y, float[4] p) "
        "{ y, p = BatchNormalization(x, s, b, m, v) }"
    )
    del model.graph.input[1:]
    for name in "sbmv":
        tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), name)
        model.graph.initializer.append(tensor)
    refusal = lifted(model)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("weight", [NAN, INFINITY])
def test_weights_that_are_not_finite_are_found_when_loaded(weight: Array) -> None:
    """A convolution's weight is read only when loaded, and NaN is refused then."""
    model = one_node("y = Conv(x, w)", normal(2, 4, 5, 5), w=weight)
    linear = lifted(model)
    assert isinstance(linear, Linear)
    with pytest.raises(RefusedError) as caught:
        linear.load()
    assert caught.value.refusal.reason is Reason.NON_FINITE


def test_broadcasting_of_old_operators_is_refused() -> None:
    """Before opset 7, Add aligns its constant with an axis that an attribute names."""
    model = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["" : 6]> g (float[1,4,4,4] x, float[4] c) '
        "=> (float[1,4,4,4] y) { y = Add<axis=1, broadcast=1>(x, c) }"
    )
    del model.graph.input[1]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "c"))
    found = lifted(model)
    assert not isinstance(found, Linear) or found.axes == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_lifting_changes_nothing(kind: str) -> None:
    """Lifting changes neither the model nor the facts about it."""
    for seed in range(12):
        model = ir.from_proto(random_model(seed, kind))
        facts = Facts(model)
        nodes = [node for graph in model.graphs() for node in graph]
        values = [v for n in nodes for v in (*n.inputs, *n.outputs) if v is not None]
        before = [(facts.named_shape(value), facts.dtype(value)) for value in values]
        said = Snapshot.of(model)
        for node in nodes:
            lift(node, facts)
        assert [(facts.named_shape(value), facts.dtype(value)) for value in values] == before
        assert Snapshot.of(model) == said
