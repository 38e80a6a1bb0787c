"""Expand: replace linear layers by chains of linear layers that train better."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.cost import Inspection, inspect_model
from onnx_expand.errors import Reason, Refusal, UsageError
from onnx_expand.factorize import Options, factorize, parse_strategy, random_init
from onnx_expand.geometry import Geometry
from onnx_expand.lift import Axes, Linear, lift
from onnx_expand.lower import Form, Names, Target, Template, lower
from onnx_expand.passes.rewrite import Rewriter, label
from onnx_expand.passes.units import EXPANDED, mark, unit_member
from onnx_expand.values import Facts

__all__ = ["Expand", "ExpandReport", "ExpandResult", "Expansion", "Skipped"]

_EXPANDABLE = {"Conv": Form.CONV, "Gemm": Form.GEMM, "MatMul": Form.MATMUL}


@dataclass(frozen=True)
class Expansion:
    """One layer that was expanded.

    Attributes:
        node: The layer's name.
        result: The names of the layers that replace it.
        widths: Channels before, between and after them.
    """

    node: str
    result: tuple[str, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Skipped:
    """One layer that was left as it is, and why."""

    node: str
    refusal: Refusal


@dataclass(frozen=True)
class ExpandReport:
    """What expand did, and what the model costs before and after."""

    expanded: tuple[Expansion, ...]
    skipped: tuple[Skipped, ...]
    before: Inspection
    after: Inspection

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return {
            "schema": 1,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "expanded": [
                {"node": e.node, "result": list(e.result), "widths": list(e.widths)}
                for e in self.expanded
            ],
            "skipped": [{"node": s.node, **s.refusal.as_dict()} for s in self.skipped],
        }


@dataclass
class ExpandResult(ir.passes.PassResult):
    """The result of `Expand`, with its report."""

    report: ExpandReport


@dataclass(frozen=True)
class Expand(ir.passes.InPlacePass):
    """Replace Conv, Gemm and MatMul nodes with constant weights by chains of linear nodes.

    The new layers start from random numbers, as the paper's do: the model has to be trained
    before it is of use. What replaced what is recorded on the nodes, for fold.

    Attributes:
        strategy: `cl`, `ck`, `fc`, a combination such as `ck+fc`, or `auto`.
        rate: The expansion rate: inner widths are so many times the layer's own.
        first_width: `keep` leaves the input width of the first convolutions as it is in their
            first factor, `expand` does not.
        include: A regular expression; only nodes with a match in their name are expanded. 1x1
            convolutions, which the paper leaves alone, are expanded only when it is given.
        exclude: A regular expression; nodes with a match in their name are not expanded.
        layers: How many layers replace a fully connected one, 2 or 3.
        seed: Decides the random numbers, for each node on its own.

    Raises:
        UsageError: An option has a value that makes no sense.
    """

    strategy: str = "auto"
    rate: float = 4.0
    first_width: str = "keep"
    include: str | None = None
    exclude: str | None = None
    layers: int = 3
    seed: int = 0
    _strategies: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_strategies", parse_strategy(self.strategy))
        Options(self.rate, layers=self.layers)
        if self.first_width not in {"keep", "expand"}:
            raise UsageError(f"first_width is '{self.first_width}'; give keep or expand")
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; it must not be negative")
        for name in ("include", "exclude"):
            pattern = getattr(self, name)
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise UsageError(
                    f"{name}: '{pattern}' is no regular expression: {error}"
                ) from None

    def call(self, model: ir.Model) -> ExpandResult:
        """Expand a model in place."""
        before = inspect_model(model)
        facts, rewriter = Facts(model), Rewriter(model)
        first = _first_convolutions(model)
        expanded: list[Expansion] = []
        skipped: list[Skipped] = []
        for node in [node for graph in model.graphs() for node in graph]:
            linear = self._selected(node, facts)
            if isinstance(linear, Linear):
                factors = self._factors(linear, node in first)
                if isinstance(factors, Refusal):
                    linear = factors
                else:
                    expanded.append(self._replace(linear, factors, facts, rewriter))
            if isinstance(linear, Refusal):
                skipped.append(Skipped(label(node), linear))
        rewriter.finish()
        model.metadata_props[EXPANDED] = "true"
        after = inspect_model(model) if expanded else before
        report = ExpandReport(tuple(expanded), tuple(skipped), before, after)
        return ExpandResult(model, True, report)

    def _selected(self, node: ir.Node, facts: Facts) -> Linear | Refusal | None:
        if node.domain or node.op_type not in _EXPANDABLE:
            return None
        name = label(node)
        if self.include is not None and not re.search(self.include, name):
            return Refusal(Reason.SELECTION, "its name does not match include")
        if self.exclude is not None and re.search(self.exclude, name):
            return Refusal(Reason.SELECTION, "its name matches exclude")
        if unit_member(node) is not None:
            return Refusal(Reason.SELECTION, "it is part of an expansion already")
        linear = lift(node, facts)
        if not isinstance(linear, Linear) or linear.weight is None:
            return linear if isinstance(linear, Refusal) else None
        if len(linear.weight.uses()) > 1:
            hint = "give each reader its own copy of the weight"
            return Refusal(Reason.SHARED, f"others read '{linear.weight.name}' too", hint=hint)
        if linear.geometry.rank and set(linear.geometry.kernel) == {1} and self.include is None:
            hint = "name it with include"
            return Refusal(Reason.SELECTION, "1x1 convolutions are left alone", hint=hint)
        return linear

    def _factors(self, linear: Linear, first: bool) -> list[Geometry] | Refusal:
        # Every factor has a bias if the layer has one, even one that is all zeros.
        layer = replace(linear.geometry, bias=linear.bias is not None)
        options = Options(self.rate, first and self.first_width == "keep", self.layers)
        return factorize(layer, self._strategies, options)

    def _replace(
        self, linear: Linear, factors: Sequence[Geometry], facts: Facts, rewriter: Rewriter
    ) -> Expansion:
        node, template = linear.node, Template.of(linear, facts)
        assert template is not None
        assert linear.axes is not None
        assert linear.weight is not None
        name, rng = label(node), np.random.default_rng([self.seed, _stable_hash(label(node))])
        form, dtype = _EXPANDABLE[node.op_type], facts.tensor(linear.weight).dtype
        value, axes, new = linear.x, linear.axes, []
        for index, factor in enumerate(factors):
            names = _names(rewriter, node, linear.weight.name or name, index)
            affine = random_init(factor, rng)
            new += lower(affine, form, axes, Target(value, dtype, names, facts))
            shape = _shape_after(value, facts, affine, axes)
            value, axes = new[-1].outputs[0], (axes[1], axes[1])
            value.name, value.shape = rewriter.unique(f"{names.node}.out"), shape
            value.type = ir.TensorType(dtype)
        mark(new, f"{linear.y.name}", template)
        rewriter.replace([node], new)
        widths = (factors[0].in_channels, *(f.out_channels for f in factors))
        return Expansion(name, tuple(map(label, new)), widths)


def _first_convolutions(model: ir.Model) -> set[ir.Node]:
    """The Conv nodes that no other Conv precedes."""
    behind: set[ir.Value] = set()
    first = set()
    for graph in model.graphs():
        for node in graph:
            follows = any(value in behind for value in node.inputs)
            if node.op_type == "Conv" and not follows:
                first.add(node)
            if node.op_type == "Conv" or follows:
                behind.update(node.outputs)
    return first


def _names(rewriter: Rewriter, node: ir.Node, weight: str, index: int) -> Names:
    stem, dot, last = weight.rpartition(".")
    base = stem if dot and last == "weight" else weight
    name = rewriter.unique(f"{label(node)}.{index}")
    return Names(
        name,
        rewriter.unique(f"{base}.{index}.weight"),
        rewriter.unique(f"{base}.{index}.bias"),
        f"{name}.add",
    )


def _shape_after(x: ir.Value, facts: Facts, affine: AffineConv, axes: Axes) -> ir.Shape | None:
    known = facts.shape(x)
    if known is None:
        return None
    own = list(x.shape) if x.shape is not None and len(x.shape) == len(known) else list(known)
    dims: list[Any] = [k if k is not None else o for k, o in zip(known, own, strict=True)]
    if axes[0] != axes[1]:
        dims[axes[0]], dims[axes[1]] = dims[axes[1]], dims[axes[0]]
    dims[axes[1]] = affine.geometry.out_channels
    for axis in range(affine.rank):
        size = known[2 + axis]
        sizes = [1] * affine.rank if size is None else [size] * affine.rank
        extent = affine.geometry.output_extents(sizes)[axis]
        dims[2 + axis] = None if size is None else extent
    return ir.Shape(dims)


def _stable_hash(text: str) -> int:
    return zlib.crc32(text.encode())
