"""Elements with renames between them, brought into one layout.

All that reaches over positions, kernels and frames, has to lie in one layout; maps of single
positions are moved there from before and after. The renames then stand before and after the whole,
where some of them may undo each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnx_expand.affine import AffineConv
from onnx_expand.elements import Element, Leaf
from onnx_expand.errors import Reason, Refusal
from onnx_expand.geometry import Geometry
from onnx_expand.lift import Linear
from onnx_expand.renames import Passage, Rename, without_detours

__all__ = ["Layout", "layouts_of"]


@dataclass(frozen=True)
class Layout:
    """Elements in one layout, and the renames around them.

    Attributes:
        elements: The elements without renames, all on the axes of this layout.
        before: Renames from the input into this layout.
        after: Renames from this layout to the output.
        home: Where this layout begins and ends, as indices of all elements.
    """

    elements: tuple[Element, ...]
    before: tuple[Rename, ...]
    after: tuple[Rename, ...]
    home: tuple[int, int]

    @property
    def spreads(self) -> bool:
        """Whether channels become features with others on the way into this layout."""
        return any(rename.channels[0] != rename.channels[1] for rename in self.before)


def layouts_of(elements: Sequence[Element]) -> list[Layout] | Refusal:
    """The layouts in which elements, some of them renames, are one map; the fewest renames first.

    Args:
        elements: In order, on known channel axes where they have any.
    """
    cuts = [i for i, e in enumerate(elements) if isinstance(e, Rename)]
    starts = [0, *(i + 1 for i in cuts)]
    ends = [*cuts, len(elements)]
    fixed = {
        run
        for run, (start, end) in enumerate(zip(starts, ends, strict=True))
        if any(not _is_pointwise(e) for e in elements[start:end])
    }
    if len(fixed) > 1:
        return Refusal(Reason.GEOMETRY, "kernels in different layouts are not one")
    found = [
        layout
        for home in (fixed or range(len(starts)))
        if (layout := _at_home(elements, starts[home], ends[home])) is not None
    ]
    if not found:
        return Refusal(
            Reason.GEOMETRY, "channels that become features with others are mapped on both sides"
        )

    def preference(layout: Layout) -> tuple[int, int, int]:
        start, end = layout.home
        return len(layout.before) + len(layout.after), -_weight(elements[start:end]), start

    return sorted(found, key=preference)


def _weight(elements: Sequence[Element]) -> int:
    """Parameters of some elements."""
    leaves = (linear for element in elements for linear in element.leaves())
    return sum(linear.geometry.parameters for linear in leaves)


def _is_pointwise(element: Element) -> bool:
    if isinstance(element, Rename):
        return True
    return isinstance(element.geometry, Geometry) and element.geometry.is_pointwise


def _at_home(elements: Sequence[Element], start: int, end: int) -> Layout | None:
    """The elements in the layout between two indices; None where one cannot be moved there."""
    moved: list[Element] = []
    for i, element in enumerate(elements):
        if isinstance(element, Rename):
            continue
        if start <= i < end:
            moved.append(element)
            continue
        forward = i < start
        between = elements[i:start] if forward else elements[end:i]
        renames = [e for e in between if isinstance(e, Rename)]
        there = _moved(element, renames, forward=forward)
        if there is None:
            return None
        moved.append(there)
    before = [e for e in elements[:start] if isinstance(e, Rename)]
    after = [e for e in elements[end:] if isinstance(e, Rename)]
    around = tuple(without_detours(before)), tuple(without_detours(after))
    return Layout(tuple(moved), *around, (start, end))


def _moved(element: Element, renames: Sequence[Rename], *, forward: bool) -> Leaf | None:
    """A map of single positions on the other side of some renames."""
    geometry = element.geometry
    if isinstance(geometry, Refusal):
        return None
    if element.axes is None:
        axes, passages = None, []
    else:
        if any(rename.axes is None for rename in renames):
            return None
        passages = list(_passages(renames))
        ends = renames[-1].axes if forward else renames[0].axes
        assert ends is not None
        axis = ends[1] if forward else ends[0]
        axes = (axis, axis)
    spreads = [passage for passage in passages if not passage.is_plain]
    if spreads and not (forward and geometry.is_per_channel):
        return None
    for passage in spreads:
        channels = geometry.out_channels * passage.repeat * passage.tile
        geometry = replace(geometry, in_channels=channels, out_channels=channels, group=channels)

    def load() -> AffineConv:
        affine = element.load()
        if not spreads:
            matrix = affine.weight.reshape(affine.weight.shape[:2])
            return AffineConv(matrix, affine.bias, group=affine.group)
        scale, shift = affine.weight.reshape(-1), affine.bias
        for passage in spreads:
            scale = passage.spread(scale)
            shift = None if shift is None else passage.spread(shift)
        return AffineConv.per_channel(scale, shift)

    node = next(reversed(list(element.nodes())))
    return Leaf(Linear(node, 0, _matrix(geometry), axes, load, shift_only=element.shift_only))


def _matrix(geometry: Geometry) -> Geometry:
    """A map of single positions without spatial axes, which fits any layout."""
    return Geometry(
        geometry.in_channels, geometry.out_channels, group=geometry.group, bias=geometry.bias
    )


def _passages(renames: Sequence[Rename]) -> Iterator[Passage]:
    """Where each of some renames lets the channels pass."""
    for rename in renames:
        assert rename.axes is not None
        passage = rename.forward(rename.axes[0])
        assert passage is not None
        yield passage
