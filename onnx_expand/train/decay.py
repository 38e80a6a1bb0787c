"""Weight decay of what an expanded chain folds to, instead of each of its layers.

Half the squared norm of the one kernel that a chain of linear layers composes to is what weight
decay of the compact layer would penalise. The kernel is the chain's answer to impulses, without
biases and with all borders, so that any kernels, dilations, strides and groups are covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx

from onnx_expand.errors import UnsupportedError
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.convolution import conv
from onnx_expand.train.ops.linear import gemm, matmul

__all__ = ["Chain", "Penalty", "chains"]

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class _Layer:
    """One linear layer: its weight [n, m / group, ...] and how it steps."""

    weight: torch.nn.Parameter
    group: int = 1
    dilations: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    flipped: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Chain:
    """Linear layers with nothing between them.

    Attributes:
        layers: Two or more.
    """

    layers: tuple[_Layer, ...]

    def kernel(self) -> torch.Tensor:
        """The composed kernel, as [m / group, n, ...]: mirrored, which changes no norm."""
        first = self.layers[0]
        rank = first.weight.ndim - 2
        groups = {layer.group for layer in self.layers}
        group = groups.pop() if len(groups) == 1 else 1
        inputs = (first.weight.shape[1] * first.group) if not first.flipped else None
        width = inputs if inputs is not None else first.weight.shape[0]
        # Channels of different groups never meet, so that one impulse serves all groups at once.
        impulses = torch.eye(width // group).repeat(1, group)
        x = impulses.to(first.weight).reshape(width // group, width, *[1] * rank)
        step = [1] * rank
        for layer in self.layers:
            x = _respond(x, layer, step)
            step = [s * own for s, own in zip(step, layer.strides, strict=True)] or step
        return x


def _respond(x: torch.Tensor, layer: _Layer, step: Sequence[int]) -> torch.Tensor:
    if layer.weight.ndim == 2:
        matrix = layer.weight if layer.flipped else layer.weight.t()
        return x @ matrix * layer.scale
    # After a stride s, neighbouring taps are s positions of the chain's input apart.
    dilations = [d * s for d, s in zip(layer.dilations, step, strict=True)]
    extents = layer.weight.shape[2:]
    full = [d * (k - 1) for d, k in zip(dilations, extents, strict=True)]
    run = _CONV[len(full)]
    result: torch.Tensor = run(x, layer.weight, None, 1, full, dilations, layer.group)
    return result


def chains(module: torch.nn.Module) -> list[Chain]:
    """The chains of an imported module: layers whose output nothing but the next layer reads."""
    if not isinstance(module, OnnxModule):
        return []
    layers = {node: found for node in module.graph.nodes if (found := _layer(module, node))}
    result = []
    inner = set()
    for node in layers:
        if node in inner:
            continue
        run = [node]
        while (following := _next(run[-1], layers)) is not None:
            run.append(following)
            inner.add(following)
        if len(run) > 1:
            result.append(Chain(tuple(layers[member] for member in run)))
    return result


def _next(node: fx.Node, layers: dict[fx.Node, _Layer]) -> fx.Node | None:
    """The layer that alone reads a layer's output, as its input."""
    users = list(node.users)
    if len(users) != 1 or users[0] not in layers or users[0].args[0] is not node:
        return None
    if list(users[0].all_input_nodes).count(node) != 1 or users[0].args[1] is node:
        return None
    same = layers[node].weight.ndim == layers[users[0]].weight.ndim
    return users[0] if same else None


def _layer(module: OnnxModule, node: fx.Node) -> _Layer | None:
    """A node as a linear layer, if it is one with a weight of its own."""
    if node.op != "call_function" or node.target not in {conv, gemm, matmul}:
        return None
    source = node.args[1]
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    weight = _parameter(module, str(source.target))
    if weight is None or weight.ndim < 2:
        return None
    settings = node.kwargs
    if node.target is conv:
        rank = weight.ndim - 2
        named: dict[str, Any] = dict(settings)
        dilations, strides = (
            tuple(named.get(name) or [1] * rank) for name in ("dilations", "strides")
        )
        return _Layer(weight, int(settings.get("group", 1)), dilations, strides)  # type: ignore[arg-type]
    if weight.ndim != 2 or settings.get("transA", 0):
        return None
    flipped = node.target is matmul or not settings.get("transB", 0)
    return _Layer(weight, flipped=flipped, scale=float(settings.get("alpha", 1.0)))  # type: ignore[arg-type]


def _parameter(module: torch.nn.Module, path: str) -> torch.nn.Parameter | None:
    try:
        return module.get_parameter(path)
    except AttributeError:
        return None


@dataclass(frozen=True)
class Penalty:
    """Half the squared norm of composed kernels, times a number.

    Attributes:
        chains: What is composed.
        strength: The number.
    """

    chains: Sequence[Chain]
    strength: float

    @classmethod
    def of(cls, module: torch.nn.Module, options: TrainOptions) -> Penalty | None:
        """The penalty that the options ask for; None where each layer has its own.

        Raises:
            UnsupportedError: The module has no chains whose product could be had.
        """
        if options.decay == "layer" or not options.weight_decay:
            return None
        found = chains(module)
        if not found:
            raise UnsupportedError(
                "decay product is for expanded models; this one has no two linear layers in a row"
            )
        return cls(found, options.weight_decay)

    @property
    def covered(self) -> list[torch.nn.Parameter]:
        """The weights that have no decay of their own."""
        return [layer.weight for chain in self.chains for layer in chain.layers]

    def __call__(self) -> torch.Tensor:
        """The penalty of the weights as they are."""
        squares = [chain.kernel().square().sum() for chain in self.chains]
        return self.strength / 2 * torch.stack(squares).sum()
