"""Multi-branch expansions: one layer becomes a sum of branches that read the same input.

With `norm`, every branch ends in batch normalization, as in the papers, and its layers have no
bias; otherwise only the main branch has the layer's bias. Smaller kernels are aligned with the
middle tap of the layer's kernel, or as close to it as nonnegative padding allows.

Sources: ACNet (Ding et al., ICCV 2019), RepVGG (Ding et al., CVPR 2021), Diverse Branch Block
(Ding et al., CVPR 2021), MobileOne (Vasu et al., CVPR 2023), LoRA (Hu et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.factorize.base import (
    Average,
    Branch,
    Layer,
    Norm,
    Options,
    Start,
    Step,
    refused,
    strategy,
)

__all__: list[str] = []


@strategy("acnet")
def _asymmetric(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """ACNet: the kernel, and for each axis a kernel with taps along this axis only."""
    if _spread(layer) < 2:
        return refused("acnet needs a convolution with taps along two axes or more")
    sides = [
        _smaller(layer, tuple(k if i == axis else 1 for i, k in enumerate(layer.kernel)))
        for axis, size in enumerate(layer.kernel)
        if size > 1
    ]
    return _sum("acnet", layer, [*sides], options)


@strategy("repvgg")
def _rep_vgg(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """RepVGG: the kernel, a 1x1, and the identity if the shapes match."""
    if _spread(layer) < 1:
        return refused("repvgg needs a convolution with a kernel above 1x1")
    branches = _sum("repvgg", layer, [_smaller(layer, (1,) * layer.rank)], options)
    return branches if isinstance(branches, Refusal) else branches + _identity(layer, options)


@strategy("mobileone")
def _mobile_one(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """MobileOne: several copies of the kernel, and a 1x1 and the identity where they apply."""
    if not layer.rank:
        return refused("mobileone expands convolutions, and this is a matrix")
    copies: list[Geometry | Refusal] = [replace(layer, bias=False)] * (options.branches - 1)
    if _spread(layer):
        point = _smaller(layer, (1,) * layer.rank)
        copies += [] if isinstance(point, Refusal) else [point]
    branches = _sum("mobileone", layer, copies, options)
    if isinstance(branches, Refusal):
        return branches
    branches += _identity(layer, options)
    if len(branches) == 1:
        return refused("mobileone with one copy adds nothing to this layer; ask for more branches")
    return branches


@strategy("dbb")
def _diverse(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """DBB: the kernel, a 1x1, a 1x1 before the kernel, and a 1x1 before an average."""
    if _spread(layer) < 1:
        return refused("dbb needs a convolution with a kernel above 1x1")
    branches = _sum("dbb", layer, [_smaller(layer, (1,) * layer.rank)], options)
    if isinstance(branches, Refusal):
        return branches
    m, n, group = layer.in_channels, layer.out_channels, layer.group
    point = replace(Geometry(m, m, group=group).at_rank(layer.rank), pads=layer.pads)
    kernel = replace(layer, pads=(), bias=False)
    branches.append(_normed([Layer(point), Layer(kernel)], options))
    if set(layer.dilations) == {1}:
        wide = replace(point, out_channels=n)
        average = Geometry(n, n, layer.kernel, layer.strides, group=n)
        branches.append(_normed([Layer(wide), Average(average)], options))
    return branches


@strategy("lowrank")
def _low_rank(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """LoRA: the layer with its weights, and beside it a narrow layer and a pointwise one."""
    m, n, group = layer.in_channels, layer.out_channels, layer.group
    inner = group * max(1, -(-options.rank // group))
    if inner >= min(m, n):
        return refused(f"a side path of {inner} channels is no narrower than the layer")
    down = replace(layer, out_channels=inner, bias=False)
    up = Geometry(inner, n, group=group).at_rank(layer.rank)
    if layer.transposed:
        down = Geometry(m, inner, group=group).at_rank(layer.rank)
        up = replace(layer, in_channels=inner, bias=False)
    return [(Layer(layer, Start.KEPT),), (Layer(down), Layer(up, Start.ZERO))]


def _sum(
    name: str, layer: Geometry, sides: Sequence[Geometry | Refusal], options: Options
) -> list[Branch] | Refusal:
    """Return the main branch and a branch for each other geometry."""
    for side in sides:
        if isinstance(side, Refusal):
            return replace(side, message=f"{name}: {side.message}")
    branches = [_normed([Layer(layer)], options)]
    for side in sides:
        assert isinstance(side, Geometry)
        branches.append(_normed([Layer(side)], options))
    return branches


def _normed(steps: Sequence[Step], options: Options) -> Branch:
    """Return a branch of steps; with `norm`, normalize after each step and drop the biases."""
    if not options.norm:
        return tuple(steps)
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Layer):
            step = replace(step, geometry=replace(step.geometry, bias=False))
        found += [step, Norm(step.geometry.out_channels)]
    return tuple(found)


def _identity(layer: Geometry, options: Options) -> list[Branch]:
    """Return the identity as a branch, if its output always has the layer's output shape."""
    point = _smaller(layer, (1,) * layer.rank)
    fits = (
        isinstance(point, Geometry)
        and point.is_pointwise
        and layer.in_channels == layer.out_channels
    )
    if not fits:
        return []
    return [(Norm(layer.in_channels),) if options.norm else ()]


def _spread(layer: Geometry) -> int:
    """Return the number of axes along which a kernel has several taps."""
    return sum(size > 1 for size in layer.kernel)


def _smaller(layer: Geometry, kernel: tuple[int, ...]) -> Geometry | Refusal:
    """Return the geometry of a kernel with one tap on some axes, aligned with a layer's tap."""
    if layer.transposed:
        return refused("transposed convolutions of different kernels do not add up to one")
    begins, ends = list(layer.begins), list(layer.ends)
    for axis, (size, own, step) in enumerate(
        zip(layer.kernel, kernel, layer.dilations, strict=True)
    ):
        if own == size:
            continue
        # Tap t has t * step less padding before it, and (size - 1 - t) * step less after it.
        fitting = [
            tap
            for tap in range(size)
            if begins[axis] >= tap * step and ends[axis] >= (size - 1 - tap) * step
        ]
        if not fitting:
            return refused(
                f"a branch of {own} instead of {size} taps would have to cut its input, since the "
                f"layer pads axis {axis} with {begins[axis]} and {ends[axis]} zeros only"
            )
        tap = min(fitting, key=lambda t: abs(2 * t - size + 1))
        begins[axis] -= tap * step
        ends[axis] -= (size - 1 - tap) * step
    return replace(layer, kernel=kernel, pads=(*begins, *ends), bias=False)
