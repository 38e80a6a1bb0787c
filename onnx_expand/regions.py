"""Affine regions: the stretches of a graph within which nodes may be merged.

A region has one input and one output tensor, and nothing outside reads what lies between. Here it
is a chain of linear nodes; each link maps the channels that the one before it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.lift import Linear, lift
from onnx_expand.values import Facts

__all__ = ["Break", "Chain", "find_chains"]

# Extents that stand for those that are not static: large, so that the positions a border adds or
# takes away do not decide what is cheaper.
_NOMINAL = 1 << 16


@dataclass(frozen=True)
class Chain:
    """Linear nodes one after the other, each the only reader of the one before.

    Attributes:
        links: The nodes, first one first, at least one.
        extents: Spatial extents of the chain's input, nominal where they are not static.
    """

    links: tuple[Linear, ...]
    extents: tuple[int, ...]


@dataclass(frozen=True)
class Break:
    """Why two linear nodes, or a node of a linear op and the rest, are not in one region.

    Attributes:
        nodes: The nodes concerned.
        refusal: The reason.
    """

    nodes: tuple[ir.Node, ...]
    refusal: Refusal


def find_chains(graph: ir.Graph, facts: Facts) -> tuple[list[Chain], list[Break]]:
    """The maximal chains of linear nodes in a graph, in order, and why they end where they do."""
    linear: dict[ir.Node, Linear] = {}
    breaks: list[Break] = []
    for node in graph:
        lifted = lift(node, facts)
        if isinstance(lifted, Linear):
            linear[node] = lifted
        elif lifted is not None:
            breaks.append(Break((node,), lifted))
    following: dict[ir.Node, ir.Node] = {}
    for node, link in linear.items():
        found = _next_link(link, linear)
        if isinstance(found, Linear):
            following[node] = found.node
        elif found is not None:
            breaks.append(found)
    followers = set(following.values())
    chains: list[Chain] = []
    for node in linear:
        if node in followers:
            continue
        run = [linear[node]]
        while (successor := following.get(run[-1].node)) is not None:
            run.append(linear[successor])
        for links in _split_at_axes(run, breaks):
            chains.append(Chain(links, _extents(links, facts)))
    return chains, breaks


def _next_link(link: Linear, linear: dict[ir.Node, Linear]) -> Linear | Break | None:
    """The linear node that alone reads a link's output, or why there is none."""
    uses = list(link.y.uses())
    readers = {use.node for use in uses}
    followers = [linear[n] for n in readers if n in linear and linear[n].x is link.y]
    if not followers:
        return None
    nodes = (link.node, *(f.node for f in followers))
    if link.y.is_graph_output():
        return Break(
            nodes,
            Refusal(Reason.OUTPUT, f"'{link.y.name}' in between is an output of the graph"),
        )
    if len(uses) > 1:
        return Break(
            nodes,
            Refusal(
                Reason.SHARED,
                f"'{link.y.name}' in between is read {len(uses)} times",
                {"reads": len(uses)},
            ),
        )
    follower = followers[0]
    return follower if follower.node.graph is link.node.graph else None


def _split_at_axes(run: Sequence[Linear], breaks: list[Break]) -> list[tuple[Linear, ...]]:
    """Cut a run where the channel axis changes, and settle the maps that take any axis."""
    parts: list[list[Linear]] = [[]]
    axis: int | None = None
    for link in run:
        if link.axes is not None and axis is not None and link.axes[0] != axis:
            before = parts[-1][-1]
            message = f"it maps axis {link.axes[0]}, the node before it wrote axis {axis}"
            breaks.append(Break((before.node, link.node), Refusal(Reason.GEOMETRY, message)))
            parts.append([])
            axis = None
        parts[-1].append(link)
        axis = link.axes[1] if link.axes is not None else axis
    return [_settle(part) for part in parts if part]


def _settle(part: list[Linear]) -> tuple[Linear, ...]:
    """Give every map that treats all channels alike the axis and channels of its neighbours."""
    known = [i for i, link in enumerate(part) if link.axes is not None]
    if not known:
        return tuple(part)
    settled = list(part)
    first = part[known[0]]
    assert first.axes is not None
    axis, channels = first.axes[0], first.geometry.in_channels
    for i, link in enumerate(part):
        if link.axes is None:
            settled[i] = link.on(axis, channels)
        else:
            axis, channels = link.axes[1], link.geometry.out_channels
    return tuple(settled)


def _extents(links: Sequence[Linear], facts: Facts) -> tuple[int, ...]:
    rank = max(link.geometry.rank for link in links)
    shape = facts.shape(links[0].x)
    if shape is None or len(shape) != rank + 2:
        return (_NOMINAL,) * rank
    return tuple(_NOMINAL if size is None else size for size in shape[2:])
