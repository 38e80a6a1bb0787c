"""Runs: the parts of a stretch in which channels pass from each step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.linear.chains.composed import aligned
from onnx_expand.linear.chains.steps import Step

__all__ = ["runs_of"]


def runs_of(steps: Sequence[Step]) -> list[list[Step]]:
    """Split steps where the channels of neighbours do not match; each run has common axes."""
    found: list[list[Step]] = []
    run: list[Step] = []
    lined: list[Step] | None = None
    for i, step in enumerate(steps):
        if run and (lined := _gathered(run[-1], steps, i)) is not None:
            run.append(lined[0])
            continue
        if run and run[-1].axes is not None:
            axes = run[-1].axes
            here = step.on(axes[1], run[-1].channels[1])
            here = _counted_like(here, axes[1], run[-1].top.tensor.rank)
            if here.axes is not None and (
                here.axes[0] == axes[1] and here.channels[0] == run[-1].channels[1]
            ):
                run.append(here)
                continue
        elif run and (step.axes is None):
            run.append(step)
            continue
        elif run:
            # The views before a map belong to it if its channels pass them.
            for first in range(len(run)):
                lined = aligned([*run[first:], step])
                if lined is not None:
                    found += [run[:first]] if first else []
                    run = lined
                    break
            if lined is not None:
                continue
        if run:
            found.append(run)
        run = [step]
    return [*found, run] if run else found


def _counted_like(step: Step, axis: int, rank: int | None) -> Step:
    """Return a step with its axes counted from the same end as another axis.

    If the rank of the input of a stretch is unknown, axes are counted from the back.
    """
    is_map = isinstance(step.geometry, Geometry) and not step.branches
    if not is_map or step.axes is None or rank is None or step.axes[0] == axis:
        return step
    if step.axes[0] % rank != axis % rank:
        return step
    shift = axis - step.axes[0]
    return replace(step, axes=(axis, step.axes[1] + shift))


def _gathered(before: Step, steps: Sequence[Step], first: int) -> list[Step] | None:
    """Return steps that start with a view whose channel axis only the next map determines.

    A Reshape may split channels into several axes; those of the map are on one of them.
    """
    if before.axes is None or steps[first].view is None or steps[first].axes is not None:
        return None
    axis, channels = before.axes[1], before.channels[1]
    if steps[first].on(axis, channels).axes is not None:
        return None
    last = first
    while steps[last].axes is None:
        last += 1
        if last == len(steps):
            return None
    lined = aligned(steps[first : last + 1])
    if lined is None or lined[0].axes is None or lined[0].axes[0] != axis:
        return None
    return lined if lined[0].channels[0] == channels else None
