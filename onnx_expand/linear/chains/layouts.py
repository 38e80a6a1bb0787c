"""Move steps with views between them into one layout.

Steps that combine positions (kernels and frames) must be in one layout; pointwise maps are moved
there from before and after. The views then precede and follow the merged map, where some of them
may cancel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.linear.chains.steps import Step
from onnx_expand.linear.terms.axis_maps import AxisMap
from onnx_expand.linear.terms.views import ViewOp, without_detours

__all__ = ["Layout", "layouts_of"]


@dataclass(frozen=True)
class Layout:
    """Steps in one layout, and the views around them.

    Attributes:
        steps: The steps without views, all on the axes of this layout.
        before: Views from the input into this layout.
        after: Views from this layout to the output.
        home: The start and end of this layout, as indices of all steps.
    """

    steps: tuple[Step, ...]
    before: tuple[ViewOp, ...]
    after: tuple[ViewOp, ...]
    home: tuple[int, int]

    @property
    def spreads(self) -> bool:
        """Whether channels are combined with positions to features on the way into this layout."""
        return any(view.channels[0] != view.channels[1] for view in self.before)


def layouts_of(steps: Sequence[Step]) -> list[Layout] | Refusal:
    """Return the layouts in which steps and views are one map, those with fewest views first.

    The channel axes of the steps are known if they have any.
    """
    cuts = [i for i, s in enumerate(steps) if s.view is not None]
    starts = [0, *(i + 1 for i in cuts)]
    ends = [*cuts, len(steps)]
    fixed = {
        run
        for run, (start, end) in enumerate(zip(starts, ends, strict=True))
        if any(not s.is_pointwise for s in steps[start:end])
    }
    if len(fixed) > 1:
        return Refusal(Reason.GEOMETRY, "kernels in different layouts cannot be merged")
    found = [
        layout
        for home in (fixed or range(len(starts)))
        if (layout := _at_home(steps, starts[home], ends[home])) is not None
    ]
    if not found:
        message = "channels that a view combines with positions are mapped on both sides of it"
        return Refusal(Reason.GEOMETRY, message)

    def preference(layout: Layout) -> tuple[int, int, int]:
        start, end = layout.home
        return len(layout.before) + len(layout.after), -_weight(steps[start:end]), start

    return sorted(found, key=preference)


def _weight(steps: Sequence[Step]) -> int:
    """Return the parameters of some steps."""
    return sum(s.geometry.parameters for s in steps if isinstance(s.geometry, Geometry))


def _at_home(steps: Sequence[Step], start: int, end: int) -> Layout | None:
    """Return the steps in the layout between two indices; None if one cannot be moved there."""
    moved: list[Step] = []
    for i, step in enumerate(steps):
        if step.view is not None:
            continue
        if start <= i < end:
            moved.append(step)
            continue
        forward = i < start
        between = steps[i:start] if forward else steps[end:i]
        there = _moved(step, [s.view for s in between if s.view is not None], forward=forward)
        if there is None:
            return None
        moved.append(there)
    before = [s.view for s in steps[:start] if s.view is not None]
    after = [s.view for s in steps[end:] if s.view is not None]
    around = tuple(without_detours(before)), tuple(without_detours(after))
    layout = Layout(tuple(moved), *around, (start, end))
    return layout if _holds(layout) else None


def _holds(layout: Layout) -> bool:
    """Return whether the channels of some steps pass the views around them."""
    if not layout.steps or layout.steps[0].axes is None:
        return True
    first, last = layout.steps[0].channels[0], layout.steps[-1].channels[1]
    if layout.before and layout.spreads:
        first = layout.before[0].channels[0]
    for views, channels in ((layout.before, first), (layout.after, last)):
        for view in views:
            axis_map = view.axis_map
            if axis_map is None or not view.holds(channels):
                return False
            channels = axis_map.after(channels)
    return True


def _moved(step: Step, views: Sequence[ViewOp], *, forward: bool) -> Step | None:
    """Return a pointwise map on the other side of some views."""
    geometry = step.geometry
    if isinstance(geometry, Refusal):
        return None
    if step.axes is None:
        axes, axis_maps = None, []
    elif step.axes[0] != step.axes[1]:
        return None  # it permutes the other axes as well, which views cannot express
    else:
        if any(view.axes is None for view in views):
            return None
        axis_maps = list(_axis_maps(views))
        ends = views[-1].axes if forward else views[0].axes
        assert ends is not None
        axis = ends[1] if forward else ends[0]
        axes = (axis, axis)
    spreads = [axis_map for axis_map in axis_maps if not axis_map.is_plain]
    if any(axis_map.gathers == forward for axis_map in spreads):
        return None
    if spreads and forward and not geometry.is_per_channel:
        return None
    if not forward:
        spreads.reverse()  # from the step towards its destination
    for axis_map in spreads:
        geometry = _spread(geometry, axis_map)

    def load() -> AffineConv:
        affine = step.load()
        matrix = AffineConv(
            affine.weight.reshape(affine.weight.shape[:2]), affine.bias, group=affine.group
        )
        for axis_map in spreads:
            matrix = _spread_numbers(matrix, axis_map)
        return matrix

    return replace(step, geometry=_matrix(geometry), axes=axes, load=load, branches=())


def _spread(geometry: Geometry, axis_map: AxisMap) -> Geometry:
    """Return a map of the fewer channels of an axis map as a map of the more channels."""
    times = axis_map.repeat * axis_map.tile
    n, m = geometry.out_channels * times, geometry.in_channels * times
    group = n if geometry.is_per_channel else 1
    return replace(geometry, in_channels=m, out_channels=n, group=group)


def _spread_numbers(affine: AffineConv, axis_map: AxisMap) -> AffineConv:
    shift = None if affine.bias is None else axis_map.spread(affine.bias)
    if affine.geometry.is_per_channel:
        return AffineConv.per_channel(axis_map.spread(affine.weight.reshape(-1)), shift)
    dense = affine.embedded(replace(affine.geometry, group=1))
    return AffineConv(axis_map.spread_matrix(dense.weight), shift)


def _matrix(geometry: Geometry) -> Geometry:
    """Return a pointwise map without spatial axes, which fits any layout."""
    return Geometry(
        geometry.in_channels, geometry.out_channels, group=geometry.group, bias=geometry.bias
    )


def _axis_maps(views: Sequence[ViewOp]) -> Iterator[AxisMap]:
    """Return how channels pass some views."""
    for view in views:
        axis_map = view.axis_map
        assert axis_map is not None
        yield axis_map
