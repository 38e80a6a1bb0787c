"""Plans: which layers to expand, and how.

A plan is a list of rules, of which the first that selects a layer applies, and entries for single
nodes, which take precedence over the rules. `expand --plan-out` writes the entries of the layers
that it expanded. The package includes named plans, among them those of the ExpandNets paper,
written as rules so that they apply to any export of a network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from onnx_expand.errors import UsageError
from onnx_expand.factorize import Options, parse_strategy
from onnx_expand.options import settle

__all__ = ["How", "Plan", "Rule", "Select"]

_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PLACES = ("first", "inner", "last")


@dataclass(frozen=True)
class Select:
    """Criteria that select layers; those left out do not restrict the selection.

    Attributes:
        ops: Op types.
        kernels: Extents of the kernel, such as (7, 1); a single one applies to every axis.
        strides: Strides, equal on every axis.
        depthwise: Whether every channel is a group of its own.
        residual: Whether the layer lies in a residual block, beside a shortcut.
        place: `first` (no linear layer precedes), `last` (none follows) or `inner`; several are
            joined with `+`.
        path: `contracting` (nothing was upsampled before) or `expanding`.
        include: A regular expression that matches the name.
        exclude: A regular expression that does not match the name.
        limit: The maximum number of layers, in the order of the graph.

    Raises:
        UsageError: A value is invalid.
    """

    ops: tuple[str, ...] = ()
    kernels: tuple[tuple[int, ...], ...] = ()
    strides: tuple[int, ...] = ()
    depthwise: bool | None = None
    residual: bool | None = None
    place: str | None = None
    path: Literal["contracting", "expanding"] | None = None
    include: str | None = None
    exclude: str | None = None
    limit: int | None = None

    @property
    def names_layers(self) -> bool:
        """Whether a criterion says which layers to take, and not only which to leave."""
        return self != Select(exclude=self.exclude, limit=self.limit)

    def __post_init__(self) -> None:
        settle(self)
        places = [] if self.place is None else self.place.split("+")
        for name, values, known in (("ops", self.ops, _OPS), ("place", places, _PLACES)):
            for value in values:
                if value not in known:
                    raise UsageError(f"{name}: '{value}' is none of {', '.join(known)}")
        for kernel in self.kernels:
            if not kernel or min(kernel) < 1:
                raise UsageError(f"kernel {list(kernel)}: extents are 1 or more, as in 7x1")
        if min(self.strides, default=1) < 1:
            raise UsageError(f"strides are {list(self.strides)}; they are 1 or more")
        if self.limit is not None and self.limit < 0:
            raise UsageError(f"limit is {self.limit}; it must not be negative")
        for name in ("include", "exclude"):
            pattern = getattr(self, name)
            try:
                re.compile(pattern or "")
            except re.error as error:
                message = f"{name}: '{pattern}' is not a regular expression: {error}"
                raise UsageError(message) from None


@dataclass(frozen=True)
class How:
    """How a layer is expanded; values left out default to the options of expand.

    Attributes:
        strategy: `cl`, `ck`, `fc`, ... or a combination such as `ck+fc`.
        rate: The expansion rate.
        layers: The number of layers that replace a fully connected one, 2 or 3.
        first_width: `keep` or `expand` the input width of the first convolutions.
        norm: Batch normalization in the branches of a sum: `none`, `bn` or `auto`.
        branches: The number of copies of the layer that `mobileone` sums.
        rank: Inner width of the side path of `lowrank`.

    Raises:
        UsageError: A value is invalid.
    """

    strategy: str | None = None
    rate: float | None = None
    layers: int | None = None
    first_width: Literal["keep", "expand"] | None = None
    norm: Literal["auto", "none", "bn"] | None = None
    branches: int | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        if self.strategy is not None:
            parse_strategy(self.strategy)
        given = {
            name: value
            for name in ("rate", "layers", "branches", "rank")
            if (value := getattr(self, name)) is not None
        }
        Options(**given)

    def over(self, other: How) -> How:
        """Return these values, with those left out taken from another instance."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return How(**{k: getattr(other, k) if v is None else v for k, v in own.items()})


@dataclass(frozen=True)
class Rule:
    """A selection of layers, and how they are expanded."""

    select: Select = Select()
    how: How = How()


@dataclass(frozen=True)
class Plan:
    """Which layers to expand, and how.

    Attributes:
        name: Its name, or the file that it was read from.
        summary: One line that describes it.
        rules: The rules; the first that selects a layer applies.
        nodes: How to expand single nodes, by name; these take precedence over the rules.
    """

    name: str
    summary: str = ""
    rules: tuple[Rule, ...] = ()
    nodes: Mapping[str, How] = field(default_factory=dict)
