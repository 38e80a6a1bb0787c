"""Ops that fold also compose, by the same lift."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from onnx_expand.experiment import TrainOptions
from onnx_expand.experiment.training.products import Penalty
from onnx_expand.train import OnnxModule, to_torch
from onnx_expand.train.composed import chains_of, composed, plans_of
from tests.support import table
from tests.support.chains import EXACT, Graph, assert_equal
from tests.support.torch_graphs import parse

# Ops that fold but are not composed, and why.
NODES = {
    "BatchNormalization": "it is not linear in training",
    "Dropout": "it is random in training",
    "Identity": "there is nothing to compose",
    "LeakyRelu (alpha 1)": "there is nothing to compose",
    "GlobalAveragePool": "it depends on the extents of the image",
    "ReduceMean": "it depends on the extents of the image",
    "Expand": "it depends on the extents of the image",
    "DepthToSpace": "it moves channels to positions",
    "Split": "its parts are put together again, not added",
    "Concat": "its branches are put side by side, not added",
    "Transpose": "it changes the layout",
    "Reshape": "it changes the layout",
}


@pytest.mark.parametrize("op", table.OPS)
@pytest.mark.parametrize("opset", [13, table.NEWEST])
@pytest.mark.filterwarnings("ignore:.*running statistics are one tensor")
def test_ops_that_fold_compose(op: str, opset: int) -> None:
    """Each op and the layer behind it are one map, with equal outputs and gradients."""
    model = table.build(op, "double", opset)
    if model is None:
        pytest.skip("ONNX has no such op")
    assert table.classify(op, "double", opset)[0] == "folds"
    module = to_torch(model, execution="layerwise")
    plans = plans_of(composed(module, "composed"), torch.zeros(table.OPS[op].shape).double())
    if op in NODES:
        assert not plans
        return
    x = torch.randn(table.OPS[op].shape, generator=torch.Generator().manual_seed(0)).double()
    (chain,) = chains_of(module)
    assert len(chain) == 2
    assert (0, 1) in chain.spans
    assert_equal(module, composed(module, "composed"), x)
    assert_equal(module, composed(module, "auto"), x)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_follows_the_image_composes(auto_pad: str) -> None:
    """A strided convolution with auto_pad and a pointwise one are one layer for any image."""
    g = Graph("N", 4, "H", "W")
    y = g.add("Conv", "x", g.random("w", 4, 4, 1, 1))
    v = g.random("v", 4, 1, 3, 3)
    module = g.module(g.add("Conv", y, v, auto_pad=auto_pad, strides=[2, 2], group=4))
    run = composed(module, "composed")
    for size in (7, 8):
        x = torch.randn(2, 4, size, size + 3, dtype=torch.float64)
        (plan,) = plans_of(run, x).values()
        assert [piece.whole for piece in plan.pieces] == [True]
        assert_equal(module, run, x)


def test_constants_on_either_side() -> None:
    """A constant minus the value, a left weight, and several constants in one Sum compose."""
    g = Graph("N", 5, 6)
    x = g.add("MatMul", g.random("a", 8, 5), "x")
    x = g.add("MatMul", g.random("b", 3, 8), x)
    x = g.add("Sub", g.random("c", 3, 1), x)
    x = g.add("Sum", g.random("d", 3, 1), x, g.random("e", 1))
    module = g.module(x)
    (chain,) = chains_of(module)
    assert len(chain) == 4
    image = torch.randn(2, 5, 6, dtype=torch.float64)
    (plan,) = plans_of(composed(module, "composed"), image).values()
    assert [piece.whole for piece in plan.pieces] == [True]
    assert_equal(module, composed(module, "composed"), image)


def test_a_subtracted_infinity_stays_one() -> None:
    """The weight of constant - x is -1 even for an infinite constant."""
    from onnx_expand.lift.channels import _reversed

    for like in (torch.tensor, np.array):
        weight, _ = _reversed(like([np.inf, 0.0, -2.0]))
        assert np.array_equal(weight, [-1.0, -1.0, -1.0])


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER"])
def test_images_of_other_sizes_than_the_model_states(auto_pad: str) -> None:
    """Maps that depend on declared extents are not stored as kernels."""
    pads = "pads = [1, 1, 1, 1]" if auto_pad == "NOTSET" else 'auto_pad = "SAME_UPPER"'
    model = parse(
        f"a = Conv<strides = [2, 2], {pads}>(x, w) b = Conv(a, v)"
        "c = Slice(b, one, end, axes) d = Conv(c, v) e = GlobalAveragePool(d) y = Conv(e, v)",
        "(double[1, 4, 7, 7] x) => (double[] y)",
        "int64[2] one = {1, 0}, int64[2] end = {-1, 3}, int64[2] axes = {2, 3}",
    )
    rng = np.random.default_rng(0)
    for name, kernel in (("w", 3), ("v", 1)):
        weight = rng.standard_normal((4, 4, kernel, kernel))
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    module = to_torch(model, execution="layerwise")
    run = composed(module, "composed")
    assert len(chains_of(run)) == 1
    for size in (7, 8, 12):
        x = torch.randn(2, 4, size, size, dtype=torch.float64)
        assert_equal(module, run, x)


def test_pools_are_run_as_pools_where_that_is_cheaper() -> None:
    """A map without weights runs separately at no cost, even if composition is requested."""
    g = Graph("N", 4, "H", "W")
    x = g.add("AveragePool", "x", kernel_shape=[5, 5])
    x = g.add("Conv", x, g.random("w", 4, 4, 1, 1))
    module = g.module(x)
    image = torch.zeros(2, 4, 32, 32, dtype=torch.float64)
    for way in ("auto", "composed"):
        (plan,) = plans_of(composed(module, way), image).values()
        assert [piece.whole for piece in plan.pieces] == [False, False]
    g = Graph("N", 16, "H", "W")
    x = g.add("Conv", "x", g.random("w", 16, 16, 3, 3))
    x = g.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    module = g.module(x)
    image = torch.zeros(8, 16, 33, 33, dtype=torch.float64)
    run = composed(module, "auto")
    (plan,) = plans_of(run, image).values()
    assert [piece.whole for piece in plan.pieces] == [True]
    assert plan.products < plan.apart / 2
    assert_equal(module, run, torch.randn(2, 16, 9, 9, dtype=torch.float64))


def test_kernels_without_weights_follow_the_module() -> None:
    """They are converted and copied with the module, but are not in its state."""
    g = Graph("N", 4, "H", "W")
    x = g.add("Conv", "x", g.random("w", 4, 4, 1, 1))
    x = g.add("AveragePool", x, kernel_shape=[3, 3])
    x = g.add("Neg", x)
    module = to_torch(g.model(x))
    assert list(module.state_dict()) == ["w"]
    image = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    for other in (copy.deepcopy(module), module.float().double()):
        layers = composed(other, "layerwise")
        assert isinstance(layers, OnnxModule)
        assert_equal(layers, composed(other, "composed"), image)
    short = composed(module.bfloat16(), "composed")(image.bfloat16())
    assert short.dtype is torch.bfloat16


def test_layers_around_pools_decay_by_themselves() -> None:
    """Weight decay applies to the compact layer's weight, without the pool behind it."""
    g = Graph("N", 4, "H", "W")
    x = g.add("Conv", "x", g.random("a", 8, 4, 1, 1))
    x = g.add("Conv", x, g.random("b", 4, 8, 3, 3))
    x = g.add("AveragePool", x, kernel_shape=[2, 2])
    module = to_torch(g.model(g.add("Conv", x, g.random("c", 4, 4, 1, 1))))
    (chain,) = chains_of(module)
    assert len(chain) == 4
    penalty = Penalty.of(module, TrainOptions(weight_decay=2.0, decay="product"))
    assert penalty is not None
    a, b = (module.get_parameter(name).detach() for name in "ab")
    product = torch.einsum("nphw,pm->nmhw", b, a[..., 0, 0])
    assert float(penalty().detach()) == pytest.approx(float(product.square().sum()), rel=1e-12)
    assert {id(p) for p in penalty.covered} == {id(module.get_parameter(n)) for n in "ab"}


def test_weights_in_constant_nodes_and_in_front() -> None:
    """Constants of nodes count like initializers; a scale may begin a chain."""
    model = parse(
        "s = Constant<value = double[4, 1, 1] {1.0, -2.0, 3.0, 0.5}>() t = Constant"
        "<value_float = 0.25>() a = Mul(x, s) b = Conv(a, w) y = Neg(b)",
        "(double[n, 4, h, w] x) => (double[n, 4, h, w] y)",
    )
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    module = to_torch(model, execution="layerwise")
    (chain,) = chains_of(module)
    assert len(chain) == 3
    image = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    run = composed(module, "composed")
    (plan,) = plans_of(run, image).values()
    assert plan.pieces[0].whole
    assert_equal(module, run, image)
    y = run(image).detach()
    scale = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64).reshape(1, 4, 1, 1)
    expected = -torch.nn.functional.conv2d(image * scale, torch.from_numpy(weight))
    assert float((y - expected).abs().max()) <= EXACT * float(expected.abs().max())


def test_factors_of_sizes_stay_numbers() -> None:
    """Arithmetic on extents is computed in Python, although it looks linear."""
    model = parse(
        "s = Shape<start = 2>(x) f = Cast<to = 11>(s) a = Mul(f, two) b = Add(a, half)"
        "i = Cast<to = 7>(b) c = Cast<to = 11>(i) p = ReduceProd<keepdims = 0>(c) y = Mul(x, p)",
        "(double[n, c, h, w] x) => (double[n, c, h, w] y)",
        "double[2] two = {2.0, 2.0}, double[2] half = {0.5, 0.5}",
    )
    module = to_torch(model)
    assert not chains_of(module)
    x = torch.ones(1, 1, 3, 4, dtype=torch.float64)
    assert float(module(x).max()) == 6 * 8
