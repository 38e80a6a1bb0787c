"""Affine convolutions with composition and addition, where these are exact.

Every linear node is `y = weight * pad0(x) + bias`. The composition of two such maps, or their sum
on one input, is again such a map, except at borders: `Geometry.then` states the conditions. All
arithmetic is float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.algebra.grouped import contract, regroup, split
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError

__all__ = ["AffineConv"]

# Largest number of elements of an input on which the error at a border is measured.
_LARGEST = 1 << 24

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AffineConv:
    """An affine convolution, `y = weight * pad0(x) + bias`.

    `g @ f` and `f.then(g)` apply f first, `f + h` adds two branches of one input, and `f(x)`
    evaluates the map. Where no single convolution computes a composition or a sum, they raise
    `RefusedError` with the reason and its figures.

    Attributes:
        weight: [n, m / group, *kernel], float64; [n, m / group] for a matrix (spatial rank 0).
        bias: [n], float64, or None.
        strides: One per spatial axis.
        dilations: One per spatial axis.
        pads: Zeros around the input, all begins, then all ends; negative values crop the input.
        group: Number of channel groups.
        transposed: Whether the map is a transposed convolution, as in ConvTranspose; the layout
            of the weight is the same. Such a map composes with pointwise maps only.
        extension: Output positions added at the end of each axis of a transposed map.
        auto_pad: The rule for pads that depend on unknown extents of the input; see `Geometry`.
        output_shape: Spatial extents of the output from which the pads of a transposed map follow.

    Raises:
        UsageError: The shapes contradict each other.
    """

    weight: Array
    bias: Array | None = None
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    group: int = 1
    transposed: bool = False
    extension: tuple[int, ...] = ()
    auto_pad: str = ""
    output_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        weight = np.asarray(self.weight, dtype=np.float64)
        if weight.ndim < 2:
            raise UsageError(f"the weight has {weight.ndim} axes; [n, m / group, *kernel] has 2+")
        object.__setattr__(self, "weight", weight)
        if self.bias is not None:
            bias = np.asarray(self.bias, dtype=np.float64)
            if bias.shape != weight.shape[:1]:
                raise UsageError(f"the bias has shape {bias.shape}, not {weight.shape[:1]}")
            object.__setattr__(self, "bias", bias)
        names = ("strides", "dilations", "pads", "transposed", "extension")
        if weight.ndim > 2 or self.group != 1 or any(getattr(self, name) for name in names):
            # The geometry fills in defaults and raises an error for inconsistent attributes.
            for name in names:
                object.__setattr__(self, name, getattr(self.geometry, name))

    @classmethod
    def of(cls, geometry: Geometry, weight: Array, bias: Array | None = None) -> AffineConv:
        """Return the map of a geometry with this weight and bias."""
        g = geometry
        return cls(
            weight, bias, g.strides, g.dilations, g.pads, g.group, g.transposed, g.extension,
            g.auto_pad, g.output_shape,
        )  # fmt: skip

    @classmethod
    def per_channel(
        cls, scale: npt.ArrayLike, shift: npt.ArrayLike | None = None, rank: int = 0
    ) -> AffineConv:
        """Return `y = scale * x + shift` for each channel; scale and shift are [n]."""
        weight = np.asarray(scale, dtype=np.float64)
        bias = None if shift is None else np.asarray(shift, dtype=np.float64)
        column = weight.reshape(-1, 1, *(1,) * rank)
        column.flags.writeable = False  # may be cached, so it must not be modified in place
        return cls(column, bias, group=weight.size)

    @classmethod
    def identity(cls, channels: int, rank: int = 0) -> AffineConv:
        """Return the identity, `y = x`."""
        return cls.per_channel(np.ones(channels), rank=rank)

    @functools.cached_property
    def geometry(self) -> Geometry:
        """Everything about this map except the values of its weight and bias."""
        return Geometry(
            in_channels=self.weight.shape[1] * self.group,
            out_channels=self.weight.shape[0],
            kernel=self.weight.shape[2:],
            strides=tuple(self.strides),
            dilations=tuple(self.dilations),
            pads=tuple(self.pads),
            group=self.group,
            bias=self.bias is not None and bool(np.any(self.bias)),
            transposed=self.transposed,
            extension=tuple(self.extension),
            auto_pad=self.auto_pad,
            output_shape=tuple(self.output_shape),
        )

    @property
    def rank(self) -> int:
        """The number of spatial axes; 0 for a matrix."""
        return self.weight.ndim - 2

    @property
    def parameters(self) -> int:
        """The number of elements of weight and bias."""
        return self.weight.size + (0 if self.bias is None else self.bias.size)

    def macs(self, extents: Sequence[int] = ()) -> int:
        """Return the multiplications for one sample with an input of these spatial extents."""
        return self.geometry.macs(extents)

    def at_rank(self, rank: int) -> AffineConv:
        """Return the same map with `rank` spatial axes; only a matrix can change its rank."""
        shape = self.geometry.at_rank(rank).weight_shape
        if self.rank == rank:
            return self
        return AffineConv(self.weight.reshape(shape), self.bias, group=self.group)

    # -- Action ---------------------------------------------------------------------------------

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Evaluate the map in float64; tests use it as the reference.

        Args:
            x: [N, m, *spatial]. A matrix acts on axis 1, whatever axes follow.

        Returns:
            [N, n, *spatial'].

        Raises:
            UsageError: x does not have m channels or the map's spatial rank.
        """
        x = np.asarray(x, dtype=np.float64)
        if self.rank == 0 and x.ndim > 2:
            return self.at_rank(x.ndim - 2)(x)
        geometry = self.geometry
        if x.ndim != self.rank + 2 or x.shape[1] != geometry.in_channels:
            raise UsageError(
                f"the input has shape {x.shape}; [N, {geometry.in_channels}] and "
                f"{self.rank} spatial axes are needed"
            )
        if geometry.floats:
            settled = AffineConv.of(geometry.settled(x.shape[2:]), self.weight, self.bias)
            return settled(x)
        y = self._scatter(x) if self.transposed else self._gather(x)
        return y if self.bias is None else y + self.bias.reshape(-1, *(1,) * self.rank)

    def _gather(self, x: Array) -> Array:
        geometry, groups = self.geometry, self.group
        extents = geometry.output_extents(x.shape[2:])
        x = _pad(x, geometry)
        y = np.zeros((x.shape[0], groups, geometry.out_channels // groups, math.prod(extents)))
        for tap in np.ndindex(*geometry.kernel):
            part = x[self._window(tap, extents)]
            part = part.reshape(x.shape[0], groups, geometry.in_channels // groups, -1)
            taps = self.weight[(slice(None), slice(None), *tap)]
            y += taps.reshape(groups, -1, taps.shape[1]) @ part
        return y.reshape(x.shape[0], geometry.out_channels, *extents)

    def _scatter(self, x: Array) -> Array:
        geometry, groups = self.geometry, self.group
        extents, rank = geometry.output_extents(x.shape[2:]), self.rank
        full = [
            e + begin + end
            for e, begin, end in zip(extents, geometry.begins, geometry.ends, strict=True)
        ]
        y = np.zeros((x.shape[0], geometry.out_channels, *full))
        flat = x.reshape(x.shape[0], groups, geometry.in_channels // groups, -1)
        for tap in np.ndindex(*geometry.kernel):
            taps = self.weight[(slice(None), slice(None), *tap)]
            part = taps.reshape(groups, -1, taps.shape[1]) @ flat
            shape = (x.shape[0], geometry.out_channels, *x.shape[2:])
            y[self._window(tap, x.shape[2:])] += part.reshape(shape)
        inner = (slice(b, b + e) for b, e in zip(geometry.begins[:rank], extents, strict=True))
        return y[(slice(None), slice(None), *inner)]

    def _window(self, tap: tuple[int, ...], extents: Sequence[int]) -> tuple[slice, ...]:
        """Return the slices of the padded input that one tap of the kernel reads."""
        spans = (
            slice(t * d, t * d + (size - 1) * s + 1 if size else t * d, s)
            for t, d, s, size in zip(tap, self.dilations, self.strides, extents, strict=True)
        )
        return (slice(None), slice(None), *spans)

    # -- Composition ----------------------------------------------------------------------------

    def __matmul__(self, first: AffineConv) -> AffineConv:
        """Return `self` after `first` as one convolution.

        Raises:
            RefusedError: No convolution computes this at the border, or the shapes do not match.
        """
        if not isinstance(first, AffineConv):
            return NotImplemented
        geometry = first.geometry.then(self.geometry)
        if isinstance(geometry, Refusal):
            raise RefusedError(first.with_border_error(geometry, self))
        rank = geometry.rank
        f, g = first.at_rank(rank), self.at_rank(rank)
        if geometry.is_anchored:
            return AffineConv.of(geometry, _contract_pointwise(g, f), _composed_bias(g, f))
        if math.prod(g.geometry.kernel) == math.prod(f.geometry.kernel) == 1:
            product = contract(g.weight.reshape(g.weight.shape[:2]), g.group, f.weight, f.group)
            return AffineConv.of(geometry, product, _composed_bias(g, f))
        weight = np.zeros(geometry.weight_shape)
        # One matrix product for each tap of the kernel with fewer taps, over all of the other's.
        if math.prod(g.geometry.kernel) <= math.prod(f.geometry.kernel):
            for tap in np.ndindex(*g.geometry.kernel):
                shift = [t * d * s for t, d, s in zip(tap, g.dilations, f.strides, strict=True)]
                product = contract(g.weight[(..., *tap)], g.group, f.weight, f.group)
                weight[_support(geometry, shift, f.geometry.kernel, f.dilations)] += product
        else:
            steps = [d * s for d, s in zip(g.dilations, f.strides, strict=True)]
            for tap in np.ndindex(*f.geometry.kernel):
                shift = [t * d for t, d in zip(tap, f.dilations, strict=True)]
                product = contract(g.weight, g.group, f.weight[(..., *tap)], f.group)
                weight[_support(geometry, shift, g.geometry.kernel, steps)] += product
        return AffineConv.of(geometry, weight, _composed_bias(g, f))

    def then(self, second: AffineConv) -> AffineConv:
        """Return `second @ self`, the convolution that applies `self` first."""
        return second @ self

    def with_border_error(self, refusal: Refusal, second: AffineConv) -> Refusal:
        """Add the error that merging would cause to a border refusal of `self.then(second)`.

        The error is measured in float64 on a normal random input: `border_error` is the largest
        absolute difference, `output_scale` the largest magnitude of the true output.
        """
        if refusal.reason is not Reason.BORDER or second.geometry.is_anchored:
            return refusal
        rank = max(self.rank, second.rank)
        f, g = self.at_rank(rank), second.at_rank(rank)
        merged = tuple(p + s * q for p, s, q in zip(f.pads, f.strides * 2, g.pads, strict=True))
        extents = [
            r + s * q - min(0, *f.pads)
            for r, s, q in zip(f.geometry.reach, f.strides, g.geometry.reach, strict=True)
        ]
        pads = *map(abs, f.pads), *map(abs, g.pads)
        if f.geometry.in_channels * math.prod(e + max(pads) for e in extents) > _LARGEST:
            return refusal  # the smallest input that shows the error is too large
        x = np.random.default_rng(0).standard_normal((1, f.geometry.in_channels, *extents))
        true = g(f(x))
        wrong = replace(g, pads=(0,) * 2 * rank)(replace(f, pads=merged)(x))
        numbers = {
            **refusal.numbers,
            "border_error": float(np.max(np.abs(true - wrong), initial=0.0)),
            "output_scale": float(np.max(np.abs(true), initial=0.0)),
        }
        return replace(refusal, numbers=numbers)

    # -- Addition -------------------------------------------------------------------------------

    def __add__(self, other: AffineConv) -> AffineConv:
        """Return the sum of two branches of one input as one convolution.

        Raises:
            RefusedError: Strides, channels or output extents differ.
        """
        if not isinstance(other, AffineConv):
            return NotImplemented
        geometry = self.geometry.plus(other.geometry)
        if isinstance(geometry, Refusal):
            raise RefusedError(geometry)
        a, b = self.embedded(geometry), other.embedded(geometry)
        bias = b.bias if a.bias is None else a.bias if b.bias is None else a.bias + b.bias
        return replace(a, weight=a.weight + b.weight, bias=bias)

    def __neg__(self) -> AffineConv:
        """Return the map with its output negated."""
        return self.scaled(-1)

    def scaled(self, factor: float) -> AffineConv:
        """Return the map with its output multiplied by a factor."""
        if factor == 1:
            return self
        bias = None if self.bias is None else factor * self.bias
        return replace(self, weight=factor * self.weight, bias=bias)

    def embedded(self, geometry: Geometry) -> AffineConv:
        """Return the same map with the larger kernel, dilations and groups of `geometry`.

        Raises:
            UsageError: `geometry` cannot represent this map.
        """
        own = self.at_rank(geometry.rank)
        g = own.geometry
        shift = [big - small for big, small in zip(geometry.begins, g.begins, strict=True)]
        fits = (
            (g.in_channels, g.out_channels, g.strides)
            == (geometry.in_channels, geometry.out_channels, geometry.strides)
            and g.group % geometry.group == 0
            and (g.transposed, g.extension) == (geometry.transposed, geometry.extension)
            and (g.auto_pad, g.output_shape) == (geometry.auto_pad, geometry.output_shape)
            and g.overhang == geometry.overhang
            and all(s % d == 0 for s, d in zip(shift, geometry.dilations, strict=True))
            and all(
                s >= 0 and s + r <= big and (k == 1 or step % d == 0)
                for s, r, big, k, step, d in zip(
                    shift,
                    g.reach,
                    geometry.reach,
                    g.kernel,
                    g.dilations,
                    geometry.dilations,
                    strict=True,
                )
            )
        )
        if not fits:
            raise UsageError(f"{geometry} does not contain {g}")
        dense = regroup(own.weight, g.group, geometry.group)
        if (g.kernel, g.dilations) == (geometry.kernel, geometry.dilations):
            return AffineConv.of(geometry, dense, self.bias)
        weight = np.zeros(geometry.weight_shape)
        weight[_support(geometry, shift, g.kernel, g.dilations)] = dense
        return AffineConv.of(geometry, weight, self.bias)

    def finest(self) -> AffineConv:
        """Return the same map with as many groups as the zeros of its weight allow."""
        n, m, own = self.weight.shape[0], self.geometry.in_channels, self.group
        used = np.any(self.weight != 0, axis=tuple(range(2, self.weight.ndim)))
        mixes = regroup(used, own, 1)
        most = math.gcd(n, m)
        for group in range(most, own, -1):
            if most % group or group % own:
                continue
            blocks = mixes.reshape(group, n // group, group, m // group).any(axis=(1, 3))
            if not np.any(blocks & ~np.eye(group, dtype=bool)):
                return replace(self, weight=split(self.weight, own, group), group=group)
        return self


def _pad(x: Array, geometry: Geometry) -> Array:
    widths = [(0, 0), (0, 0), *zip(geometry.begins, geometry.ends, strict=True)]
    x = np.pad(x, [(max(0, a), max(0, b)) for a, b in widths])
    return x[tuple(slice(max(0, -a), x.shape[i] - max(0, -b)) for i, (a, b) in enumerate(widths))]


def _support(
    geometry: Geometry, shift: Sequence[int], kernel: Sequence[int], steps: Sequence[int]
) -> tuple[Any, ...]:
    """Return where a kernel with these steps, moved by `shift`, lies in a `geometry` weight."""
    spans = []
    for s, k, step, d in zip(shift, kernel, steps, geometry.dilations, strict=True):
        first, stride = s // d, (step // d if k > 1 else 1)
        spans.append(slice(first, first + (k - 1) * stride + 1, stride))
    return (slice(None), slice(None), *spans)


def _contract_pointwise(g: AffineConv, f: AffineConv) -> Array:
    """Compute the weight of `g` after `f`, of which one is pointwise."""
    if g.geometry.is_pointwise:
        matrix = g.weight.reshape(g.weight.shape[:2])
        return contract(matrix, g.group, f.weight, f.group)
    return contract(g.weight, g.group, f.weight.reshape(f.weight.shape[:2]), f.group)


def _composed_bias(g: AffineConv, f: AffineConv) -> Array | None:
    if f.bias is None:
        return g.bias
    taps = g.weight.sum(axis=tuple(range(2, g.weight.ndim)))
    carried: Array = (
        taps.reshape(g.group, -1, taps.shape[1]) @ f.bias.reshape(g.group, -1, 1)
    ).ravel()
    return carried if g.bias is None else g.bias + carried
