"""Composed execution with other features of training: decisions, parts, compilers, short types."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from onnx import numpy_helper

import onnx_expand
from models import smallnet
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.experiment import TrainOptions, load_data, train
from onnx_expand.train import to_torch, write_back
from onnx_expand.train.composed import (
    composed,
    execution_of,
    plans_of,
    sharing_kernels,
)
from onnx_expand.train.composed.kernels import Numbers, after
from tests.support.chains import EXACT, Graph, acnet, assert_equal, chain_of, gradients, wide
from tests.support.networks import chain, write_stripes

# -- The decision -----------------------------------------------------------------------------


def test_auto_composes_large_batches_only() -> None:
    """A wide matrix chain runs layer by layer at batch 32, and composed for many rows."""
    run = composed(wide(128), "auto")
    (small,) = plans_of(run, torch.zeros(32, 128, dtype=torch.float64)).values()
    (large,) = plans_of(run, torch.zeros(4096, 128, dtype=torch.float64)).values()
    assert [piece.whole for piece in small.pieces] == [False] * 3
    assert [piece.whole for piece in large.pieces] == [True]


def test_products_count_the_executed_passes() -> None:
    """The forward pass always counts, backward passes only where gradients are needed."""
    run = composed(wide(64), "composed")
    ends, middle = 64 * 256, 256 * 256

    def planned(rows: int) -> tuple[int, int]:
        (plan,) = plans_of(run, torch.zeros(rows, 64, dtype=torch.float64)).values()
        return plan.products, plan.apart

    # The input of the module needs no gradient; the kernel is 64 x 64, from the last layer on.
    composing = 64 * middle + 64 * 64 * 256
    assert planned(10) == (10 * 64 * 64 * 2 + 3 * composing, 10 * (5 * ends + 3 * middle))
    for name, parameter in run.named_parameters():
        parameter.requires_grad_(name == "l2.w")  # the last layer alone
    assert planned(10) == (10 * 64 * 64 * 2 + 2 * composing, 10 * (3 * ends + middle))
    for parameter in run.parameters():
        parameter.requires_grad_(False)
    assert planned(10) == (10 * 64 * 64 + composing, 10 * (2 * ends + middle))


def test_a_bottleneck_is_not_composed() -> None:
    """Wide layers with a narrow value between them are cheaper apart, at any size."""
    rng = np.random.default_rng(0)
    maps = [
        AffineConv(rng.standard_normal((4, 256, 1, 1))),
        AffineConv(rng.standard_normal((256, 4, 1, 1))),
    ]
    run = composed(chain_of(maps), "auto")
    for size in (1, 8, 64):
        image = torch.zeros(2, 256, size, size, dtype=torch.float64)
        (plan,) = plans_of(run, image).values()
        assert len(plan.pieces) == 2


def test_the_command_reports_how_chains_run() -> None:
    """It reports composed chains, their cost, and those that normalization separates."""
    module = to_torch(onnx_expand.expand(smallnet.build(), strategy="cl+fc", rate=4))
    x = torch.zeros(128, 3, 32, 32)
    line = execution_of(module, "auto", x)
    count, instead, before = re.match(
        r"(\d) of 5 chains run composed, ([\d,.]+) instead of ([\d,.]+) M products", line
    ).groups()  # type: ignore[union-attr]
    assert int(count) >= 3
    # Three passes of each layer, but two of the first ones; the compact network has 4.5 M.
    assert float(before.replace(",", "")) > 8 * float(instead.replace(",", ""))
    assert float(instead.replace(",", "")) > 2.5 * 4.4 * 128
    assert execution_of(module, "layerwise", x) == "5 chains run layer by layer"
    assert execution_of(module, "composed", x).startswith("5 of 5 chains")
    assert execution_of(to_torch(smallnet.build()), "auto", x) == ""
    acnet = to_torch(onnx_expand.expand(smallnet.build(), strategy="acnet"))
    assert "batch normalization keeps" in execution_of(acnet, "auto", x)
    module.train()
    statistics = {k: b.clone() for k, b in module.named_buffers()}
    execution_of(module, "auto", x)
    assert module.training
    assert all(torch.equal(b, statistics[k]) for k, b in module.named_buffers())


# -- With the rest of training ----------------------------------------------------------------


def test_parameters_are_those_of_the_layers(tmp_path: Any) -> None:
    """state_dict, names and write-back do not change; weights are shared with the module."""
    model = onnx_expand.expand(smallnet.build(), strategy="cl", rate=2)
    module = to_torch(model)
    run = composed(module, "composed")
    assert list(run.state_dict()) == list(module.state_dict())
    assert all(a is b for a, b in zip(run.parameters(), module.parameters(), strict=True))
    with torch.no_grad():
        module.get_parameter("conv1.0.weight").mul_(2)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for tensor in write_back(run, model).graph.initializer:
        factor = 2 if tensor.name == "conv1.0.weight" else 1
        assert np.array_equal(numpy_helper.to_array(tensor), factor * arrays[tensor.name])
    for other in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(other(x), run(x))
        assert all(a is not b for a, b in zip(other.parameters(), run.parameters(), strict=True))


@pytest.mark.parametrize(("backend", "dynamic"), [("eager", True), ("aot_eager", False)])
def test_compiles_without_graph_breaks(backend: str, dynamic: bool) -> None:
    """The decision is made at compile time, for static and for dynamic sizes."""
    g = Graph("N", 3, "H", "W")
    x = g.add("Conv", "x", g.random("a", 8, 3, 3, 3), g.random("b", 8), pads=[2] * 4)
    x = g.add("Conv", x, g.random("c", 8, 8, 3, 3), g.random("d", 8))
    x = acnet(g, g.add("Relu", g.add("Conv", x, g.random("e", 4, 8, 1, 1))), 4)
    module = g.module(x)
    run = composed(module, "auto")
    torch._dynamo.reset()
    fast: Any = torch.compile(run, fullgraph=True, backend=backend, dynamic=dynamic)
    for batch in (2, 5) if dynamic else (2,):
        image = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
        y, found = gradients(fast, image)
        expected, wanted = gradients(module, image)
        for one, other in zip((expected, *wanted), (y, *found), strict=True):
            assert float((one - other).abs().max()) <= EXACT * max(1.0, float(one.abs().max()))
    torch._dynamo.reset()


def test_kernels_are_multiplied_in_float32() -> None:
    """Under autocast and for weights in bfloat16, the kernel is rounded once."""
    rng = np.random.default_rng(0)
    maps = [
        AffineConv(rng.standard_normal((64, 8, 1, 1)) / 3),
        AffineConv(rng.standard_normal((64, 64, 3, 3)) / 24),
        AffineConv(rng.standard_normal((8, 64, 1, 1)) / 8),
    ]
    x = torch.randn(2, 8, 16, 16)
    module = chain_of(maps).float()
    merged = torch.from_numpy(compose_chain(maps).weight)
    exact = torch.nn.functional.conv2d(x.double(), merged)
    once = torch.nn.functional.conv2d(x.bfloat16(), merged.bfloat16()).double()
    with torch.autocast("cpu", torch.bfloat16):
        y = composed(module, "composed")(x)
    assert y.dtype is torch.bfloat16
    error = float((y.detach().double() - exact).abs().max())
    assert error <= 2 * float((once - exact).abs().max())
    short = composed(module.bfloat16(), "composed")(x.bfloat16())
    assert short.dtype is torch.bfloat16
    rounded = [AffineConv(p.detach().float().numpy()) for p in module.parameters()]
    nearest = torch.from_numpy(compose_chain(rounded).weight).bfloat16()
    own = torch.nn.functional.conv2d(x.bfloat16(), nearest)
    assert float((short.detach() - own).abs().max()) <= 0.01 * float(own.abs().max())


def test_checkpointed_activations() -> None:
    """Recomputing a part in the backward pass composes again, with equal gradients."""
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            return checkpoint(self.inner, x, use_reentrant=False)

    module = to_torch(onnx_expand.expand(smallnet.build(), strategy="cl", rate=2)).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert_equal(module, Checkpointed(composed(module, "composed")), x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"ema": 0.9, "clip": 0.05, "optimizer": "adamw"},
        {"weight_decay": 0.01, "decay": "product"},
        {"lr_on": "product"},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_training_gives_the_same_weights(tmp_path: Path, options: dict[str, Any]) -> None:
    """Two epochs layer by layer and composed agree in float64, with any other options."""
    data = load_data(write_stripes(tmp_path / "data.npz"), channels=1, size=(6, 6), classes=3)
    states = []
    ways: tuple[Literal["layerwise", "composed"], ...] = ("layerwise", "composed")
    for execution in ways:
        module = to_torch(chain()).double()
        train(
            module, data,
            TrainOptions(epochs=2, lr=0.02, batch=32, execution=execution, **options),
        )  # fmt: skip
        states.append(module.state_dict())
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=1e-9, atol=1e-9)
    assert not torch.equal(states[0]["w"], to_torch(chain()).double().get_parameter("w"))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_short_types_train_alike(tmp_path: Path, amp: Literal["bf16", "fp16"]) -> None:
    """Under autocast, with gradient scaling for fp16, weights change as layer by layer.

    How far may differ: a scale at which gradients overflow skips a step, and which one is large
    enough depends on what is computed in short numbers.
    """
    data = load_data(write_stripes(tmp_path / "data.npz"), channels=1, size=(6, 6), classes=3)
    start = to_torch(chain()).state_dict()
    moves = []
    ways: tuple[Literal["layerwise", "composed"], ...] = ("layerwise", "composed")
    for execution in ways:
        module = to_torch(chain())
        options = TrainOptions(
            epochs=6, lr=0.001, momentum=0.0, batch=512, execution=execution, amp=amp
        )
        train(module, data, options)
        state = module.state_dict()
        moves.append({key: state[key] - start[key] for key in start})
    for key, tensor in moves[0].items():
        other = moves[1][key]
        assert float(tensor.abs().max()) > 0
        cosine = torch.nn.functional.cosine_similarity(tensor.flatten(), other.flatten(), dim=0)
        assert float(cosine) > 0.99, key


# -- Accumulated gradients --------------------------------------------------------------------


def accumulated(
    module: torch.nn.Module, parts: Sequence[torch.Tensor], shared: bool
) -> list[torch.Tensor]:
    """Return the gradients of a batch in parts."""
    module.zero_grad(set_to_none=True)
    for index, part in enumerate(parts):
        if shared:
            with sharing_kernels(module, index, len(parts)):
                module(part).square().sum().backward()
        else:
            module(part).square().sum().backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def count_compositions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of the function that composes two kernels."""
    from onnx_expand.train.composed import chain

    calls = [0]

    def counting(*args: Any) -> Numbers:
        calls[0] += 1
        return after(*args)

    monkeypatch.setattr(chain, "after", counting)
    return calls


def test_kernels_are_composed_once_for_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the parts accumulate in the kernel and pass the composition once."""
    module = to_torch(onnx_expand.expand(smallnet.build(), strategy="ck", rate=2)).double()
    parts = [torch.randn(n, 3, 32, 32, dtype=torch.float64) for n in (3, 3, 1)]
    expected = accumulated(module, parts, shared=False)
    run = composed(module, "composed")
    calls = count_compositions(monkeypatch)
    for _ in range(2):
        calls[0] = 0
        found = accumulated(run, parts, shared=True)
        assert calls[0] == 6  # two for each of three chains
        assert len(found) == len(expected)
        for one, other in zip(expected, found, strict=True):
            assert float((one - other).abs().max()) <= EXACT * float(one.abs().max())
    calls[0] = 0
    accumulated(run, parts, shared=False)
    assert calls[0] == 18


def test_kernels_follow_the_weights() -> None:
    """The batch after a step has new kernels, also for optimizers that work in place."""
    module = wide(4)
    run = composed(module, "composed")
    parts = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    for _ in range(3):
        expected = accumulated(module, parts, shared=False)
        found = accumulated(run, parts, shared=True)
        for one, other in zip(expected, found, strict=True):
            assert float((one - other).abs().max()) <= EXACT * float(one.abs().max())
        torch.optim.SGD(module.parameters(), lr=1e-4).step()


def test_weights_must_not_change_between_parts() -> None:
    """Pending gradients would belong to other weights."""
    run = composed(wide(4), "composed")
    x = torch.randn(3, 4, dtype=torch.float64)
    with sharing_kernels(run, 0, 2):
        run(x).sum().backward()
    with torch.no_grad():
        next(run.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="changed between two"), sharing_kernels(run, 1, 2):
        run(x)
    # A new batch starts without pending gradients.
    accumulated(run, [x, x], shared=True)


def test_a_last_part_without_use_of_a_chain_loses_nothing() -> None:
    """Pending gradients are propagated at the end of a last backward pass without the chain."""
    module = wide(4)
    run = composed(module, "composed")
    x = torch.randn(3, 4, dtype=torch.float64)
    module(x).square().sum().backward()
    expected = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    run.zero_grad(set_to_none=True)
    with sharing_kernels(run, 0, 2):
        run(x).square().sum().backward()
    with sharing_kernels(run, 1, 2):
        pass
    for parameter, one in zip(run.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, one, rtol=EXACT, atol=EXACT)


def test_accumulation_with_checkpointed_parts() -> None:
    """A recomputed part uses its former kernel."""
    from torch.utils.checkpoint import checkpoint

    module = wide(4)
    run = composed(module, "composed")
    parts = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    expected = accumulated(module, parts, shared=False)
    run.zero_grad(set_to_none=True)
    for index, part in enumerate(parts):
        with sharing_kernels(run, index, 2):
            checkpoint(run, part, use_reentrant=False).square().sum().backward()
    for parameter, one in zip(run.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, one, rtol=EXACT, atol=EXACT)
