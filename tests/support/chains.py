"""Chains and branches of linear layers for the tests of composed execution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.train import OnnxModule, to_torch
from onnx_expand.train.composed.unit import ComposedChain
from tests.support.strategies import geometries, with_numbers

Array = npt.NDArray[Any]

# Relative to the largest value, for sums of some hundred products in another order.
EXACT = 1e-12
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class Graph:
    """A model in double precision, written node by node."""

    def __init__(self, *shape: int | str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shape = shape
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, array: Array) -> str:
        """Add an initializer."""
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float64), name))
        return name

    def random(self, name: str, *shape: int) -> str:
        """Add an initializer of normal random values."""
        return self.weight(name, self.rng.standard_normal(shape))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], f"n_{name}", **attributes))
        return name

    def layer(self, f: AffineConv, x: str) -> str:
        """Add one node that computes a map."""
        name, g = f"l{len(self.nodes)}", f.geometry
        if not g.rank:
            inputs = [self.weight(f"{name}.w", f.weight)]
            inputs += [] if f.bias is None else [self.weight(f"{name}.b", f.bias)]
            return self.add("Gemm", x, *inputs, transB=1)
        weight = f.weight
        settings: dict[str, Any] = {"strides": g.strides, "dilations": g.dilations}
        settings |= {"pads": g.pads, "group": g.group}
        if g.transposed:
            blocks = weight.reshape(g.group, g.out_channels // g.group, *weight.shape[1:])
            weight = blocks.swapaxes(1, 2).reshape(g.in_channels, -1, *g.kernel)
            settings["output_padding"] = g.extension
        inputs = [self.weight(f"{name}.w", weight)]
        inputs += [] if f.bias is None else [self.weight(f"{name}.b", f.bias)]
        return self.add("ConvTranspose" if g.transposed else "Conv", x, *inputs, **settings)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Return the model with these outputs, each of the rank of the input."""
        kind, rank = onnx.TensorProto.DOUBLE, len(self.shape)
        graph = helper.make_graph(
            self.nodes, "graph",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [
                helper.make_tensor_value_info(name, kind, [f"{name}{i}" for i in range(rank)])
                for name in outputs
            ],
            self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def module(self, *outputs: str) -> OnnxModule:
        """Return the torch module of the model."""
        return to_torch(self.model(*outputs), execution="layerwise")


def chain_of(maps: Sequence[AffineConv]) -> OnnxModule:
    """Return the module of a chain of maps."""
    m, rank = maps[0].geometry.in_channels, maps[0].rank
    graph = Graph("N", m, *(f"s{i}" for i in range(rank)))
    value = "x"
    for f in maps:
        value = graph.layer(f, value)
    return graph.module(value)


def gradients(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return all outputs, concatenated, and the gradients of x and of all parameters."""
    x = x.detach().requires_grad_()
    results = module(x)
    results = results if isinstance(results, tuple) else (results,)
    weights = torch.Generator().manual_seed(1)
    total = sum(
        (y * torch.randn(y.shape, generator=weights, dtype=y.dtype)).sum()
        for y in results
        if y.is_floating_point()
    )
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    flat = torch.cat([y.detach().flatten().double() for y in results])
    return flat, [
        torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)
    ]


def assert_equal(a: OnnxModule, b: torch.nn.Module, x: torch.Tensor, limit: float = EXACT) -> None:
    """Assert that two modules with the same parameters have equal outputs and gradients."""
    (y1, g1), (y2, g2) = gradients(a, x), gradients(b, x)
    for one, other in zip((y1, *g1), (y2, *g2), strict=True):
        scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
        assert one.shape == other.shape
        assert float((one - other).abs().max() if one.numel() else 0.0) <= limit * scale


def units(module: torch.nn.Module) -> list[ComposedChain]:
    return [unit for unit in module.modules() if isinstance(unit, ComposedChain)]


@st.composite
def chains(draw: st.DrawFn, *, padded: bool = True) -> list[AffineConv]:
    """Draw two to four maps of one rank with fitting channels, some of them often pointwise."""
    rank = draw(st.integers(0, 3))
    maps: list[AffineConv] = []
    channels = None
    for index in range(draw(st.integers(2, 4))):
        g = draw(geometries(rank=rank, in_channels=channels, padded=padded and index == 0))
        if draw(st.booleans()):
            g = Geometry(g.in_channels, g.out_channels, (1,) * rank, group=g.group, bias=g.bias)
        if not rank:
            g = Geometry(g.in_channels, g.out_channels, bias=g.bias)
        maps.append(with_numbers(g, draw(st.integers(0, 2**32 - 1))))
        channels = g.out_channels
    return maps


def image_for(maps: Sequence[AffineConv], batch: int = 2) -> torch.Tensor:
    """Draw an input for which each map has at least one output position."""
    rank, size = maps[0].rank, 1
    while rank:
        extents: tuple[int, ...] = (size,) * rank
        for f in maps:
            extents = f.geometry.output_extents(extents)
        if min(extents) >= 2:
            break
        size += 1
    shape = (batch, maps[0].geometry.in_channels, *(size + i for i in range(rank)))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def acnet(graph: Graph, x: str, channels: int, *, norm: bool = False) -> str:
    """Build the sum of three asymmetric convolutions and a shortcut."""
    branches = [x]
    for index, (kernel, pads) in enumerate(
        [((3, 3), (1, 1, 1, 1)), ((1, 3), (0, 1, 0, 1)), ((3, 1), (1, 0, 1, 0))]
    ):
        name = f"{x}.{index}"
        inputs = [graph.random(f"{name}.w", channels, channels, *kernel)]
        inputs.append(graph.random(f"{name}.b", channels))
        y = graph.add("Conv", x, *inputs, pads=pads)
        if norm:
            ones = [graph.weight(f"{name}.{k}", np.ones(channels)) for k in "smtv"]
            y = graph.add("BatchNormalization", y, *ones)
        branches.append(y)
    total = graph.add("Add", branches[0], branches[1])
    total = graph.add("Add", total, branches[2])
    return graph.add("Sum", total, branches[3])


def wide(width: int) -> OnnxModule:
    """Build a fully connected unit of three layers at rate 4."""
    rng = np.random.default_rng(0)
    sizes = [width, 4 * width, 4 * width, width]
    return chain_of(
        [
            AffineConv(rng.standard_normal((n, m)), rng.standard_normal(n))
            for m, n in itertools.pairwise(sizes)
        ]
    )
