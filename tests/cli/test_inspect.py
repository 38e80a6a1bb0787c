"""Inspect reproduces the published figures, and says what it cannot know."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnx_expand
from models import mobilenetv2, smallnet
from tests.support.graphs_text import bn, graph, weights

# Table 6 of the ExpandNets paper: strategy, rate, parameters, products, products and elementwise.
TABLE_6 = [
    ("fc", 2, 339_402, 6.23, 6.30),
    ("fc", 4, 675_914, 6.56, 6.64),
    ("fc", 8, 1_742_154, 7.63, 7.70),
    ("cl", 2, 562_954, 25.02, 25.16),
    ("cl", 4, 2_171_554, 98.19, 98.39),
    ("cl", 8, 8_578_066, 389.04, 389.35),
    ("ck", 2, 237_722, 14.24, 14.38),
    ("ck", 4, 653_250, 42.44, 42.64),
    ("ck", 8, 2_070_098, 140.77, 141.10),
]
TABLE_9 = {0.25: 37_912, 0.5: 42_810, 0.75: 48_428, 1: 54_766, 2: 87_318, 4: 186_982}


def millions(count: int | None) -> float:
    """A count in millions, rounded as the paper prints it."""
    assert count is not None
    return round(count / 1e6, 2)


def test_the_compact_networks() -> None:
    """SmallNet has the parameters and products that the paper gives for it."""
    figures = onnx_expand.inspect(smallnet.build(stages=4))
    assert figures.parameters == 150_346
    assert millions(figures.macs) == 6.04
    assert millions(figures.macs_with_elementwise) == 6.11
    assert onnx_expand.inspect(smallnet.build()).parameters == 66_186


@pytest.mark.parametrize(("strategy", "rate", "parameters", "products", "all_macs"), TABLE_6)
def test_table_6(
    strategy: str, rate: int, parameters: int, products: float, all_macs: float
) -> None:
    """Expanded SmallNets have Table 6's parameters and multiply-accumulates, to the last digit."""
    expanded = onnx_expand.expand(
        smallnet.build(stages=4),
        strategy=strategy,
        rate=rate,
        first_width="expand",
        # The paper expands fc1 alone of the two dense layers.
        exclude="fc2",
    )
    figures = onnx_expand.inspect(expanded)
    assert figures.parameters == parameters
    assert millions(figures.macs) == products
    assert millions(figures.macs_with_elementwise) == all_macs


@pytest.mark.parametrize("rate", TABLE_9)
def test_table_9(rate: float) -> None:
    """CK at rates from 1/4 to 4, with the image's three channels kept, has Table 9's counts."""
    expanded = onnx_expand.expand(smallnet.build(), strategy="ck", rate=rate)
    assert onnx_expand.inspect(expanded).parameters == TABLE_9[rate]


def test_mobilenet() -> None:
    """MobileNetV2's published parameters are counted: no running statistics, no bounds."""
    figures = onnx_expand.inspect(mobilenetv2.build())
    assert figures.parameters == 3_504_872
    assert millions(figures.macs) == 300.77
    assert figures.ops["Clip"] == 35


def test_a_dynamic_image_has_no_count() -> None:
    """Without height and width the products are unknown, and the nodes at fault are named."""
    model = graph(
        "g (float[N,3,H,W] x) => (float[M,C,P,Q] y) { a = Conv(x, w) b = Relu(a) y = Conv(b, v) }",
        weights(w=(4, 3, 3, 3), v=(2, 4, 1, 1)),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    figures = onnx_expand.inspect(model)
    assert figures.macs is None
    assert figures.macs_with_elementwise is None
    assert {"n0", "n2"} <= set(figures.unknown)
    assert figures.parameters == 4 * 27 + 8


@pytest.mark.parametrize("batch", ["N", "1", "5"])
def test_a_dynamic_batch_counts_as_one(batch: str) -> None:
    """A symbolic batch is one sample; a static one is counted as it is."""
    model = graph(
        f"g (float[{batch},3,8,8] x) => (float[{batch},4,6,6] y) {{ y = Conv(x, w) }}",
        weights(w=(4, 3, 3, 3)),
    )
    each = 4 * 27 * 36
    assert onnx_expand.inspect(model).macs == each * (5 if batch == "5" else 1)


PARAMETERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "running statistics": ("y = BatchNormalization(x, p_s, p_b, p_m, p_v)", bn("p", 4), 8),
    "bounds": (
        "y = Clip(x, lo, hi)",
        {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)},
        0,
    ),
    "scalar factor": ("y = Mul(x, k)", {"k": np.array(2, np.float32)}, 0),
    "factor of each channel": ("y = Mul(x, k)", weights(k=(4, 1, 1)), 4),
    "one-channel bias": (
        "a = Conv(x, w, b) y = Add(x, a)",
        weights(w=(1, 4, 1, 1), b=(1,)),
        5,
    ),
    "integers": ("y = Gather<axis=1>(x, i)", {"i": np.array([0, 1, 2, 3])}, 0),
    "shared": (
        "a = Conv(x, w) b = Relu(a) y = Conv(b, w)",
        weights(w=(4, 4, 1, 1)),
        16,
    ),
    "nobody's": ("y = Relu(x)", weights(w=(4, 4, 1, 1)), 0),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_a_parameter(name: str) -> None:
    """Weights that training moves are counted, once, and nothing else is."""
    text, constants, count = PARAMETERS[name]
    model = graph(f"g (float[N,4,6,6] x) => (float[N,C,P,Q] y) {{ {text} }}", constants)
    assert onnx_expand.inspect(model).parameters == count


@pytest.mark.parametrize("name", PARAMETERS)
def test_constant_nodes_hold_parameters_too(name: str) -> None:
    """A weight counts alike as an initializer and in a Constant node."""
    text, constants, count = PARAMETERS[name]
    model = graph(f"g (float[N,4,6,6] x) => (float[N,C,P,Q] y) {{ {text} }}", constants)
    for tensor in reversed(model.graph.initializer):
        node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    assert onnx_expand.inspect(model).parameters == count


def test_matrix_products_are_counted() -> None:
    """Gemm and MatMul count outputs times depth, on either side and transposed."""
    model = graph(
        "g (float[3,4] x) => (float[6,5] y) "
        "{ a = Gemm<transA=1, transB=1>(x, w) b = MatMul(v, a) y = Gemm(u, b) }",
        weights(w=(5, 3), v=(2, 4), u=(6, 2)),
    )
    assert onnx_expand.inspect(model).macs == 4 * 5 * 3 + 2 * 5 * 4 + 6 * 5 * 2


def test_the_figures_are_plain_data() -> None:
    """The figures of a model turn into JSON types, and are the same for any kind of model."""
    model = smallnet.build()
    figures = onnx_expand.inspect(model)
    assert figures.as_dict()["parameters"] == 66_186
    assert figures.linear_nodes == 3 + 3 + 2
    assert figures.nodes == len(model.graph.node)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    assert onnx_expand.inspect(copy) == figures
