"""The expansions: which chain of layers replaces one layer.

A strategy is one decorated function from the geometry of a layer to the geometries of its factors,
in the order in which they are applied; their composition has exactly the layer's geometry. All of
the layer's padding goes to the first factor and its stride to the last that has a kernel, so that
contraction is exact at the borders (Guo, Alvarez, Salzmann, "ExpandNets", NeurIPS 2020, sec. 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_expand.affine import AffineConv
from onnx_expand.errors import Reason, Refusal, UsageError
from onnx_expand.geometry import Geometry

__all__ = ["STRATEGIES", "Options", "factorize", "parse_strategy", "random_init"]


@dataclass(frozen=True)
class Options:
    """How far to expand.

    Attributes:
        rate: The expansion rate r: inner widths are r times the layer's own.
        keep_first: Whether this layer keeps its input width in the first factor, as the paper's
            networks do for the layer that reads the image.
        layers: How many layers replace a fully connected one, 2 or 3.

    Raises:
        UsageError: The rate is not a positive number, or there are not 2 or 3 layers.
    """

    rate: float = 4.0
    keep_first: bool = False
    layers: int = 3

    def __post_init__(self) -> None:
        if not (0 < self.rate < float("inf")):
            raise UsageError(f"the expansion rate is {self.rate}; it must be a number above 0")
        if self.layers not in {2, 3}:
            raise UsageError(f"{self.layers} fully connected layers were asked for; give 2 or 3")

    def width(self, channels: int, group: int) -> int:
        """So many channels times r, as a whole number of channels per group, at least one."""
        return group * max(1, round(self.rate * channels / group))


Factors = list[Geometry] | Refusal
Strategy = Callable[[Geometry, Options], Factors]
STRATEGIES: dict[str, Strategy] = {}
_AUTO = ("ck", "cl", "fc")


def parse_strategy(text: str) -> tuple[str, ...]:
    """The strategies named by a text such as `ck+fc`, to be tried in that order; `auto` is all.

    Raises:
        UsageError: One of them does not exist.
    """
    names = _AUTO if text == "auto" else tuple(text.split("+"))
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        known = ", ".join([*STRATEGIES, "auto"])
        raise UsageError(f"strategy '{text}': '{unknown[0]}' is none of {known} (join with '+')")
    return names


def factorize(geometry: Geometry, strategies: Sequence[str], options: Options) -> Factors:
    """The factors of a layer by the first strategy that applies to it, or why none does."""
    refusals = []
    for name in strategies:
        factors = STRATEGIES[name](geometry, options)
        if not isinstance(factors, Refusal):
            return factors
        refusals.append(factors.message)
    return Refusal(Reason.STRATEGY, "; ".join(refusals))


def random_init(geometry: Geometry, rng: np.random.Generator) -> AffineConv:
    """A layer with the default initial numbers of PyTorch, which the paper trains from.

    Weight and bias are uniform within 1 / sqrt(fan-in) (`kaiming_uniform` with a = sqrt 5).
    """
    fan_in = int(np.prod(geometry.weight_shape[1:]))
    bound = 1 / np.sqrt(fan_in)
    weight = rng.uniform(-bound, bound, geometry.weight_shape)
    bias = rng.uniform(-bound, bound, geometry.out_channels) if geometry.bias else None
    return AffineConv(
        weight, bias, geometry.strides, geometry.dilations, geometry.pads, geometry.group
    )


def _strategy(name: str) -> Callable[[Strategy], Strategy]:
    def register(function: Strategy) -> Strategy:
        STRATEGIES[name] = function
        return function

    return register


@_strategy("cl")
def _convolutional_layers(layer: Geometry, options: Options) -> Factors:
    """1x1, k x k, 1x1, with m -> rm -> rn -> n channels, each with the layer's groups."""
    if not layer.rank:
        return _refused("cl expands convolutions, and this is a matrix")
    m, n, group = layer.in_channels, layer.out_channels, layer.group
    p = m if options.keep_first else options.width(m, group)
    q = options.width(n, group)
    point = Geometry(m, p, group=group, bias=layer.bias).at_rank(layer.rank)
    return [
        replace(point, pads=layer.pads),
        replace(layer, in_channels=p, out_channels=q, pads=()),
        replace(point, in_channels=q, out_channels=n),
    ]


@_strategy("ck")
def _convolutional_kernels(layer: Geometry, options: Options) -> Factors:
    """(k - 1) / 2 convolutions of 3 taps, with m -> rm -> rn -> ... -> rn -> n channels."""
    if not layer.rank:
        return _refused("ck expands convolutions, and this is a matrix")
    size = layer.kernel[0]
    if len(set(layer.kernel)) > 1 or size % 2 == 0 or size <= 3:
        kernel = "x".join(map(str, layer.kernel))
        return _refused(f"ck needs an odd, square kernel above 3, and this is {kernel}")
    m, n, group = layer.in_channels, layer.out_channels, layer.group
    inner = [m if options.keep_first else options.width(m, group)]
    inner += [options.width(n, group)] * ((size - 1) // 2 - 2)
    widths = [m, *inner, n]
    factors = [
        replace(
            layer,
            in_channels=a,
            out_channels=b,
            kernel=(3,) * layer.rank,
            strides=(),
            pads=(),
        )
        for a, b in itertools.pairwise(widths)
    ]
    factors[0] = replace(factors[0], pads=layer.pads)
    factors[-1] = replace(factors[-1], strides=layer.strides)
    return factors


@_strategy("fc")
def _fully_connected(layer: Geometry, options: Options) -> Factors:
    """2 or 3 matrices, with m -> rm (-> rn) -> n channels."""
    if layer.rank:
        return _refused("fc expands matrices, and this is a convolution")
    m, n = layer.in_channels, layer.out_channels
    widths = [m, options.width(m, 1), *[options.width(n, 1)] * (options.layers - 2), n]
    return [Geometry(a, b, bias=layer.bias) for a, b in itertools.pairwise(widths)]


def _refused(message: str) -> Refusal:
    return Refusal(Reason.STRATEGY, message)
