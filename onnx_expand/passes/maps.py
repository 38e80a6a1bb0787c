"""Writing a merged map: the nodes that a span of a region becomes, with their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.cost import Cost
from onnx_expand.elements import Element
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.geometry import Geometry
from onnx_expand.lift import Linear
from onnx_expand.lift.base import LARGEST
from onnx_expand.lower import Form, Names, Target, Template, constant, lower
from onnx_expand.passes.borders import Border, bridge
from onnx_expand.passes.partition import Merged, Partitioner, Policy, Span, units_of
from onnx_expand.passes.renaming import state_shape, write_renames
from onnx_expand.passes.rewrite import Rewriter, label
from onnx_expand.passes.units import unmark
from onnx_expand.values import Facts, Shape

__all__ = ["MapWriter", "discard"]

_GROWTH = 4  # times the parameters that were there


class MapWriter:
    """Writes nodes that are in no graph yet.

    Attributes:
        simpler: Whether a result came out simpler than its parts foretold, a bias that cancelled
            for instance, so that more may merge now.
    """

    def __init__(self, facts: Facts, rewriter: Rewriter, policy: Policy) -> None:
        self.facts = facts
        self.rewriter = rewriter
        self.policy = policy
        self.simpler = False

    def bridge(
        self, way: Border, part: Partitioner, span: Span, shape: Shape | None
    ) -> list[ir.Node] | Refusal:
        """The nodes that the first two maps of a span become with a border bridged in some way."""
        inside, links, old = part.inside(span), part.leaves(span), part.nodes(span)
        try:
            f = part.load(Span(span.first, span.last - 1))
            g = part.load(Span(span.last, span.last))
            target = self._target(inside[0].input, links, old, self._template(inside, links))
            static = shape is not None and None not in shape[2:]
            extents = part.extents_before(span) if static else (None,) * g.rank
            return bridge(way, f, g, extents, target)
        except RefusedError as error:
            return error.refusal

    def write(
        self, part: Partitioner, span: Span, shared: Sequence[ir.Node] = ()
    ) -> list[ir.Node] | Refusal:
        """The nodes that a span becomes; nothing in the graph is touched yet.

        Nodes that are shared with others stay for now, and keep their names.
        """
        merged = part.merged(span)
        assert isinstance(merged, Merged)
        inside = part.inside(span)
        links = [link for link in part.leaves(span) if link.node not in shared]
        old = [node for node in part.nodes(span) if node not in shared]
        template = self._template(inside[: 0 if shared else None], links)
        simpler = self.simpler
        refusal = self._too_much(part.as_is(span), inside, merged)
        if refusal is not None:
            return refusal
        try:
            affine, shift = _numbers(part, span, merged)
            if merged.form not in {Form.GEMM, Form.MATMUL}:
                affine = affine.finest()
            self.simpler |= affine.geometry != merged.geometry
            # A constant that the nodes map is read by what they become, too.
            free = set(self.rewriter.own_names(old)) - {inside[0].input.name or ""}
            target = self._target(inside[0].input, links, old, template, free)
            units = [unit for unit, _ in units_of(inside)]
            whole = bool(units) and len(units[0]) == len(inside)
            nodes = []
            if shift is not None:
                nodes.append(self._add_before(shift, merged, target, free))
                target = replace(target, x=nodes[0].outputs[0])
            nodes += self._lower(affine, merged, target, template, free, restore=whole)
            # Several nodes, or one for all channels alike, have merits of their own next time; and
            # a value that was beyond a change of layout may be next to its like now.
            self.simpler |= len(nodes) > 1 or merged.form is Form.ELEMENTWISE
            self.simpler |= merged.layout is not None
        except RefusedError as error:
            self.simpler = simpler
            return error.refusal
        except MemoryError:
            self.simpler = simpler
            return Refusal(Reason.UNSUPPORTED, "the merged weights do not fit into memory")
        if not whole and not shared and self._gains_nothing(part, span, nodes, merged):
            discard(nodes)
            self.simpler = simpler
            return Refusal(Reason.COST, "merging would gain nothing")
        for node in nodes:
            unmark(node)
        return nodes

    def _too_much(self, before: Cost, inside: Sequence[Element], merged: Merged) -> Refusal | None:
        """Why numbers are not composed that take more memory or time than the model is worth."""
        size = math.prod(merged.geometry.weight_shape)
        if size > max(LARGEST, _GROWTH * before.parameters):
            text = f"the merged weight would have {size} elements"
            return Refusal(Reason.COST, text, {"elements": size})
        parts = [e.geometry for e in inside if isinstance(e.geometry, Geometry)]
        taps = math.prod(merged.geometry.kernel)
        products = min(
            _products(parts, merged.geometry.in_channels * taps),
            _products(parts[::-1], merged.geometry.out_channels * taps),
        )
        if self.facts.budget.compose(products):
            return None
        text = f"composing the weights would take {products} products"
        return Refusal(Reason.COST, text, {"products": products})

    def _gains_nothing(
        self, part: Partitioner, span: Span, nodes: Sequence[ir.Node], merged: Merged
    ) -> bool:
        """Whether nodes hold more numbers than was foretold, a bias of zeros say, for nothing."""
        read = {v for node in nodes for v in node.inputs if v is not None}
        new = [v.const_value for v in read if not v.is_initializer() and v.const_value is not None]
        sizes = (tensor.size for tensor in new if tensor.dtype.is_floating_point())
        extra = sum(sizes) - merged.cost.parameters
        actual = merged.cost + Cost(0, extra, 0)
        before = part.as_is(span)
        return extra > 0 and self.policy.key(actual) >= self.policy.key(before)

    def _lower(
        self,
        affine: AffineConv,
        merged: Merged,
        target: Target,
        template: Template | None,
        free: set[str],
        *,
        restore: bool,
    ) -> list[ir.Node]:
        """The nodes of a map, with renames around it where its layout has any."""
        layout, geometry = merged.layout, affine.geometry
        if layout is None or merged.axes is None:
            ends: tuple[int | None, int | None] = (None, None)
        else:
            first = next(iter(layout.before), None)
            m = geometry.in_channels
            if first is not None and layout.spreads:
                m = first.channels[0]  # what becomes features was scaled by itself at most
            ends = m, geometry.out_channels

        def unique(name: str) -> str:
            return self.rewriter.unique(name, free=free)

        nodes: list[ir.Node] = []
        try:
            if layout is not None:
                nodes += write_renames(layout.before, target.x, ends[0], self.facts, unique)
            x = nodes[-1].outputs[0] if nodes else target.x
            mapping = lower(
                affine,
                merged.form,
                merged.axes,
                replace(target, x=x),
                template,
                restore=restore,
            )
            nodes += mapping
            if layout is not None:
                y = nodes[-1].outputs[0]
                axis = None if merged.axes is None else merged.axes[1]
                for node in mapping if layout.after else ():
                    extents = layout.after[0].source
                    state_shape(node.outputs[0], extents, axis, ends[1], self.facts, target.dtype)
                nodes += write_renames(layout.after, y, ends[1], self.facts, unique)
        except RefusedError:
            discard(nodes)
            raise
        return nodes

    def _add_before(
        self, shift: npt.NDArray[np.float64], merged: Merged, target: Target, free: set[str]
    ) -> ir.Node:
        """The node that adds a shift per channel to the input of a map."""
        assert merged.axes is not None
        rank = self.facts.rank(target.x)
        if rank is None and merged.axes[0] >= 0:
            raise RefusedError(
                Refusal(Reason.UNKNOWN_SHAPE, f"the rank of '{target.x.name}' is not known")
            )
        behind = -1 - merged.axes[0] if rank is None else rank - 1 - merged.axes[0]
        stem = target.names.node
        name = self.rewriter.unique(f"{stem}.shift", free=free)
        value = constant(shift.reshape(-1, *(1,) * behind), name, target.dtype)
        node = ir.node("Add", [target.x, value], name=self.rewriter.unique(f"{stem}.add"))
        out = node.outputs[0]
        out.dtype = target.dtype
        dims = self.facts.extents(target.x)
        if dims is not None:
            self.facts.state(out, dims)
        return node

    def _template(self, inside: Sequence[Element], links: Sequence[Linear]) -> Template | None:
        """The node to write a span like: one that expand replaced, else its heaviest node."""
        for _, member in units_of(inside):
            return member.template()
        for link in sorted(links, key=lambda link: -link.geometry.parameters):
            template = Template.of(link, self.facts)
            if template is not None:
                return template
        return None

    def _target(
        self,
        x: ir.Value,
        links: Sequence[Linear],
        old: Sequence[ir.Node],
        template: Template | None,
        free: set[str] | None = None,
    ) -> Target:
        free = set(self.rewriter.own_names(old)) if free is None else free
        constants = (c for link in links for c in (link.weight, link.bias) if c is not None)
        known = (self.facts.dtype(v) for v in (x, old[-1].outputs[0], *constants))
        dtype = next((d for d in known if d is not None), None)
        if dtype is None:
            raise RefusedError(Refusal(Reason.UNKNOWN_SHAPE, "the type of its input is not known"))
        read = (v.const_value for n in old for v in n.inputs if v is not None)
        # What replaces weights that lie in a file waits in a file, too.
        on_disk = any(isinstance(tensor, ir.ExternalTensor) for tensor in read)
        spill = self.rewriter.spill if on_disk else None
        return Target(x, dtype, self._names(old, links, template, free), self.facts, spill)

    def _names(
        self,
        old: Sequence[ir.Node],
        links: Sequence[Linear],
        template: Template | None,
        free: set[str],
    ) -> Names:
        shift = next((link for link in links if link.node.op_type == "Add"), None)
        biases = [link.bias.name for link in links if link.bias is not None and link.bias.name]
        node = label(old[0])
        weights = [link.weight.name for link in links if link.weight is not None]
        weight = next((name for name in weights if name), f"{node}.weight")
        bias = biases[0] if biases else _bias_name(weight)
        if template is not None:
            node = template.node.name or node
            weight = template.input_name(1 - template.slot if template.slot < 2 else 1) or weight
            bias = template.input_name(2) or (biases[0] if biases else _bias_name(weight))
        add = shift.node.name if shift is not None and shift.node.name else f"{node}.bias"
        free.discard(node)
        weight, bias, add = (self.rewriter.unique(n, free=free) for n in (weight, bias, add))
        return Names(node, weight, bias, add)


def _products(parts: Sequence[Geometry], most: int) -> int:
    """Multiply-accumulates of composing maps one by one, about.

    Args:
        parts: The maps, from either end.
        most: How many numbers a channel of the result can have.
    """
    total, fan = 0, 1
    for i, part in enumerate(parts):
        size = math.prod(part.weight_shape)
        total += size * fan if i else 0
        fan = min(most, fan * max(1, size // min(part.in_channels, part.out_channels)))
    return total


def _numbers(
    part: Partitioner, span: Span, merged: Merged
) -> tuple[AffineConv, npt.NDArray[np.float64] | None]:
    """The numbers of a span, and the shift that is added before it, if there is one."""
    if not merged.shifted:
        return part.load(span), None
    scaling = part.load(Span(span.first, span.first + merged.shifted - 1)).finest()
    rest = part.load(Span(span.first + merged.shifted, span.last))
    scale, bias = scaling.weight.reshape(-1), scaling.bias
    assert bias is not None
    shift = np.divide(bias, scale, out=np.zeros_like(bias), where=scale != 0)
    return rest @ replace(scaling, bias=None), shift


def _bias_name(weight: str) -> str:
    stem, dot, last = weight.rpartition(".")
    return f"{stem}{dot}bias" if last == "weight" else f"{weight}.bias"


def discard(nodes: Sequence[ir.Node]) -> None:
    """Take back nodes that were written but will not be used: they count as readers."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
