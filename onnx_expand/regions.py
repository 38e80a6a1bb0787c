"""Affine regions: the stretches of a graph within which nodes may be merged.

A region has one input and one output tensor, and nothing outside reads what lies between. It is a
chain of elements; an element is one linear node, or a join: parallel branches of one input, each a
chain again, whose outputs are added or concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_expand.affine import AffineConv
from onnx_expand.attributes import int_of
from onnx_expand.elements import Element, Join, Leaf
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.frames import Frame, find_frames
from onnx_expand.geometry import Geometry
from onnx_expand.lift import CONTRADICTIONS, Axes, Linear, contradiction, lift, lift_parts
from onnx_expand.renames import Rename, find_rename
from onnx_expand.values import Facts, Shape

__all__ = ["NOMINAL", "Break", "Chain", "connected", "extents_of", "find_chains"]

# Extents that stand for those that are not static: large, so that the positions a border adds or
# takes away do not decide what is cheaper.
NOMINAL = 1 << 16


@dataclass(frozen=True)
class Chain:
    """Elements one after the other, each the only reader of the one before.

    Attributes:
        root: The value that the first element reads.
        elements: At least one.
        extents: Spatial extents of the root, nominal where they are not static.
        rank: The rank of the root, where known.
    """

    root: ir.Value
    elements: tuple[Element, ...]
    extents: tuple[int, ...]
    rank: int | None


@dataclass(frozen=True)
class Break:
    """Why nodes are not in one region, or why a node of a linear op is in none.

    Attributes:
        nodes: The nodes concerned.
        refusal: The reason.
        value: The name of the tensor between them, where there is one.
    """

    nodes: tuple[ir.Node, ...]
    refusal: Refusal
    value: str = ""


def find_chains(graph: ir.Graph, facts: Facts) -> tuple[list[Chain], list[Break]]:
    """The maximal affine regions of a graph, in order, and why they end where they do."""
    finder = _Finder(facts, find_frames(graph, facts))
    for node in graph:
        finder.visit(node)
    return finder.chains(), finder.breaks


@dataclass(frozen=True)
class _Ends:
    """Channel axes and counts at the two ends of a region."""

    axes: Axes | None
    in_channels: int
    out_channels: int


@dataclass(frozen=True)
class _Segment:
    """A region on its way down: its last element and what came before."""

    root: ir.Value
    entries: frozenset[ir.Node]  # the nodes of the region that read the root
    before: _Segment | None
    element: Element
    ends: _Ends

    @property
    def out_axis(self) -> int | None:
        return None if self.ends.axes is None else self.ends.axes[1]

    def has_renames(self) -> bool:
        """Whether the layout changes on the way."""
        segment: _Segment | None = self
        while segment is not None and not isinstance(segment.element, Rename):
            segment = segment.before
        return segment is not None

    def rank(self) -> int:
        """The spatial rank at the end; 0 where no kernel says it since the layout changed."""
        segment: _Segment | None = self
        while segment is not None and not isinstance(segment.element, Rename):
            if rank := _rank(segment.element):
                return rank
            segment = segment.before
        return 0

    def elements(self) -> tuple[Element, ...]:
        """First to last, each on the channel axes of the region where it takes any."""
        found: list[Element] = []
        segment: _Segment | None = self
        while segment is not None:
            found.append(segment.element)
            segment = segment.before
        found.reverse()
        if self.ends.axes is None:
            return tuple(found)
        axis, channels = self.ends.axes[0], self.ends.in_channels
        for i, element in enumerate(found):
            found[i] = element = element.on(axis, channels)
            if element.axes is not None:
                axis, channels = element.axes[1], element.out_channels
        return tuple(found)


class _Finder:
    """Grows regions along the nodes of one graph."""

    def __init__(self, facts: Facts, frames: Sequence[Frame]) -> None:
        self.facts = facts
        self._framed = {node for frame in frames for node in frame.nodes}
        self._frames = {frame.nodes[-1]: frame for frame in frames}
        self.breaks: list[Break] = []
        self._segments: dict[ir.Value, _Segment] = {}
        self._continued: set[ir.Value] = set()
        self._mappers: dict[ir.Node, ir.Value] = {}  # linear nodes, and what they map

    def visit(self, node: ir.Node) -> None:
        """Take in the next node, in topological order."""
        try:
            self._visit(node)
        except RefusedError as error:
            self.breaks.append(Break((node,), error.refusal))
        except CONTRADICTIONS as error:
            self.breaks.append(Break((node,), contradiction(error)))

    def _visit(self, node: ir.Node) -> None:
        if node in self._framed:
            if node in self._frames:
                self._append_frame(self._frames[node])
            return
        for part in lift_parts(node, self.facts):
            # What lies above belongs to all parts: it is linked where they meet again.
            ends = _Ends(part.axes, part.geometry.in_channels, part.geometry.out_channels)
            entry = frozenset([part.entry or part.node])
            self._segments[part.y] = _Segment(part.x, entry, None, Leaf(part), ends)
        rename = find_rename(node, self.facts)
        if rename is not None:
            self._append_rename(rename)
            return
        lifted = lift(node, self.facts)
        if isinstance(lifted, Linear):
            self._mappers[node] = lifted.x
            self._append_leaf(lifted)
        elif lifted is not None:
            self.breaks.append(Break((node,), lifted))
        elif node.domain == "" and node.op_type in _JOINS and len(node.inputs) > 1:
            self._append_join(node)

    def chains(self) -> list[Chain]:
        """The regions that no later node continued."""
        found = []
        for value, segment in self._segments.items():
            if value in self._continued:
                continue
            root, elements = segment.root, segment.elements()
            if elements[0].leaves_parts():
                root, elements = elements[0].output, elements[1:]
            if not all(isinstance(element, Rename) for element in elements):
                shape = self.facts.shape(root)
                rank = None if shape is None else len(shape)
                found.append(Chain(root, elements, extents_of(elements, shape), rank))
                self._explain(value)
        return found

    def _explain(self, value: ir.Value) -> None:
        """Record why the linear nodes that read the end of a region do not continue it."""
        readers = [n for n in value.consumers() if self._mappers.get(n) is value]
        producer, count = value.producer(), len(self.facts.readers(value))
        if not readers or producer is None:
            return
        nodes, between = (producer, *readers), value.name or ""
        if value.is_graph_output():
            message = f"'{value.name}' in between is an output of the graph"
            self.breaks.append(Break(nodes, Refusal(Reason.OUTPUT, message), between))
        elif count > 1:
            message = f"'{value.name}' in between is read {count} times"
            refusal = Refusal(Reason.SHARED, message, {"reads": count})
            self.breaks.append(Break(nodes, refusal, between))
        elif readers[0].graph is producer.graph:
            message = f"the nodes map different axes of '{value.name}'"
            self.breaks.append(Break(nodes, Refusal(Reason.GEOMETRY, message), between))

    def _append_leaf(self, linear: Linear) -> None:
        above = self._alone(linear.x, linear.node)
        self._append(Leaf(linear), frozenset([linear.node]), above)

    def _append_rename(self, rename: Rename) -> None:
        above = self._alone(rename.input, rename.node)
        if above is not None and above.ends.axes is not None:
            rename = rename.on(above.ends.axes[1], above.ends.out_channels)
            if rename.axes is None:
                return  # channels and positions change places
        ends = _Ends(rename.axes, *rename.channels)
        self._put(rename.input, frozenset([rename.node]), above, rename, ends)

    def _append_frame(self, frame: Frame) -> None:
        channels, rank = frame.fill.size, len(frame.pads) // 2
        ones = (1,) * rank
        geometry = Geometry(channels, channels, ones, pads=frame.pads, group=channels)

        def load() -> AffineConv:
            return replace(AffineConv.identity(channels, rank), pads=frame.pads)

        slot = frame.pad.inputs.index(frame.x)
        node = frame.nodes[-1]
        linear = Linear(node, slot, geometry, (1, 1), load, entry=frame.pad)
        readers = set(self.facts.readers(frame.x))
        alone = readers <= set(frame.nodes) and not frame.x.is_graph_output()
        above = self._segments.get(frame.x) if alone else None
        self._append(Leaf(linear, frame), frozenset(frame.nodes), above)

    def _append(self, leaf: Leaf, entries: frozenset[ir.Node], above: _Segment | None) -> None:
        linear = leaf.linear
        ends = _Ends(linear.axes, linear.geometry.in_channels, linear.geometry.out_channels)
        self._put(linear.x, entries, above, leaf, ends)

    def _append_join(self, node: ir.Node) -> None:
        """Make a join of a node whose inputs all come from one value along regions."""
        if any(value is None or self.facts.is_constant(value) for value in node.inputs):
            return
        inputs = [value for value in node.inputs if value is not None]
        segments = [self._alone(value, node) for value in inputs]
        if any(s is not None and s.has_renames() for s in segments):
            return
        roots = {v if s is None else s.root for v, s in zip(inputs, segments, strict=True)}
        if len(roots) != 1 or (all(s is None for s in segments) and len(set(inputs)) > 1):
            return
        root = roots.pop()
        entries = frozenset[ir.Node]().union(
            *(frozenset([node]) if s is None else s.entries for s in segments)
        )
        ends = _joint_ends(node, segments, self.facts.shape(root))
        if ends is None or not _holds_all_parts(segments):
            return
        branches = tuple(() if s is None else s.elements() for s in segments)
        if ends.axes is not None:
            branches = tuple(
                tuple(e.on(ends.axes[0], ends.in_channels) for e in branch) for branch in branches
            )
        factors = (1.0,) * len(inputs)
        if node.op_type == "Sub":
            factors = (1.0, -1.0)
        elif node.op_type == "Mean":
            factors = (1 / len(inputs),) * len(inputs)
        join = Join(node, branches, factors, ends.axes, ends.in_channels, ends.out_channels)
        for value, segment in zip(inputs, segments, strict=True):
            if segment is not None:
                self._continued.add(value)
        # What lies above the fork belongs to the region when nothing else reads the fork.
        inside = set(self.facts.readers(root)) <= entries and not root.is_graph_output()
        above = self._segments.get(root) if inside else None
        self._put(root, entries, above, join, ends)

    def _put(
        self,
        x: ir.Value,
        entries: frozenset[ir.Node],
        above: _Segment | None,
        element: Element,
        ends: _Ends,
    ) -> None:
        rank = _rank(element)
        if above is not None and rank and above.rank() not in {0, rank}:
            above = None  # kernels of other ranks: no model could run with these
        joined = None if above is None else _joined_ends(above, ends)
        if above is None or joined is None:
            self._segments[element.output] = _Segment(x, entries, None, element, ends)
            return
        self._continued.add(x)
        self._segments[element.output] = _Segment(
            above.root, above.entries, above, element, joined
        )

    def _alone(self, value: ir.Value, reader: ir.Node) -> _Segment | None:
        """The region that ends at a value, if only `reader` reads it, and once."""
        segment = self._segments.get(value)
        if segment is None or value.is_graph_output():
            return None
        if self.facts.readers(value) != [reader]:
            return None
        producer = value.producer()
        return segment if producer is not None and producer.graph is reader.graph else None


def _rank(element: Element) -> int:
    return max((leaf.geometry.rank for leaf in element.leaves()), default=0)


def _joined_ends(above: _Segment, ends: _Ends) -> _Ends | None:
    """The ends of a region and one more element; None where their channels do not meet."""
    if ends.axes is None:
        return above.ends
    if above.ends.axes is not None:
        if above.ends.axes[1] != ends.axes[0]:
            return None
        axes = (above.ends.axes[0], ends.axes[1])
        return _Ends(axes, above.ends.in_channels, ends.out_channels)
    # So far all channels were treated alike: on which axis do they lie at the beginning?
    axis = ends.axes[0]
    segment: _Segment | None = above
    while segment is not None:
        if isinstance(segment.element, Rename):
            found = segment.element.backward(axis)
            if found is None:
                return None
            axis = found
        segment = segment.before
    return _Ends((axis, ends.axes[1]), ends.in_channels, ends.out_channels)


def connected(first: Sequence[Element], second: Sequence[Element]) -> list[Element] | None:
    """Elements of two regions one after the other, on common axes; None where they do not meet."""
    ends = [e for e in first if e.axes is not None], [e for e in second if e.axes is not None]
    if ends[0] and ends[1]:
        before, after = ends[0][-1].axes, ends[1][0].axes
        assert before is not None
        assert after is not None
        return [*first, *second] if before[1] == after[0] else None
    if any(isinstance(element, Rename) for element in (*first, *second)):
        return None
    if ends[0]:
        last = ends[0][-1]
        assert last.axes is not None
        return [*first, *(e.on(last.axes[1], last.out_channels) for e in second)]
    if ends[1]:
        start = ends[1][0]
        assert start.axes is not None
        return [*(e.on(start.axes[0], _in_channels(start)) for e in first), *second]
    return [*first, *second]


def _in_channels(element: Element) -> int:
    if isinstance(element, Leaf):
        return element.linear.geometry.in_channels
    return element.in_channels if isinstance(element, Join) else element.channels[0]


_JOINS = {"Add", "Sub", "Sum", "Mean", "Concat"}


def _holds_all_parts(segments: Sequence[_Segment | None]) -> bool:
    """Whether of every node that cuts channels into parts all parts that are read are here."""
    starts = [s.elements()[0] for s in segments if s is not None]
    parts = [e.linear for e in starts if isinstance(e, Leaf) and e.linear.is_part]
    here = {part.y for part in parts}
    for part in parts:
        used = {out for out in part.node.outputs if out.uses() or out.is_graph_output()}
        if part.entry is not None:
            sequence = part.entry.outputs[0]
            if sequence.is_graph_output():
                return False
            used = {user.outputs[0] for user in sequence.consumers()}
        if not used <= here:
            return False
    return True


def _joint_ends(
    node: ir.Node, segments: Sequence[_Segment | None], root: Shape | None
) -> _Ends | None:
    """The channel axes and counts of a join, or None where its branches disagree."""
    known = {s.ends.axes for s in segments if s is not None} - {None}
    if len(known) > 1:
        return None
    axes = next(iter(known), None)
    free = any(s is None or s.ends.axes is None for s in segments)
    if axes is not None and free and axes[0] != axes[1]:
        return None  # the input itself has its channels on another axis
    if node.op_type == "Concat":
        axis = int_of(node, "axis", missing=1)
        axis = axis if axis >= 0 or root is None else axis + len(root)
        if axes is None or axes[1] != axis:
            return None
    if axes is None:
        return _Ends(None, 1, 1)
    first = next(s.ends for s in segments if s is not None and s.ends.axes is not None)
    m = first.in_channels
    outputs = [m if s is None or s.ends.axes is None else s.ends.out_channels for s in segments]
    return _Ends(axes, m, sum(outputs) if node.op_type == "Concat" else outputs[0])


def extents_of(elements: Sequence[Element], shape: Shape | None) -> tuple[int, ...]:
    """Spatial extents of what elements read, nominal where they are not static."""
    rank = max((leaf.geometry.rank for e in elements for leaf in e.leaves()), default=0)
    if any(isinstance(e, Rename) for e in elements) and shape is not None:
        rank = len(shape) - 2
    if shape is None or len(shape) != rank + 2:
        return (NOMINAL,) * rank
    return tuple(NOMINAL if size is None else size for size in shape[2:])
