"""The initial values of a unit: the framework's defaults, or values that preserve a layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.algebra.grouped import regroup
from onnx_expand.errors import Reason, Refusal
from onnx_expand.factorize.base import Average, Branch, Layer, Norm, Start, Unit
from onnx_expand.factorize.condition import Path, condition
from onnx_expand.factorize.kernels import Array, blocks, unblocked
from onnx_expand.factorize.solve import Rounded, fit_chain
from onnx_expand.factorize.starts import CHAIN_STARTS

__all__ = ["Filled", "Statistics", "as_affine", "preserve", "random_init", "random_unit"]

_EPSILON = 1e-5
_EXACT = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Statistics:
    """The parameters of a batch normalization in inference form, each [channels]."""

    scale: Array
    shift: Array
    mean: Array
    variance: Array
    epsilon: float = _EPSILON

    @classmethod
    def identity(cls, channels: int) -> Statistics:
        """Return the framework's default, the identity except for epsilon."""
        ones, zeros = np.ones(channels), np.zeros(channels)
        return cls(ones, zeros, zeros, ones)

    @property
    def affine(self) -> AffineConv:
        """The map of the normalization."""
        factor = self.scale / np.sqrt(self.variance + self.epsilon)
        return AffineConv.per_channel(factor, self.shift - factor * self.mean)


Part = AffineConv | Statistics


@dataclass(frozen=True)
class Filled:
    """A unit with its initial values.

    Attributes:
        unit: The unit.
        parts: The values of each step of each branch, including averages.
        residual: The relative norm of the unit's error, before the last rounding; None if the unit
            need not preserve the layer.
        condition: The condition number of the unit for gradients; None as above, or if it would
            take long to compute.
        is_exact: Whether the error of the unit is no larger than that of storing its values.
    """

    unit: Unit
    parts: tuple[tuple[Part, ...], ...]
    residual: float | None = None
    condition: float | None = None
    is_exact: bool = False

    @property
    def affine(self) -> AffineConv:
        """The map that the unit computes."""
        maps = (_composed(parts, self.unit.widths[0]) for parts in self.parts)
        return functools.reduce(AffineConv.__add__, maps)


def as_affine(part: Part) -> AffineConv:
    """Return the map of a step."""
    return part.affine if isinstance(part, Statistics) else part


def random_init(geometry: Geometry, rng: np.random.Generator) -> AffineConv:
    """Initialize a layer with PyTorch's defaults, from which the paper trains.

    Weight and bias are uniform within 1 / sqrt(fan-in) (`kaiming_uniform` with a = sqrt 5). For
    transposed convolutions PyTorch uses the number of outputs that an input reaches as fan-in.
    """
    shape = geometry.weight_shape
    fan_in = int(np.prod(shape[1:]))
    if geometry.transposed:
        fan_in = shape[0] // geometry.group * int(np.prod(shape[2:]))
    bound = 1 / np.sqrt(fan_in)
    weight = rng.uniform(-bound, bound, shape)
    bias = rng.uniform(-bound, bound, geometry.out_channels) if geometry.bias else None
    return AffineConv.of(geometry, weight, bias)


def random_unit(
    unit: Unit, target: AffineConv, rng: np.random.Generator, start: str = "random"
) -> Filled:
    """Initialize a unit randomly, except for layers that keep the original's values.

    Args:
        unit: The unit.
        target: The layer.
        rng: The source of randomness.
        start: `random`, the framework's default for each layer, or one of `CHAIN_STARTS`, for
            chains of several layers. Sums of branches always start at the default.
    """
    (branch, *others) = unit.branches
    if start != "random" and not others and len(branch) > 1:
        return Filled(unit, (_started_chain(branch, start, target, rng),))
    return Filled(unit, tuple(tuple(_started(s, target, rng) for s in b) for b in unit.branches))


def preserve(
    unit: Unit,
    target: AffineConv,
    rng: np.random.Generator,
    rounded: Rounded,
    *,
    most: float = 0.0,
) -> Filled | Refusal:
    """Initialize a unit so that it computes the same as the layer.

    Inner biases are zero. In a sum the side branches are random and the main branch compensates
    for them.

    Args:
        unit: The unit.
        target: The layer; its bias is None only if it has none.
        rng: The source of randomness for free parameters.
        rounded: Rounds to the type in which the values will be stored.
        most: The largest allowed relative residual, apart from rounding; more is refused.

    Returns:
        The values, or why there are none.
    """
    if len(unit.branches) == 1:
        parts, residual = _fit_branch(unit.branches[0], target, rng, rounded, most)
        found = [parts]
    else:
        found, residual = _with_remainder(unit, target, rng, rounded), 0.0
    # Up to half of the storage rounding error is acceptable.
    exact = residual <= max(_EXACT, _grain(rounded) / 8)
    if not exact and residual > most:
        return Refusal(
            Reason.STRATEGY,
            f"{unit.strategy} with {' -> '.join(map(str, unit.widths))} channels misses "
            f"{residual:.2g} of the layer's weight",
            {"residual": residual},
            "raise the rate, let the first width expand, or allow the residual",
        )
    figure = condition(
        [_path(b, p, target) for b, p in zip(unit.branches, found, strict=True)],
        blocks(target.weight, target.group).shape,
        rng,
    )
    return Filled(unit, tuple(found), residual, figure, exact)


def _grain(rounded: Rounded) -> float:
    """Return the distance from 1 to the next larger stored value."""
    steps = np.exp2(-np.arange(1, 53, dtype=np.float64))
    kept = steps[rounded(1 + steps) != 1]
    return float(kept[-1])


def _started_chain(
    branch: Branch, start: str, target: AffineConv, rng: np.random.Generator
) -> tuple[Part, ...]:
    """Initialize a chain by one of the starts; the last layer's bias is the layer's default."""
    layers = [step.geometry for step in branch if isinstance(step, Layer)]
    weights = CHAIN_STARTS[start](layers, rng)
    own = random_init(replace(target.geometry, bias=True), rng).bias
    biases = [np.zeros(g.out_channels) if g.bias else None for g in layers]
    if layers[-1].bias:
        biases[-1] = own
    return tuple(AffineConv.of(g, w, b) for g, w, b in zip(layers, weights, biases, strict=True))


def _started(step: Layer | Norm | Average, target: AffineConv, rng: np.random.Generator) -> Part:
    if isinstance(step, Norm):
        return Statistics.identity(step.channels)
    if isinstance(step, Average):
        taps = int(np.prod(step.geometry.kernel))
        return AffineConv.of(step.geometry, np.full(step.geometry.weight_shape, 1 / taps), None)
    if step.start is Start.KEPT:
        return target
    if step.start is Start.ZERO:
        bias = np.zeros(step.geometry.out_channels) if step.geometry.bias else None
        return AffineConv.of(step.geometry, np.zeros(step.geometry.weight_shape), bias)
    return random_init(step.geometry, rng)


def _fit_branch(
    branch: Branch,
    target: AffineConv,
    rng: np.random.Generator,
    rounded: Rounded,
    most: float,
) -> tuple[tuple[Part, ...], float]:
    """Fit a chain of layers that composes to a layer; the last one gets its bias."""
    layers = [step.geometry for step in branch if isinstance(step, Layer)]
    group = target.group
    widths = [layers[0].in_channels // group, *(g.out_channels // group for g in layers)]
    wanted = blocks(target.weight, group)
    fit = fit_chain(widths, [g.kernel for g in layers], wanted, rng, rounded, most=most)
    parts: list[Part] = []
    for geometry, kernel in zip(layers, fit.kernels, strict=True):
        bias = np.zeros(geometry.out_channels) if geometry.bias else None
        if geometry is layers[-1]:
            bias = target.bias
        parts.append(AffineConv.of(geometry, unblocked(kernel), bias))
    return tuple(parts), fit.residual


def _with_remainder(
    unit: Unit, target: AffineConv, rng: np.random.Generator, rounded: Rounded
) -> list[tuple[Part, ...]]:
    """Initialize random side branches, and a main branch with the remainder of a layer."""
    sides = [
        tuple(_rounded(_started(step, target, rng), rounded) for step in branch)
        for branch in unit.branches[1:]
    ]
    rest = target
    for parts in sides:
        rest = rest + -_composed(parts, target.geometry.in_channels)
    main = unit.branches[0]
    layer = main[0]
    assert isinstance(layer, Layer)
    rest = rest.embedded(replace(layer.geometry, bias=rest.geometry.bias))
    bias = np.zeros(layer.geometry.out_channels) if rest.bias is None else rest.bias
    if len(main) == 1:
        own = bias if layer.geometry.bias else None
        return [(AffineConv.of(layer.geometry, rest.weight, own),), *sides]
    still = _rounded(Statistics.identity(layer.geometry.out_channels), rounded)
    assert isinstance(still, Statistics)
    factor = as_affine(still).weight.reshape(-1, *(1,) * (rest.weight.ndim - 1))
    weight = AffineConv.of(layer.geometry, rest.weight / factor, None)
    return [(weight, replace(still, shift=bias)), *sides]


def _composed(parts: Sequence[Part], channels: int) -> AffineConv:
    """Compose the steps of a branch; an empty one is the identity of some channels."""
    if not parts:
        return AffineConv.identity(channels)
    return compose_chain([as_affine(part) for part in parts])


def _rounded(part: Part, rounded: Rounded) -> Part:
    if isinstance(part, Statistics):
        return replace(
            part,
            scale=rounded(part.scale),
            shift=rounded(part.shift),
            mean=rounded(part.mean),
            variance=rounded(part.variance),
            # ONNX stores epsilon in 32 bits for any type of the model.
            epsilon=float(np.float32(part.epsilon)),
        )
    bias = None if part.bias is None else rounded(part.bias)
    return replace(part, weight=rounded(part.weight), bias=bias)


def _path(branch: Branch, parts: Sequence[Part], target: AffineConv) -> Path:
    """Return a branch as kernels in the group blocks of the layer."""
    maps = [as_affine(part) for part in parts]
    group, rank = target.group, target.rank
    kernels = [blocks(regroup(f.at_rank(rank).weight, f.group, group), group) for f in maps]
    trained = [isinstance(step, Layer) for step in branch]
    if not kernels:  # the identity
        one = AffineConv.identity(target.geometry.in_channels, rank)
        kernels, trained = [blocks(regroup(one.weight, one.group, group), group)], [False]
    whole = _composed(parts, target.geometry.in_channels).at_rank(rank).geometry
    place = tuple(
        slice((big - small) // step, (big - small) // step + size)
        for big, small, step, size in zip(
            target.geometry.begins, whole.begins, target.dilations, whole.kernel, strict=True
        )
    )
    return Path(tuple(kernels), tuple(trained), place)
