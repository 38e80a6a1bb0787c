"""Weight decay and learning rate on the product are those of the compact layer's weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import onnx_expand  # noqa: E402
from onnx_expand.errors import UnsupportedError, UsageError  # noqa: E402
from onnx_expand.experiment import Dataset, TrainOptions, train  # noqa: E402
from onnx_expand.experiment.data.samples import ArraySamples  # noqa: E402
from onnx_expand.experiment.training.products import Penalty, Products, rate_shares  # noqa: E402
from onnx_expand.train import to_torch  # noqa: E402
from tests.support.torch_graphs import images, parse, with_weights  # noqa: E402

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ck": ("Conv<pads=[2, 2, 2, 2]>(x, w)", "ck", {"w": images(4, 4, 5, 5)}),
    "cl": ("Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w)", "cl", {"w": images(6, 4, 3, 3)}),
    "dilated": ("Conv<dilations=[2, 1]>(x, w)", "cl", {"w": images(2, 4, 3, 2)}),
    "depthwise": ("Conv<group=4>(x, w)", "cl", {"w": images(4, 1, 3, 3)}),
    "grouped": ("Conv<group=2>(x, w)", "cl", {"w": images(6, 2, 3, 3)}),
}


def expanded(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a layer expanded in float64, and the layer to which it folds."""
    body, strategy, weights = CASES[name]
    model = parse(f"y = {body}", "(double[n, 4, 12, 12] x) => (double[n, o, a, b] y)")
    model = with_weights(model, **{k: v.astype(np.float64) for k, v in weights.items()})
    big = onnx_expand.expand(model, strategy=strategy, rate=2)
    return big, onnx_expand.fold(big)


@pytest.mark.parametrize("name", CASES)
def test_the_penalty_is_that_of_the_folded_weight(name: str) -> None:
    """The penalty is half the squared norm times the strength, for any geometry."""
    big, small = expanded(name)
    module = to_torch(big)
    options = TrainOptions(weight_decay=0.3, decay="product")
    penalty = Penalty.of(module, options)
    assert penalty is not None
    weight = onnx.numpy_helper.to_array(small.graph.initializer[0])
    assert float(penalty().detach()) == pytest.approx(0.15 * float((weight**2).sum()), rel=1e-10)
    assert {id(p) for p in penalty.covered} == {id(p) for p in module.parameters() if p.ndim > 1}


def test_fully_connected_chains_are_found() -> None:
    """Gemm in either orientation, with a factor, and MatMul; and a layer with a shortcut."""
    model = parse(
        "a = MatMul(x, u) b = Gemm<alpha=2.0>(a, v) c = Gemm<transB=1>(b, w) r = Relu(c)"
        "d = MatMul(r, s) e = MatMul(d, t) y = Add(d, e)",
        "(float[n, 3] x) => (float[n, 4] y)",
    )
    model = with_weights(
        model, u=images(3, 5), v=images(5, 2), w=images(4, 2), s=images(4, 4), t=images(4, 4)
    )
    penalty = Penalty.of(to_torch(model), TrainOptions(weight_decay=2.0, decay="product"))
    assert penalty is not None
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    product = weights[0] @ weights[1] * 2 @ weights[2].T
    around = weights[3] @ (np.eye(4) + weights[4])
    total = float((product**2).sum() + (around**2).sum())
    assert float(penalty().detach()) == pytest.approx(total, rel=1e-5)
    assert len(penalty.covered) == 5


def test_branches_decay_by_their_sum() -> None:
    """The sum of RepVGG's branches decays, as in the compact layer; biases do not."""
    model = parse(
        "a = Conv<pads=[1, 1, 1, 1]>(x, w, b) c = Conv(x, v) y = Sum(a, c, x)",
        "(float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y)",
    )
    model = with_weights(model, w=images(4, 4, 3, 3), v=images(4, 4, 1, 1), b=images(4))
    module = to_torch(model)
    penalty = Penalty.of(module, TrainOptions(weight_decay=2.0, decay="product"))
    assert penalty is not None
    w, v = (module.get_parameter(name).detach().numpy() for name in ("w", "v"))
    w = w.copy()
    w[:, :, 1, 1] += v[:, :, 0, 0] + np.eye(4)
    assert float(penalty().detach()) == pytest.approx(float((w**2).sum()), rel=1e-5)
    assert {id(p) for p in penalty.covered} == {
        id(module.get_parameter(name)) for name in ("w", "v")
    }


def test_a_step_decays_the_product() -> None:
    """Without gradients from data, a step reduces the norm of the product."""
    big, _ = expanded("cl")
    flat = parse(
        "g = GlobalAveragePool(x) y = Flatten(g)", "(double[n, 6, a, b] x) => (double[n, 6] y)"
    )
    model = onnx.compose.merge_models(big, flat, io_map=[("y", "x")], prefix2="head.")
    module = to_torch(model)
    x, y = np.zeros((20, 4, 12, 12), np.float32), np.arange(20) % 6
    data = Dataset(ArraySamples(x, y), ArraySamples(x, y), (), "")
    options = TrainOptions(epochs=1, lr=0.01, batch=10, weight_decay=0.5, decay="product")
    penalty = Penalty.of(module, options)
    assert penalty is not None
    before = penalty().detach()
    train(module, data, options)
    assert float(penalty().detach()) < 0.999 * float(before)
    single = with_weights(
        parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 4, 12, 12] x) => (float[n, 6] y)"),
        g=images(576, 6),
    )
    with pytest.raises(UnsupportedError, match="no two linear layers in a row"):
        train(to_torch(single), data, options)


def moved(products: Products, shares: Mapping[Any, float], seed: int) -> float:
    """Return the mean, over random directions g, of g J J^T g / g g, summed over layers."""
    torch.manual_seed(seed)
    found = []
    for _ in range(300):
        kernel, parameters = next(iter(products.kernels()))
        g = torch.randn_like(kernel)
        gradients = torch.autograd.grad([kernel], parameters, [g], allow_unused=True)
        step = sum(
            shares[p] * float(d.square().sum())
            for p, d in zip(parameters, gradients, strict=True)
            if d is not None
        )
        found.append(step / float(g.square().sum()))
    return float(np.mean(found))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_rates_on_the_product_move_it_as_fast_as_the_compact_layer(
    name: str, scale: float
) -> None:
    """The shares of the layers add up to one, however large the weights are.

    The squared norms are estimated from 2,048 random numbers or more: 10 % is three standard
    deviations.
    """
    big, _ = expanded(name)
    module = to_torch(big)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    shares = rate_shares(module, TrainOptions(lr_on="product"))
    assert {id(p) for p in shares} == {id(p) for p in module.parameters() if p.ndim > 1}
    assert moved(Products.of(module, "lr-on"), shares, 1) == pytest.approx(1, rel=0.1)


def test_one_step_of_a_chain_of_scalars() -> None:
    """In y = b a x, a moves at the rate over 2 b^2, b over 2 a^2; the bias keeps its own rate."""
    model = parse("h = Gemm(x, a) y = Gemm(h, b, c)", "(double[n, 1] x) => (double[n, 1] y)")
    values = {"a": 3.0, "b": -0.5}
    model = with_weights(
        model, **{k: np.full((1, 1), v) for k, v in values.items()}, c=np.zeros(1)
    )
    module = to_torch(model)
    shares = rate_shares(module, TrainOptions(lr_on="product"))
    a, b = module.get_parameter("a"), module.get_parameter("b")
    # The probes vary, but alike for both layers.
    assert set(shares) == {a, b}
    assert shares[a] / shares[b] == pytest.approx(3.0**2 / 0.5**2, rel=1e-12)


def test_rates_on_the_product_are_refused_where_they_mean_nothing() -> None:
    model = with_weights(
        parse("y = Gemm(x, g)", "(float[n, 4] x) => (float[n, 6] y)"), g=images(4, 6)
    )
    with pytest.raises(UnsupportedError, match="lr-on product is for expanded models"):
        rate_shares(to_torch(model), TrainOptions(lr_on="product"))
    with pytest.raises(UsageError, match="lr-on product is for sgd"):
        TrainOptions(lr_on="product", optimizer="adamw")
