"""The paper's expansions: one layer becomes a chain of layers.

The first factor has all of the layer's padding, and the last factor with a kernel has its stride,
so that contraction is exact at the borders (Guo, Alvarez, Salzmann, "ExpandNets", NeurIPS 2020,
sec. 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.factorize.base import Branch, Layer, Options, refused, strategy

__all__: list[str] = []

_SMALL = 3  # taps of a kernel that is not split further
# Layers of the longest chain. The paper has at most four; with the framework's default initial
# values each layer attenuates a signal by the square root of three, so that a hundred
# layers would transmit nothing.
_DEEPEST = 5


@strategy("cl")
def _convolutional_layers(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """CL: 1x1, k x k, 1x1, with m -> rm -> rn -> n channels, each with the layer's groups."""
    if not layer.rank:
        return refused("cl expands convolutions, and this is a matrix")
    m, n, group = layer.in_channels, layer.out_channels, layer.group
    p = m if options.keep_first else options.width(m, group)
    q = options.width(n, group)
    # A transposed convolution spreads a preceding bias unevenly, and pads its output.
    spreads = layer.transposed
    point = Geometry(m, p, group=group, bias=layer.bias and not spreads).at_rank(layer.rank)
    kernel = replace(layer, in_channels=p, out_channels=q)
    if not spreads:
        point, kernel = replace(point, pads=layer.pads), replace(kernel, pads=())
    last = Geometry(q, n, group=group, bias=layer.bias).at_rank(layer.rank)
    return _chain([point, kernel, last])


@strategy("ck")
def _convolutional_kernels(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """CK: (k - 1) / 2 convolutions of 3 taps, with m -> rm -> rn -> ... -> rn -> n channels.

    A kernel of more than 11 taps becomes five kernels of nearly equal extents rather than dozens
    of 3.

    Each axis is split separately: an even extent into one kernel of 2 taps and otherwise 3. An
    axis that needs fewer kernels has one tap in the others. So 7x1 becomes three of 3x1, and 4x4
    becomes one of 3x3 and one of 2x2.
    """
    if not layer.rank:
        return refused("ck expands convolutions, and this is a matrix")
    if layer.transposed:
        return refused("two transposed convolutions do not contract to one, so ck has no chain")
    if max(layer.kernel) <= _SMALL:
        kernel = "x".join(map(str, layer.kernel))
        return refused(f"ck needs a kernel with more than 3 taps on an axis, and this is {kernel}")
    taps = list(itertools.zip_longest(*map(_split, layer.kernel), fillvalue=1))
    m, n, group = layer.in_channels, layer.out_channels, layer.group
    inner = [m if options.keep_first else options.width(m, group)]
    inner += [options.width(n, group)] * (len(taps) - 2)
    factors = [
        replace(layer, in_channels=a, out_channels=b, kernel=kernel, strides=(), pads=())
        for (a, b), kernel in zip(itertools.pairwise([m, *inner, n]), taps, strict=True)
    ]
    factors[0] = replace(factors[0], pads=layer.pads)
    factors[-1] = replace(factors[-1], strides=layer.strides)
    return _chain(factors)


def _split(size: int) -> list[int]:
    """Return extents of kernels that compose to `size` taps, each 3 if that takes few enough."""
    if size > 2 * _DEEPEST + 1:
        least, more = divmod(size - 1, _DEEPEST)
        return [least + 2] * more + [least + 1] * (_DEEPEST - more)
    return [3] * ((size - 1) // 2) + [2] * (size % 2 == 0) or [1]


@strategy("fc")
def _fully_connected(layer: Geometry, options: Options) -> list[Branch] | Refusal:
    """FC: 2 or 3 matrices, with m -> rm (-> rn) -> n channels."""
    if layer.rank:
        return refused("fc expands matrices, and this is a convolution")
    m, n = layer.in_channels, layer.out_channels
    widths = [m, options.width(m, 1), *[options.width(n, 1)] * (options.layers - 2), n]
    return _chain(Geometry(a, b, bias=layer.bias) for a, b in itertools.pairwise(widths))


def _chain(factors: Iterable[Geometry]) -> list[Branch]:
    return [tuple(Layer(factor) for factor in factors)]
