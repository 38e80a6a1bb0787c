"""What must also hold on a GPU; skipped where none answers.

These tests say nothing about speed, and need nothing but one CUDA device.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

import onnx_expand
from models import smallnet
from onnx_expand.errors import UnsupportedError
from tests.support.graphs_text import graph, weights
from tests.support.random_graphs import random_graph
from tests.support.zoo import ZOO

pytestmark = pytest.mark.gpu


def _has_runtime() -> bool:
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    from onnx_expand.runtimes import detect_providers

    return "cuda" in detect_providers()


def _has_torch() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


runtime = pytest.mark.skipif(not _has_runtime(), reason="onnxruntime has no CUDA device")
torch_gpu = pytest.mark.skipif(not _has_torch(), reason="torch has no CUDA device")


@runtime
@pytest.mark.parametrize("name", ZOO)
def test_folds_are_equal_on_the_device(name: str) -> None:
    """Folded networks compute the same on the GPU, part by part, and as on the CPU."""
    model = ZOO[name].build()
    folded = onnx_expand.fold(model)
    verdict = onnx_expand.check(model, folded, samples=1, providers=["cuda"])
    assert verdict, verdict.summary()
    assert verdict.regions
    crossed = onnx_expand.check(model, folded, samples=1, providers=["cpu"], providers_b=["cuda"])
    assert crossed, crossed.summary()


@runtime
def test_random_graphs_are_equal_on_the_device() -> None:
    """So do graphs of any structure that the device has kernels for."""
    ran = 0
    for seed in range(40):
        model = random_graph(seed, length=6)
        try:
            verdict = onnx_expand.check(
                model, onnx_expand.fold(model), samples=1, providers=["cuda"]
            )
        except UnsupportedError:
            continue
        ran += 1
        assert verdict, (seed, verdict.summary())
    assert ran > 20


@runtime
def test_products_are_not_rounded_to_tf32() -> None:
    """TensorFloat-32 keeps ten bits: its error would be a thousand times that of float32."""
    model = graph(
        "g (float[64,512] x) => (float[64,512] y) { y = MatMul(x, w) }", weights(w=(512, 512))
    )
    verdict = onnx_expand.check(model, model, samples=1, providers=["cuda"])
    assert verdict
    normal = next(f for f in verdict.outputs if f.place.sample.startswith("normal"))
    assert normal.relative_error < 1e-5


@runtime
def test_a_wrong_weight_is_caught_on_the_device() -> None:
    """The verdict of the device can fail."""
    model = graph("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", weights(w=(64, 64)))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    array = onnx.numpy_helper.to_array(wrong.graph.initializer[0]).copy()
    array[0, 0] += 1e-3
    wrong.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    assert not onnx_expand.check(model, wrong, samples=1, providers=["cuda"])


@torch_gpu
@pytest.mark.parametrize("execution", ["composed", "layerwise"])
def test_training_steps_are_those_of_the_cpu(execution: str) -> None:
    """Losses and gradients in float64 are the CPU's, however chains are run."""
    import torch

    from onnx_expand.train import to_torch
    from onnx_expand.train.composed import composed

    model = onnx_expand.expand(smallnet.build(kernel=3), strategy="cl", rate=2, seed=0)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 32, 32)))
    found = {}
    for device in ("cpu", "cuda"):
        module = composed(to_torch(model, execution="layerwise").double().to(device), execution)
        module(x.to(device)).square().mean().backward()
        found[device] = {
            n: p.grad.cpu() for n, p in module.named_parameters() if p.grad is not None
        }
    assert found["cpu"]
    for name, gradient in found["cpu"].items():
        assert torch.allclose(found["cuda"][name], gradient, rtol=1e-9, atol=1e-12), name
