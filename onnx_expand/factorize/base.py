"""The result of a strategy: a unit, which is a sum of branches, each a chain of steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from onnx_expand import plugins
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, UsageError

__all__ = [
    "STRATEGIES",
    "Average",
    "Branch",
    "Layer",
    "Norm",
    "Options",
    "Start",
    "Step",
    "Unit",
    "factorize",
    "parse_strategy",
    "refused",
    "strategy",
]

_BRANCHES = 256
_LAYERS = {2, 3}


@dataclass(frozen=True)
class Options:
    """The extent of an expansion.

    Attributes:
        rate: The expansion rate r: inner widths are r times the layer's own.
        keep_first: Whether the first factor of this layer keeps its input width, as the paper's
            networks do for the layer that reads the image.
        layers: The number of layers that replace a fully connected one, 2 or 3.
        norm: Whether each branch of a sum ends in batch normalization.
        branches: The number of copies of the layer that `mobileone` sums.
        rank: The inner width of the side path of `lowrank`.

    Raises:
        UsageError: A value is invalid.
    """

    rate: float = 4.0
    keep_first: bool = False
    layers: int = 3
    norm: bool = False
    branches: int = 4
    rank: int = 8

    def __post_init__(self) -> None:
        if not (0 < self.rate < float("inf")):
            raise UsageError(f"the expansion rate is {self.rate}; it must be a number above 0")
        if self.layers not in _LAYERS:
            raise UsageError(f"{self.layers} fully connected layers were requested; give 2 or 3")
        for name in ("branches", "rank"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.branches > _BRANCHES:
            raise UsageError(f"branches is {self.branches}; it must be at most {_BRANCHES}")

    def width(self, channels: int, group: int) -> int:
        """Return `rate * channels`, rounded to a whole number per group, at least one."""
        return group * max(1, round(self.rate * channels / group))


class Start(Enum):
    """The initial values of a layer, unless they are solved for."""

    RANDOM = "random"
    """The framework's default."""
    ZERO = "zero"
    KEPT = "kept"
    """The values of the replaced layer."""


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix; its geometry's bias flag also counts a bias of zeros."""

    geometry: Geometry
    start: Start = Start.RANDOM


@dataclass(frozen=True)
class Norm:
    """A batch normalization."""

    channels: int

    @property
    def geometry(self) -> Geometry:
        """The geometry of scaling and shifting each channel."""
        return Geometry(self.channels, self.channels, group=self.channels, bias=True)


@dataclass(frozen=True)
class Average:
    """Average pooling without padding: a depthwise kernel with equal, fixed taps."""

    geometry: Geometry


Step = Layer | Norm | Average
Branch = tuple[Step, ...]
"""A chain of steps; an empty one is the identity."""


@dataclass(frozen=True)
class Unit:
    """The replacement of a layer.

    Attributes:
        strategy: The name of the strategy.
        branches: The branches, whose outputs are summed. The first of several is the main branch:
            a layer with the geometry of the replaced one, perhaps followed by a normalization.
    """

    strategy: str
    branches: tuple[Branch, ...]

    @property
    def parameters(self) -> int:
        """The number of trainable elements."""
        return sum(
            2 * step.channels if isinstance(step, Norm) else step.geometry.parameters
            for branch in self.branches
            for step in branch
            if not isinstance(step, Average)
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels before, between and after the layers of a chain, or of the main branch."""
        layers = [s.geometry for s in self.branches[0] if isinstance(s, Layer)]
        return (layers[0].in_channels, *(g.out_channels for g in layers))

    def composed(self) -> Geometry | Refusal:
        """Return the geometry of the map that the unit computes."""
        channels = self.widths[0]
        wholes: list[Geometry] = []
        for branch in self.branches:
            geometries = [s.geometry for s in branch]
            geometries = geometries or [Geometry(channels, channels, group=channels)]
            whole: Geometry | Refusal = geometries[0]
            for geometry in geometries[1:]:
                whole = whole if isinstance(whole, Refusal) else whole.then(geometry)
            if isinstance(whole, Refusal):
                return whole
            wholes.append(whole)
        total: Geometry | Refusal = wholes[0]
        for whole in wholes[1:]:
            total = total if isinstance(total, Refusal) else total.plus(whole)
        return total


Strategy = Callable[[Geometry, Options], Unit | Refusal]
STRATEGIES: dict[str, Strategy] = {}
"""The strategies by name; `strategy` registers them."""
_AUTO = ("ck", "cl", "fc")


def strategy(
    name: str,
) -> Callable[[Callable[[Geometry, Options], Sequence[Branch] | Refusal]], Strategy]:
    """Register a function from a layer to the branches that replace it."""

    def register(
        function: Callable[[Geometry, Options], Sequence[Branch] | Refusal],
    ) -> Strategy:
        @functools.wraps(function)
        def wrapped(layer: Geometry, options: Options) -> Unit | Refusal:
            branches = function(layer, options)
            return branches if isinstance(branches, Refusal) else Unit(name, tuple(branches))

        STRATEGIES[name] = wrapped
        return wrapped

    return register


def refused(message: str) -> Refusal:
    """Create the refusal of a layer to which a strategy does not apply."""
    return Refusal(Reason.STRATEGY, message)


def parse_strategy(text: str) -> tuple[str, ...]:
    """Return the strategies named by a text such as `ck+fc`, in the order in which to try them.

    `auto` stands for the paper's three; which layers it leaves, `Expand` decides.

    Raises:
        UsageError: A strategy does not exist.
    """
    names = _AUTO if text == "auto" else tuple(text.split("+"))
    registered = plugins.names(plugins.STRATEGIES)
    for name in names:
        if name not in STRATEGIES and name in registered:
            plugins.load(plugins.STRATEGIES, name)
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        known = ", ".join([*dict.fromkeys([*STRATEGIES, *registered]), "auto"])
        raise UsageError(f"strategy '{text}': '{unknown[0]}' is none of {known} (join with '+')")
    return names


_MOST = 1 << 36  # parameters of one unit; as float64, in which they are drawn, half a terabyte


def factorize(geometry: Geometry, strategies: Sequence[str], options: Options) -> Unit | Refusal:
    """Return the unit of the first strategy that applies to a layer, or why none does.

    Raises:
        UsageError: It would be larger than any machine holds.
    """
    refusals = []
    for name in strategies:
        unit = STRATEGIES[name](geometry, options)
        if not isinstance(unit, Refusal):
            if unit.parameters > _MOST:
                raise UsageError(
                    f"strategy '{name}' would make over {_MOST} parameters of "
                    f"{geometry.parameters}; lower the rate, the rank or the number of branches"
                )
            return unit
        refusals.append(unit.message)
    return Refusal(Reason.STRATEGY, "; ".join(refusals))
