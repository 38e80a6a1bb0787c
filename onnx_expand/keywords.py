"""Typed keywords of `expand`, `fold` and `check`, for type checkers and editors.

The dataclasses `Expand`, `Fold`, `Preprocess` and `CheckOptions` declare the same options with
defaults and help; a test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from onnx_expand.equivalence.options import Given
    from onnx_expand.linear.policy import Policy
    from onnx_expand.linear.rules.bridges import Border
    from onnx_expand.passes.plans import Plan

__all__ = [
    "CheckKeywords",
    "ExpandCall",
    "ExpandKeywords",
    "FoldCall",
    "FoldKeywords",
    "Handover",
    "Shapes",
]

Shapes = Mapping[str, Sequence[int | str]]
"""Extents of inputs, by name; a string is a symbolic extent."""


class Handover(TypedDict, total=False):
    """Keywords that all passes share: where the result is written and how it is verified."""

    verify: bool | int
    shapes: Shapes | None
    assume_constant_initializers: bool


class FoldKeywords(TypedDict, total=False):
    """Options of `fold`: the fields of `Fold` and `Preprocess`."""

    policy: Policy | str
    border: Border | str
    provider: str | None
    seconds: float
    threads: int
    inline: bool
    clean: bool
    provenance: bool
    mean: Sequence[float] | None
    std: Sequence[float] | None
    swap_rb: bool
    input: str | None


class ExpandKeywords(TypedDict, total=False):
    """Options of `expand`: the fields of `Expand`."""

    strategy: str
    rate: float
    first_width: str
    include: str | None
    exclude: str | None
    layers: int
    seed: int
    init: str
    nonlinear: str | None
    norm: str
    branches: int
    rank: int
    plan: str | Plan | None
    ops: Sequence[str]
    kernels: Sequence[int | str | tuple[int, ...]]
    strides: Sequence[int]
    depthwise: bool | None
    residual: bool | None
    place: str | None
    path: str | None
    max_params_mult: float | None
    max_residual: float


class FoldCall(FoldKeywords, Handover, total=False):
    """All keywords of `fold` except `report`, which determines the return type."""


class ExpandCall(ExpandKeywords, Handover, total=False):
    """All keywords of `expand` except `report`, which determines the return type."""


class CheckKeywords(TypedDict, total=False):
    """Options of `check`: the fields of `CheckOptions`."""

    samples: int
    seed: int
    providers: Sequence[str] | None
    providers_b: Sequence[str] | None
    as_deployed: bool
    rtol: float | None
    atol: float | None
    factor: float
    inputs: Given | None
    ranges: Mapping[str, tuple[float, float]] | None
    shapes: Shapes | None
    regions: bool
