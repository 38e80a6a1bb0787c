"""Random instances for testing laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry

RANKS = st.integers(0, 3)


@st.composite
def geometries(
    draw: st.DrawFn,
    *,
    rank: int | None = None,
    in_channels: int | None = None,
    channels: tuple[int, ...] = (1, 2, 3, 4, 6),
    padded: bool = True,
) -> Geometry:
    """Draw a small geometry of any rank, stride, dilation, padding (also negative) and group."""
    rank = draw(RANKS) if rank is None else rank
    m = draw(st.sampled_from(channels)) if in_channels is None else in_channels
    n = draw(st.sampled_from(channels))
    group = draw(st.sampled_from([g for g in range(1, m + 1) if math.gcd(m, n) % g == 0]))
    kernel = tuple(draw(st.integers(1, 4 if rank < 3 else 2)) for _ in range(rank))
    low, high = (-1, 4) if padded else (0, 0)
    return Geometry(
        in_channels=m,
        out_channels=n,
        kernel=kernel,
        strides=tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        dilations=tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        pads=tuple(draw(st.integers(low, high)) for _ in range(2 * rank)),
        group=group,
        bias=draw(st.booleans()),
    )


def with_numbers(geometry: Geometry, seed: int) -> AffineConv:
    """Give a geometry normal random weights, and a bias if its flag is set."""
    rng = np.random.default_rng(seed)
    return AffineConv(
        rng.standard_normal(geometry.weight_shape),
        rng.standard_normal(geometry.out_channels) if geometry.bias else None,
        geometry.strides,
        geometry.dilations,
        geometry.pads,
        geometry.group,
        geometry.transposed,
        geometry.extension,
        geometry.auto_pad,
        geometry.output_shape,
    )


@st.composite
def affine_convs(
    draw: st.DrawFn,
    *,
    rank: int | None = None,
    in_channels: int | None = None,
    channels: tuple[int, ...] = (1, 2, 3, 4, 6),
    padded: bool = True,
) -> AffineConv:
    """Draw a small random affine convolution."""
    geometry = draw(
        geometries(rank=rank, in_channels=in_channels, channels=channels, padded=padded)
    )
    return with_numbers(geometry, draw(st.integers(0, 2**32 - 1)))


@st.composite
def layers(draw: st.DrawFn, *, transposed: bool = True) -> Geometry:
    """Draw a layer that a node can represent, of any rank up to 3.

    Kernels are often large or odd and square, as `ck` needs them, and padded by half, as sums of
    branches need them; some convolutions are transposed.
    """
    layer = draw(geometries(channels=(1, 2, 3, 4, 6)))
    rank = layer.rank
    if rank and draw(st.booleans()):
        size = draw(st.sampled_from([3, 4, 5, 6, 7] if rank < 3 else [3, 4, 5]))
        other = draw(st.sampled_from([size, 1, 3]))
        layer = replace(layer, kernel=(size, *(other,) * (rank - 1)))
    if rank and draw(st.booleans()):
        reach = [r - 1 for r in layer.reach]
        ends = tuple(r - r // 2 for r in reach)
        layer = replace(layer, pads=(*(r // 2 for r in reach), *ends))
    # No expandable node is a matrix with groups, or crops its input.
    group = layer.group if rank else 1
    layer = replace(layer, group=group, pads=tuple(max(0, p) for p in layer.pads))
    if rank and transposed and draw(st.integers(0, 4)) == 0:
        pads = tuple(min(p, 1) for p in layer.pads)
        layer = replace(layer, transposed=True, pads=pads)
    return layer


def sample_input(
    geometry: Geometry, seed: int, rank: int, extent: int = 14
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Draw an input [2, m, *spatial] with different extents on its axes."""
    extents = [extent + i - (3 * rank - 3 if rank > 1 else 0) for i in range(rank)]
    shape = (2, geometry.in_channels, *extents)
    return np.random.default_rng(seed).standard_normal(shape)


def rounding(*maps: AffineConv) -> float:
    """Return a bound on the float64 error of these maps on unit normal inputs.

    Each output is a sum of fan-in products; errors grow by eps times the sum of magnitudes, with a
    margin of 6 standard deviations.
    """
    eps = float(np.finfo(np.float64).eps)
    scale, terms = 6.0, 0
    for f in maps:
        fan_in = max(1, math.prod(f.weight.shape[1:]))
        bias = 0.0 if f.bias is None else float(np.max(np.abs(f.bias), initial=0.0))
        scale = scale * fan_in * float(np.max(np.abs(f.weight), initial=0.0)) + bias
        terms += fan_in
    return eps * terms * max(scale, 1.0)
