"""Survey the layers of a model and decide which of them a plan selects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of, ops_with
from onnx_expand.lift import Linear, lift
from onnx_expand.passes.plans import Select

__all__ = ["EXPANDABLE", "Candidate", "survey", "why_not"]

EXPANDABLE, _UPSAMPLING = ops_with(Trait.LAYER), ops_with(Trait.UPSAMPLES)
_SUMS = frozenset({"Add", "Sum"})


@dataclass(frozen=True)
class Candidate:
    """A node whose op can be expanded.

    Attributes:
        node: The node.
        linear: Its map, or why it has none, or None if it reads no constant.
        reads_image: Whether it is a convolution that follows no other.
        places: `first`, `last` or `inner` among the linear layers.
        residual: Whether it lies in a residual block, beside the shortcut.
        path: `contracting` if nothing was upsampled before it, else `expanding`.
    """

    node: ir.Node
    linear: Linear | Refusal | None
    reads_image: bool
    places: frozenset[str]
    residual: bool
    path: str

    @property
    def name(self) -> str:
        """The name in messages and plans."""
        return label(self.node)


def survey(model: ir.Model, facts: Facts) -> list[Candidate]:
    """Return the nodes of a model whose op can be expanded, in order."""
    sites = []
    for graph in model.graphs():
        nodes = list(graph)
        residual = _residual(nodes)
        behind_conv = _reached(nodes, {"Conv"})
        behind = _reached(nodes, EXPANDABLE)
        ahead = _reached(nodes, EXPANDABLE, backwards=True)
        raised = _reached(nodes, _UPSAMPLING)
        for node in nodes:
            if node.domain or node.op_type not in EXPANDABLE:
                continue
            ends = {"first"} - {"first" if node in behind else ""}
            ends |= {"last"} - {"last" if node in ahead else ""}
            up = node in raised or node.op_type in _UPSAMPLING
            sites.append(
                Candidate(
                    node,
                    _placed(lift(node, facts)),
                    node.op_type == "Conv" and node not in behind_conv,
                    frozenset(ends or {"inner"}),
                    node in residual,
                    "expanding" if up else "contracting",
                )
            )
    return sites


def _placed(linear: Linear | Refusal | None) -> Linear | Refusal | None:
    """Refuse a layer whose borders are unknown; return other layers as they are."""
    return linear.geometry.floating() or linear if isinstance(linear, Linear) else linear


def why_not(select: Select, site: Candidate) -> Refusal | None:
    """Return why a layer is not selected by its name, op or place, or None if it is."""
    name = site.name
    if select.include is not None and not re.search(select.include, name):
        return _unselected("its name does not match include")
    if select.exclude is not None and re.search(select.exclude, name):
        return _unselected("its name matches exclude")
    if select.ops and site.node.op_type not in select.ops:
        return _unselected(f"its op is {site.node.op_type}")
    if select.place is not None and not site.places & set(select.place.split("+")):
        return _unselected(f"its place is {'+'.join(sorted(site.places))}")
    if select.path is not None and site.path != select.path:
        return _unselected(f"it lies on the {site.path} path")
    if select.residual is not None and site.residual is not select.residual:
        beside = "is" if site.residual else "is not"
        return _unselected(f"it {beside} part of a residual block")
    return _unlike(select, site.linear) if isinstance(site.linear, Linear) else None


def _unlike(select: Select, linear: Linear) -> Refusal | None:
    g = linear.geometry
    # A matrix has no kernel, and is selected by its op, place or name.
    wanted = {kernel * g.rank if len(kernel) == 1 else kernel for kernel in select.kernels}
    if select.kernels and (not g.rank or g.kernel not in wanted):
        return _unselected(f"its kernel is {'x'.join(map(str, g.kernel)) or 'a matrix'}")
    if select.strides and (not g.rank or not any(set(g.strides) == {s} for s in select.strides)):
        return _unselected(f"its stride is {'x'.join(map(str, g.strides)) or 'none'}")
    depthwise = bool(g.rank) and g.group == g.in_channels > 1
    if select.depthwise is not None and depthwise is not select.depthwise:
        return _unselected(f"it is {'' if depthwise else 'not '}depthwise")
    return None


def _unselected(message: str) -> Refusal:
    return Refusal(Reason.SELECTION, message)


def _reached(nodes: Sequence[ir.Node], ops: Set[str], *, backwards: bool = False) -> set[ir.Node]:
    """Return the nodes that depend on a layer of some ops, or backwards those it depends on."""
    values: set[ir.Value | None] = set()
    found = set()
    for node in reversed(nodes) if backwards else nodes:
        before, after = node.inputs, node.outputs
        if backwards:
            before, after = after, before
        if not values.isdisjoint(before):
            found.add(node)
        if node in found or (node.op_type in ops and _is_layer(node)):
            values.update(after)
    return found


def _is_layer(node: ir.Node) -> bool:
    """Return whether a node has a weight, or its op is not one that has."""
    return node.op_type not in EXPANDABLE or any(
        v is not None and (v.is_initializer() or v.producer() is not None) for v in node.inputs[1:]
    )


def _residual(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Return the nodes between a value and a sum that adds the value, or its projection, again."""
    order = {node: i for i, node in enumerate(nodes)}
    found: set[ir.Node] = set()
    for node in nodes:
        if node.op_type in _SUMS and not node.domain:
            for i, value in enumerate(node.inputs):
                others = [v for j, v in enumerate(node.inputs) if j != i and v is not None]
                if value is not None:
                    found |= _block(list(_shortcut(value)), others, order)
    return found


def _shortcut(value: ir.Value) -> Iterator[ir.Value]:
    """Yield a value and those that it is a projection of, if they have other consumers."""
    current: ir.Value | None = value
    while current is not None:
        if len(current.uses()) > 1:
            yield current
        node = current.producer()
        plain = node is not None and Trait.SHORTCUT in op_of(node).traits
        current = node.inputs[0] if node is not None and plain else None


def _block(
    starts: Sequence[ir.Value], ends: Sequence[ir.Value], order: dict[ir.Node, int]
) -> set[ir.Node]:
    """Return the nodes on the paths from some values to others."""
    if not starts:
        return set()
    earliest = min(
        (order.get(p, -1) if (p := v.producer()) is not None else -1 for v in starts), default=-1
    )
    above: set[ir.Node] = set()
    pending = [v.producer() for v in ends]
    while pending:
        node = pending.pop()
        if node is None or node in above or order.get(node, -1) <= earliest:
            continue
        above.add(node)
        pending += [v.producer() for v in node.inputs if v is not None and v not in starts]
    reached: set[ir.Value] = set(starts)
    inside = set()
    for node in sorted(above, key=order.__getitem__):
        if any(value in reached for value in node.inputs):
            inside.add(node)
            reached.update(node.outputs)
    return inside if any(value in reached for value in ends) else set()
