"""Compare the input sizes that a merged convolution accepts with those of its parts.

A Conv fails if its window does not fit into its input. An AveragePool then returns one window or
none, and a Slice may return an empty tensor. A convolution must not replace these ops if it would
refuse a size that they accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.attributes import ints_of
from onnx_expand.linear.chains.steps import Step
from onnx_expand.linear.terms.base import Homogeneous, Map, Read, Term
from onnx_expand.lower import Form

__all__ = ["misfit"]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_POOLS = {"AveragePool"}
_WINDOWED = {*_POOLS, "LpPool", "MaxPool"}
_FAR = 64  # maximum number of nodes to follow upwards
_MOST = 64  # maximum extent of inputs for which larger kernels are tested


def misfit(steps: Sequence[Step], geometry: Geometry, root: Term) -> Refusal | None:
    """Return why a convolution refuses sizes that some steps accept; None if it does not.

    The steps are consecutive, without views; `geometry` is their composition and `root` their
    input.
    """
    extents = None if root.tensor.extents is None else root.tensor.extents[2:]
    # Nobody feeds nothing to a convolution, even if a Pad before it would accept that.
    layers = any(_op(term) in _CONVOLUTIONS for step in steps for term in step.terms)
    if extents is not None and not geometry.rank:
        if 0 in extents:
            return _refused(extents.index(0), 0, known=True)
        is_static = all(isinstance(extent, int) for extent in extents)
        first = _op(steps[0].top)
        if not is_static and first not in _CONVOLUTIONS and _may_be_empty(root, inputs=not layers):
            return _refused(0, 0, known=False)
    for axis in range(geometry.rank):
        extent = None if extents is None else extents[axis]
        known = isinstance(extent, int)
        if not known and all(_is_plain(step) for step in steps):
            continue
        least = 0 if not known and _may_be_empty(root, inputs=not layers) else 1
        most = min(geometry.reach[axis], _MOST)
        sizes = [extent] if isinstance(extent, int) else range(least, most)
        for size in sizes:
            takes, own = size > 0 and _extent(geometry, axis, size) > 0, _run(steps, axis, size)
            if own is not None and (not takes or own.is_partial):
                return _refused(axis, size, known=known)
    return None


def _may_be_empty(term: Term, *, inputs: bool) -> bool:
    """Return whether a tensor may be empty: no node before it refuses that.

    Args:
        term: The tensor.
        inputs: Whether inputs of the graph may be empty.
    """
    while not isinstance(term, Read) and term.args:
        node = term.like if isinstance(term, Homogeneous | Map) else None
        node = term.node if node is None else node
        if node is not None and _empties(node):
            return True
        if _op(term) == "Conv" or (node is not None and _refuses(node)):
            return False
        term = term.args[0]
    value = term.value
    for _ in range(_FAR):
        node = None if value is None else value.producer()
        if value is not None and node is None:
            return inputs and (value.shape is None or not value.shape.is_static())
        if node is None or node.domain or not node.inputs:
            return False
        if _empties(node):
            return True
        if _refuses(node):
            return False
        value = node.inputs[0]
    return False


def _refuses(node: ir.Node) -> bool:
    """Return whether a node fails if its input has no positions."""
    return not node.domain and node.op_type in {"Conv", *_WINDOWED}


def _empties(node: ir.Node) -> bool:
    """Return whether a node may remove all positions of its input."""
    if node.op_type not in _WINDOWED or node.domain:
        return node.op_type in {"Pad", "Slice"} and not node.domain
    kernel, pads = ints_of(node, "kernel_shape"), ints_of(node, "pads")
    strides, rank = ints_of(node, "strides"), len(kernel)
    dilations = ints_of(node, "dilations") or (1,) * rank
    if len(pads) != 2 * rank or len(strides) != rank or len(dilations) != rank:
        pads, strides = pads or (0,) * 2 * rank, strides or (1,) * rank
    for axis, (taps, stride, step) in enumerate(zip(kernel, strides, dilations, strict=True)):
        reach, padding = (taps - 1) * step + 1, pads[axis] + pads[rank + axis]
        if any(_windows(size + padding - reach, stride) == 0 for size in range(1, reach)):
            return True
    return False


def _windows(room: int, stride: int) -> int:
    """Count the windows that fit as onnxruntime does, which rounds towards zero."""
    return (abs(room) // stride) * (1 if room >= 0 else -1) + 1


def _refused(axis: int, size: int, *, known: bool) -> Refusal:
    reason = Reason.GEOMETRY if known else Reason.UNKNOWN_SHAPE
    hint = "" if known else "give the sizes with --shape where they are larger"
    message = f"a convolution does not take an input of {size} on spatial axis {axis}, as they do"
    return Refusal(reason, message, {"axis": axis, "size": size}, hint)


def _extent(geometry: Geometry, axis: int, size: int) -> int:
    return geometry.output_extents([size] * geometry.rank)[axis]


@dataclass(frozen=True)
class _Run:
    """The result of some nodes along an axis.

    Attributes:
        extent: The extent of their output.
        is_partial: Whether a window of a pooling lies partly outside of its input.
    """

    extent: int
    is_partial: bool = False


def _run(steps: Sequence[Step], axis: int, size: int) -> _Run | None:
    """Run steps on an extent, as their nodes compute it; None if one of them fails."""
    is_partial = False
    for step in steps:
        runs: list[_Run | None] = []
        if step.branches:
            runs = [_run(branch, axis, size) for branch in step.branches]
        elif step.frame is not None:
            rank = len(step.frame.pads) // 2
            size += step.frame.pads[axis] + step.frame.pads[rank + axis]
        elif isinstance(step.geometry, Geometry) and step.geometry.rank:
            runs = [_run_node(_op(step.top), step.geometry, axis, size)]
        known = [run for run in runs if run is not None]
        if len(known) < len(runs):
            return None
        size = known[0].extent if known else size
        is_partial = is_partial or any(run.is_partial for run in known)
    return _Run(size, is_partial)


def _run_node(op: str, geometry: Geometry, axis: int, size: int) -> _Run | None:
    """Run one node on an extent; None if it fails."""
    if op in _POOLS:
        room = size + geometry.begins[axis] + geometry.ends[axis] - geometry.reach[axis]
        after = _windows(room, geometry.strides[axis])
        return None if size <= 0 or after < 0 else _Run(after, is_partial=room < 0)
    after = _extent(geometry, axis, size)
    fails = op in _CONVOLUTIONS and (size <= 0 or after <= 0)
    return None if fails else _Run(after)


def _op(term: Term) -> str:
    """Return the op of an unchanged term."""
    if isinstance(term, Map) and term.form is not None:
        return "Conv" if term.form in {Form.CONV, Form.CONV_TRANSPOSE} else ""
    node = term.like if isinstance(term, Map) and term.like is not None else term.node
    return "" if node is None else node.op_type


def _is_plain(step: Step) -> bool:
    """Return whether a step consists only of convolutions and pointwise maps."""
    if step.branches:
        return all(_is_plain(s) for branch in step.branches for s in branch)
    if isinstance(step.geometry, Geometry) and step.geometry.is_pointwise and not step.frame:
        return True
    return _op(step.top) in _CONVOLUTIONS
