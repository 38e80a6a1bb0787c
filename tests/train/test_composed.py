"""Composed execution: chains run as one layer, with the function and gradients of the chain."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import onnx_expand
from models import mobilenet, smallnet
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError
from onnx_expand.train import to_torch
from onnx_expand.train.composed import chains_of, composed, plans_of, summary
from onnx_expand.train.composed.kernels import Numbers, after, work
from tests.support.chains import (
    EXACT,
    FEW,
    Graph,
    acnet,
    assert_equal,
    chain_of,
    chains,
    gradients,
    image_for,
    units,
)
from tests.support.random_graphs import random_graph
from tests.support.strategies import geometries, with_numbers

# -- The algebra ------------------------------------------------------------------------------


@FEW
@given(chains(padded=False))
def test_kernels_in_torch_are_those_of_the_algebra(maps: list[AffineConv]) -> None:
    """The kernel of a chain equals the one that fold computes."""
    merged = compose_chain(maps)
    (chain,) = chains_of(chain_of(maps))
    tensors = dict(chain_of(maps).named_parameters())
    numbers = chain.numbers(tensors)
    assert chain.whole == merged.geometry
    scale = max(1.0, float(np.abs(merged.weight).max()))
    if numbers.weight is not None:
        error = np.abs(numbers.weight.detach().numpy() - merged.weight).max()
        assert error <= EXACT * scale
    bias = np.zeros(len(merged.weight)) if merged.bias is None else merged.bias
    own = np.zeros_like(bias) if numbers.bias is None else numbers.bias.detach().numpy()
    assert np.abs(own - bias).max() <= EXACT * max(1.0, np.abs(bias).max())


@FEW
@given(geometries(rank=2, padded=False), st.data())
def test_work_counts_the_products(f: Geometry, data: st.DataObject) -> None:
    """Work counts the products of the contraction: every weight of g meets a row of f."""
    g = data.draw(geometries(rank=2, in_channels=f.out_channels, padded=False))
    first, second = with_numbers(f, 0), with_numbers(g, 1)
    numbers = [
        Numbers(torch.from_numpy(a.weight), None if a.bias is None else torch.from_numpy(a.bias))
        for a in (first, second)
    ]
    product = after(f, g, *numbers)
    merged = second @ first
    assert product.weight is not None
    np.testing.assert_allclose(product.weight.numpy(), merged.weight, atol=EXACT * 1e2)
    group = math.gcd(f.group, g.group)
    if not (f.is_per_channel or g.is_per_channel) and group in (f.group, g.group):
        fan = f.in_channels // f.group * math.prod(f.kernel)
        assert work(f, g) == math.prod(g.weight_shape) * fan


# -- Same function, same gradients ------------------------------------------------------------


@FEW
@given(chains())
def test_chains_have_the_same_function_and_gradients(maps: list[AffineConv]) -> None:
    """Outputs and gradients agree for any rank, stride, dilation, padding and group."""
    module = chain_of(maps)
    assert_equal(module, composed(module, "composed"), image_for(maps))


@FEW
@given(chains(), st.integers(0, 3))
def test_padding_within_a_chain_is_decided_as_fold_decides(
    maps: list[AffineConv], side: int
) -> None:
    """A later layer that pads is composed exactly if the algebra allows it."""
    rank = maps[0].rank
    if not rank:
        return
    pads = [0] * 2 * rank
    pads[side % (2 * rank)] = 1
    last = maps[-1]
    maps[-1] = AffineConv(
        last.weight, last.bias, last.strides, last.dilations, tuple(pads), last.group
    )
    module = chain_of(maps)
    total: Geometry | Refusal = maps[0].geometry
    for f in maps[1:]:
        total = total if isinstance(total, Refusal) else total.then(f.geometry)
    run = composed(module, "composed")
    assert_equal(module, run, image_for(maps))
    if isinstance(total, Refusal):
        assert any(apart.refusal.reason is Reason.BORDER for apart in module.apart)
        with pytest.raises(RefusedError):
            _left_to_right(maps)
    else:
        (plan,) = plans_of(run, image_for(maps)).values()
        assert len(plan.pieces) == 1


def _left_to_right(maps: Sequence[AffineConv]) -> AffineConv:
    total = maps[0]
    for f in maps[1:]:
        total = f @ total
    return total


@settings(FEW, max_examples=80)
@given(st.integers(0, 10_000), st.integers(3, 14), st.sampled_from(["auto", "composed"]))
@example(128, 10, "auto")  # a branch of matrices only, in a chain of images
def test_any_graph_has_the_same_function_and_gradients(
    seed: int, length: int, execution: str
) -> None:
    """Outputs and gradients agree with forks, joins, extra consumers and inner outputs."""
    module = to_torch(random_graph(seed, length=length, dtype=np.float64), execution="layerwise")
    if not any(p.requires_grad for p in module.parameters()):
        return
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_equal(module, composed(module, execution), x)


@pytest.mark.parametrize("strategy", ["cl", "ck+fc"])
@pytest.mark.parametrize("execution", ["auto", "composed"])
def test_expanded_networks(strategy: str, execution: str) -> None:
    """Expanded networks agree in training mode too, with batch normalization behind each unit."""
    model = onnx_expand.expand(smallnet.build(), strategy=strategy, rate=2)
    module = to_torch(model, execution="layerwise").double()
    module.train()
    start = copy.deepcopy(module.state_dict())
    run = composed(module, execution)
    assert len(units(run)) == (3 if strategy == "cl" else 5)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y1, g1 = gradients(module, x)
    statistics = copy.deepcopy(module.state_dict())
    module.load_state_dict(start)
    y2, g2 = gradients(run, x)
    for one, other in zip((y1, *g1), (y2, *g2), strict=True):
        assert float((one - other).abs().max()) <= EXACT * max(1.0, float(one.abs().max()))
    for key, value in run.state_dict().items():
        torch.testing.assert_close(value, statistics[key], rtol=EXACT, atol=EXACT)


def test_depthwise_units_of_mobilenet() -> None:
    """All fourteen 3x3 convolutions are composed, by group."""
    model = mobilenet.build(size=32, classes=10, width=0.25, stride=1)
    model = onnx_expand.expand(model, strategy="cl", rate=2, kernels="3")
    module = to_torch(model, execution="layerwise").double()
    run = composed(module, "composed")
    assert len(units(run)) == 14
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_equal(module, run, x)


def test_transposed_convolutions_compose_with_pointwise_neighbours() -> None:
    """Pointwise maps before and behind compose, with groups, padding and extension."""
    rng = np.random.default_rng(0)
    for group in (1, 2):
        maps = [
            AffineConv(rng.standard_normal((6, 4 // group, 1, 1)), group=group),
            AffineConv(
                rng.standard_normal((4, 6 // group, 3, 2)), rng.standard_normal(4), (2, 2), (2, 1),
                (1, 0, 0, 1), group, True, (1, 0),
            ),
            AffineConv(rng.standard_normal((2, 4, 1, 1)), rng.standard_normal(2)),
        ]  # fmt: skip
        module = chain_of(maps)
        run = composed(module, "composed")
        (plan,) = plans_of(run, torch.zeros(1, 4, 5, 5, dtype=torch.float64)).values()
        assert [piece.whole for piece in plan.pieces] == [True]
        assert_equal(module, run, torch.randn(2, 4, 5, 6, dtype=torch.float64))


def test_shifts_scales_and_matrices_of_any_rank() -> None:
    """MatMul and Add as torch exports Linear, a scale per feature, alpha and beta compose."""
    g = Graph("N", 7, 5)
    x = g.add("MatMul", "x", g.random("a", 5, 8))
    x = g.add("Add", g.random("b", 8), x)
    x = g.add("Mul", x, g.random("c", 8))
    x = g.add("MatMul", x, g.random("d", 8, 3))
    x = g.add("Sub", x, g.random("e", 3))
    x = g.add("Div", x, g.weight("f", np.array([2.0])))
    module = g.module(x)
    (plan,) = plans_of(composed(module, "composed"), torch.zeros(2, 7, 5).double()).values()
    assert len(plan.pieces) == 1
    assert_equal(module, composed(module, "composed"), torch.randn(2, 7, 5, dtype=torch.float64))
    g = Graph("N", 5)
    x = g.add("Gemm", "x", g.random("a", 5, 8), g.random("b", 1, 8), alpha=0.5, beta=2.0)
    x = g.add("Gemm", x, g.random("c", 3, 8), g.random("d", 1), transB=1, beta=0.0)
    x = g.add("Gemm", x, g.random("e", 3, 4), g.random("f", 1))
    module = g.module(x)
    assert_equal(module, composed(module, "composed"), torch.randn(2, 5, dtype=torch.float64))


# -- Branches ---------------------------------------------------------------------------------


def test_branches_are_one_kernel() -> None:
    """RepVGG and ACNet without normalization compose, with a chain above and below."""
    g = Graph("N", 4, "H", "W")
    x = g.add("Conv", "x", g.random("w0", 6, 4, 1, 1))
    x = acnet(g, x, 6)
    x = g.add("Conv", x, g.random("w9", 2, 6, 1, 1), g.random("b9", 2))
    module = g.module(x)
    assert not module.apart
    image = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    run = composed(module, "composed")
    (plan,) = plans_of(run, image).values()
    assert [piece[:3] for piece in plan.pieces] == [(0, 2, True)]
    assert_equal(module, run, image)
    assert_equal(module, composed(module, "auto"), image)


def test_branches_run_separately_where_cheaper() -> None:
    """For an image of one pixel, adding kernels is not worthwhile."""
    g = Graph("N", 64, "H", "W")
    module = g.module(acnet(g, "x", 64))
    run = composed(module, "auto")
    image = torch.randn(1, 64, 1, 1, dtype=torch.float64)
    (plan,) = plans_of(run, image).values()
    assert not plan.pieces[0].whole
    assert_equal(module, run, image)
    (plan,) = plans_of(run, torch.zeros(8, 64, 32, 32, dtype=torch.float64)).values()
    assert plan.pieces[0].whole


def test_differences_and_means_of_branches() -> None:
    """Sub and Mean weight their branches; dilated and grouped ones are embedded."""
    g = Graph("N", 4, "H", "W")
    a = g.add("Conv", "x", g.random("a", 4, 4, 3, 3), pads=[2] * 4, dilations=[2, 2])
    b = g.add("Conv", "x", g.random("b", 4, 1, 3, 3), g.random("bb", 4), pads=[1] * 4, group=4)
    c = g.add("Sub", a, b)
    d = g.add("Mean", c, "x", "x")
    module = g.module(d)
    run = composed(module, "composed")
    image = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    (plan,) = plans_of(run, image).values()
    assert len(plan.pieces) == 1
    assert_equal(module, run, image)


# -- What stays layer by layer ----------------------------------------------------------------


def test_normalization_in_a_unit_prevents_composition() -> None:
    """Normalizations between layers and in branches are named in the summary."""
    g = Graph("N", 3, "H", "W")
    x = g.add("Conv", "x", g.random("a", 8, 3, 1, 1))
    ones = [g.weight(k, np.ones(8)) for k in "smtv"]
    x = g.add("BatchNormalization", x, *ones)
    x = g.add("Conv", x, g.random("b", 4, 8, 3, 3))
    module = g.module(x)
    assert not chains_of(module)
    (apart,) = module.apart
    assert (apart.first, apart.second) == ("a", "b")
    assert apart.refusal.reason is Reason.ACTIVATION
    assert "batch normalization" in summary(module)
    assert composed(module, "composed") is module

    g = Graph("N", 4, "H", "W")
    module = g.module(acnet(g, "x", 4, norm=True))
    assert not chains_of(module)
    assert "batch normalization stands in the branches" in summary(module)


@pytest.mark.parametrize(("shown", "reason"), [(True, Reason.OUTPUT), (False, Reason.SHARED)])
def test_values_with_other_consumers_are_computed(shown: bool, reason: Reason) -> None:
    """An intermediate value that is an output or has another consumer ends the chain."""
    g = Graph("N", 3, "H", "W")
    x = g.add("Conv", "x", g.random("a", 8, 3, 1, 1))
    y = g.add("Conv", x, g.random("b", 4, 8, 3, 3))
    other = x if shown else g.add("Relu", x)
    module = g.module(y, other)
    assert not chains_of(module)
    assert [a.refusal.reason for a in module.apart] == [reason]


def test_a_trained_zero_bias_counts_as_a_bias() -> None:
    """Fold may merge across padding while the bias is zero; training would change it."""
    g = Graph("N", 3, "H", "W")
    x = g.add("Conv", "x", g.random("a", 8, 3, 1, 1), g.weight("zero", np.zeros(8)))
    x = g.add("Conv", x, g.random("b", 4, 8, 3, 3), pads=[1] * 4)
    model = g.model(x)
    (apart,) = to_torch(model).apart
    assert apart.refusal.reason is Reason.BORDER
    frozen = to_torch(model, freeze="zero")
    assert not frozen.apart
    assert len(chains_of(frozen)) == 1


def test_other_modules_and_wrong_names() -> None:
    """Modules without an ONNX graph are returned unchanged."""
    plain = torch.nn.Linear(2, 2)
    assert composed(plain, "composed") is plain
    with pytest.raises(UsageError, match="is none of"):
        composed(plain, "both")
    inner = chain_of([AffineConv(np.ones((2, 3))), AffineConv(np.ones((4, 2)))])
    wrapper = torch.nn.Module()
    wrapper.inner = inner
    assert composed(wrapper, "layerwise").inner is inner
    assert len(units(composed(wrapper, "composed"))) == 1
    g = Graph("N", 3)
    with pytest.raises(UsageError, match="auto, composed, layerwise"):
        composed(g.module(g.add("Relu", "x")), "both")


def test_to_torch_composes_by_default() -> None:
    """In a user's loop, chains run as one layer with the parameters of the layers."""
    model = onnx_expand.expand(smallnet.build(kernel=7), strategy="ck+fc", rate=2)
    module = to_torch(model).double()
    plain = to_torch(model, execution="layerwise").double()
    assert list(module.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    plans = plans_of(module, x)
    assert len(plans) == 5
    assert any(piece.whole for plan in plans.values() for piece in plan.pieces)
    assert not plans_of(plain, x)
    for kind in (module, plain):
        kind(x).square().sum().backward()
    for (name, mine), (_, theirs) in zip(
        module.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
    with pytest.raises(UsageError, match="execution 'fast'"):
        to_torch(model, execution="fast")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_composed_module_goes_back_to_its_layers(copied: Callable[[Any], Any]) -> None:
    """A copied, converted and changed module equals its layers."""
    model = onnx_expand.expand(smallnet.build(kernel=5), strategy="ck", rate=2)
    module = copied(to_torch(model)).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01)
    layers = composed(module, "layerwise")
    assert list(layers.state_dict()) == list(module.state_dict())
    assert not plans_of(layers, x)
    torch.testing.assert_close(layers(x), module(x))
    assert composed(layers, "layerwise") is layers
