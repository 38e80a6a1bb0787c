"""Chains that are composed compute what their layers compute, and train alike."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from models import smallnet
from onnx_expand.errors import UsageError
from onnx_expand.train import to_torch
from onnx_expand.train.composed import Composed, composed, once_per_step
from onnx_expand.train.module import OnnxModule
from tests.graphs_text import graph, weights


def double(model: onnx.ModelProto) -> OnnxModule:
    """The module of a model, in float64 and training."""
    module = to_torch(model).double()
    module.train()
    return module


def gradients(
    module: torch.nn.Module, x: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output, and the gradients of a function of it."""
    module.zero_grad()
    y = module(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    return y.detach(), {
        name.removeprefix("module."): p.grad.clone()
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def assert_same(module: OnnxModule, other: torch.nn.Module, x: torch.Tensor) -> None:
    """Assert equal outputs and gradients, to the rounding of float64."""
    (y, mine), (z, others) = gradients(module, x), gradients(other, x)
    scale = max(1.0, float(y.abs().max()))
    torch.testing.assert_close(z, y, rtol=0, atol=1e-12 * scale)
    assert mine.keys() == others.keys()
    for name, own in mine.items():
        scale = max(1.0, float(own.abs().max()))
        torch.testing.assert_close(others[name], own, rtol=0, atol=1e-11 * scale)


def chosen(module: Composed, x: torch.Tensor) -> int:
    """How many chains are composed for an input."""
    return sum(choice.composes for choice in module.choices([x]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(2, 4))
def test_random_chains_have_the_same_gradients(seed: int, rank: int, length: int) -> None:
    """Convolutions of any kernel, stride, dilation and group, with padding in the first."""
    rng = np.random.default_rng(seed)
    axes, text = "xyz"[:rank], list[str]()
    constants: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    channels, value = 4, "x"
    for i in range(length):
        n = int(rng.choice([2, 4, 6]))
        group = int(rng.choice([g for g in (1, 2) if channels % g == 0 == n % g]))
        kernel = [int(rng.choice([1, 2, 3])) for _ in axes]
        strides = [int(rng.choice([1, 2])) if i in (0, 2) else 1 for _ in axes]
        dilations = [int(rng.choice([1, 2])) if i < 2 else 1 for _ in axes]
        pads = [int(rng.choice([0, 1])) if i == 0 else 0 for _ in range(2 * rank)]
        bias = bool(rng.choice([True, False]))
        attributes = f"group: int = {group}, strides: ints = {strides}, pads: ints = {pads}"
        text.append(
            f"v{i} = Conv <{attributes}, dilations: ints = {dilations}> "
            f"({value}, w{i}{f', b{i}' if bias else ''})"
        )
        shape = (n, channels // group, *kernel)
        constants |= weights(
            seed + i, **{f"w{i}": shape, f"b{i}": (n,)} if bias else {f"w{i}": shape}
        )
        channels, value = n, f"v{i}"
    size = ",".join(["A", "B", *axes.upper()])
    inputs = ",".join(["N", "4", *["31"] * rank])
    model = graph(
        f"g (float[{inputs}] x) => (float[{size}] y) {{ {' '.join(text)} y = Identity({value}) }}",
        constants,
    )
    module = double(model)
    other = Composed(double(model), always=True)
    x = torch.from_numpy(rng.standard_normal((2, 4, *[31] * rank)))
    assert chosen(other, x) >= 1
    assert_same(module, other, x)


@pytest.mark.parametrize("strategy", ["cl", "ck", "fc", "cl+fc"])
def test_expanded_networks_have_the_same_gradients(strategy: str) -> None:
    """All units of an expanded network, with what the loss asks of it in auto and composed."""
    big = onnx_expand.expand(smallnet.build(kernel=5, size=16), strategy=strategy, rate=2)
    module = double(big)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for execution in ("auto", "composed"):
        assert_same(module, composed(double(big), execution), x)


def test_matrix_chains_and_their_biases_compose() -> None:
    """Gemm after Gemm, and MatMul with its bias apart, on inputs of any rank."""
    model = graph(
        """
        g (float[N,5,6] x) => (float[N,5,3] y) {
            a = MatMul(x, u)
            b = Add(a, p)
            c = MatMul(b, v)
            d = MatMul(c, w)
            y = Add(q, d)
        }
        """,
        weights(u=(6, 20), p=(20,), v=(20, 30), w=(30, 3), q=(3,)),
    )
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    other = Composed(double(model), always=True)
    assert chosen(other, x) == 1
    assert_same(double(model), other, x)


def test_branches_compose_and_are_added() -> None:
    """A 3x3, a 1x1 after a 1x1 and the input itself, between two other layers."""
    model = graph(
        """
        g (float[N,3,9,9] x) => (float[N,2,9,9] y) {
            s = Conv(x, t)
            a = Conv <pads: ints = [1, 1, 1, 1]> (s, u)
            b = Conv(s, v, c)
            d = Conv(b, w)
            e = Add(a, d)
            f = Add(e, s)
            y = Conv(f, z)
        }
        """,
        weights(
            t=(6, 3, 1, 1), u=(6, 6, 3, 3), v=(9, 6, 1, 1), c=(9,), w=(6, 9, 1, 1), z=(2, 6, 1, 1)
        ),
    )
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    other = Composed(double(model), always=True)
    assert chosen(other, x) == 1
    assert [n.target for n in other.variant([x]).graph.nodes if n.op == "call_module"] == [
        "_composed.c0"
    ]
    assert_same(double(model), other, x)


def test_what_pads_behind_a_bias_runs_layer_by_layer() -> None:
    """The first layer continues with its bias beyond the border, the second one with zeros."""
    model = graph(
        """
        g (float[N,3,9,9] x) => (float[N,2,9,9] y) {
            a = Conv(x, v, b)
            y = Conv <pads: ints = [1, 1, 1, 1]> (a, w)
        }
        """,
        weights(v=(6, 3, 1, 1), b=(6,), w=(2, 6, 3, 3)),
    )
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    other = Composed(double(model), always=True)
    assert chosen(other, x) == 0
    assert_same(double(model), other, x)


def test_a_normalization_inside_keeps_the_layers() -> None:
    """Batch statistics lie between the layers while they train."""
    model = graph(
        """
        g (float[N,3,9,9] x) => (float[N,2,9,9] y) {
            a = Conv(x, v)
            n = BatchNormalization(a, s, b, m, r)
            y = Conv(n, w)
        }
        """,
        weights(v=(6, 3, 1, 1), w=(2, 6, 1, 1), s=(6,), b=(6,), m=(6,))
        | {"r": np.ones(6, np.float32)},
    )
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert chosen(Composed(double(model), always=True), x) == 0


def test_a_value_that_is_read_twice_is_computed() -> None:
    """The middle value is an output as well."""
    model = graph(
        """
        g (float[N,3,5,5] x) => (float[N,2,5,5] y, float[N,6,5,5] a) {
            a = Conv(x, v)
            y = Conv(a, w)
        }
        """,
        weights(v=(6, 3, 1, 1), w=(2, 6, 1, 1)),
    )
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert chosen(Composed(double(model), always=True), x) == 0


def test_auto_takes_what_costs_fewer_products() -> None:
    """A wide pair of matrices pays from a batch of some hundred on; below, layers are cheaper."""
    model = graph(
        "g (float[N,64] x) => (float[N,64] y) { a = MatMul(x, v)\n y = MatMul(a, w) }",
        weights(v=(64, 256), w=(256, 64)),
    )
    module = Composed(to_torch(model))
    assert chosen(module, torch.randn(2, 64)) == 0
    assert chosen(module, torch.randn(512, 64)) == 1
    for batch in (2, 30, 34, 512):
        for choice in module.choices([torch.randn(batch, 64)]):
            assert not choice.composes or choice.products <= choice.otherwise


def test_parts_of_a_batch_compose_once() -> None:
    """The gradients of several passes go through the composition together, and are the same."""
    big = onnx_expand.expand(smallnet.build(kernel=3, size=24), strategy="cl", rate=2)
    layerwise, once = double(big), Composed(double(big), always=True)
    xs = [torch.randn(2, 3, 24, 24, dtype=torch.float64) for _ in range(3)]
    layerwise.zero_grad()
    once.zero_grad()
    for x in xs:
        layerwise(x).square().sum().backward()
    with once_per_step(once):
        for x in xs:
            once(x).square().sum().backward()
        inner = once.variant([xs[0]])
        kernels = [part.held for part in inner.get_submodule("_composed").children()]
        assert all(kernel is not None for kernel in kernels)
    for (name, a), b in zip(layerwise.named_parameters(), once.parameters(), strict=True):
        assert a.grad is not None
        scale = max(1.0, float(a.grad.abs().max()))
        torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-11 * scale, msg=name)


def test_the_parameters_are_those_of_the_layers() -> None:
    """Nothing is added to what is saved, and what is trained is what is written back."""
    big = onnx_expand.expand(smallnet.build(kernel=3, size=24), strategy="cl", rate=2)
    module = to_torch(big)
    other = composed(module, "composed")
    other(torch.randn(2, 3, 24, 24))
    assert {k.removeprefix("module.") for k in other.state_dict()} == set(module.state_dict())
    assert [id(p) for p in other.parameters()] == [id(p) for p in module.parameters()]
    assert composed(module, "layerwise") is module
    with pytest.raises(UsageError, match="auto"):
        composed(module, "fast")


def test_it_can_be_copied_and_pickled() -> None:
    """Copies have parameters of their own, and compute the same."""
    big = onnx_expand.expand(smallnet.build(kernel=3, size=24), strategy="cl", rate=2)
    module = Composed(to_torch(big), always=True)
    x = torch.randn(2, 3, 24, 24)
    expected = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert next(other.parameters()) is not next(module.parameters())
        torch.testing.assert_close(other(x), expected)


def test_it_compiles_without_graph_breaks() -> None:
    """The rewritten graph is traced as a whole, forward and backward."""
    big = onnx_expand.expand(smallnet.build(kernel=3, size=24), strategy="cl", rate=2)
    module = Composed(to_torch(big), always=True)
    module.train()
    x = torch.randn(2, 3, 24, 24)
    expected, own = gradients(module, x)
    compiled = torch.compile(module.variant([x]), backend="aot_eager", fullgraph=True)
    module.zero_grad()
    y = compiled(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    torch.testing.assert_close(y.detach(), expected, rtol=1e-4, atol=1e-5)
    for name, p in module.named_parameters():
        if name.removeprefix("module.") in own:
            torch.testing.assert_close(
                p.grad, own[name.removeprefix("module.")], rtol=1e-3, atol=1e-4
            )


def test_half_precision_composes_in_full() -> None:
    """Under autocast the layers' weights are composed in their own type."""
    big = onnx_expand.expand(smallnet.build(kernel=3, size=24), strategy="cl", rate=2)
    module = Composed(to_torch(big), always=True)
    x = torch.randn(2, 3, 24, 24)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
    home = module.variant([x]).get_submodule("_composed")
    weight, _ = next(home.children())(*_first_unit(module, x))
    assert weight.dtype == torch.float32


def _first_unit(module: Composed, x: torch.Tensor) -> list[torch.Tensor]:
    node = next(n for n in module.variant([x]).graph.nodes if n.op == "call_module")
    found = []
    for held in node.args:
        path, _, name = str(held.target).rpartition(".")
        found.append(getattr(module.module.get_submodule(path), name))
    return found
