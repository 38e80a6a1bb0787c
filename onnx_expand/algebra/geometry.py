"""The geometry of an affine convolution: all of its properties except the weight values.

Fold decides from geometries alone which maps to merge, and multiplies only the weights of those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_expand.algebra.obstacles import border, mismatch, ranks_differ
from onnx_expand.errors import Reason, Refusal, UsageError

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry:
    """Channels, kernel and sampling of `y = weight * pad0(x) + bias`.

    Per spatial axis, output position j reads input positions `j * stride - pad + t * dilation` for
    the taps t of the kernel. A geometry of rank 0 is a matrix; in composition with one of rank d
    it acts as a kernel of extents 1. Negative pads crop the input.

    Attributes:
        in_channels: m, the channels of the input.
        out_channels: n, the channels of the output.
        kernel: Taps per spatial axis; `()` for rank 0.
        strides: Per spatial axis.
        dilations: Per spatial axis; 1 where the kernel has one tap.
        pads: All begins, then all ends, as in ONNX.
        group: Number of channel groups.
        bias: Whether a bias other than zero is added.
        transposed: Whether the map is a transposed convolution, as in ConvTranspose: input
            position j contributes to output positions `j * stride - pad + t * dilation`.
        extension: Per spatial axis, output positions added at the end of a transposed map.
        auto_pad: `SAME_UPPER` or `SAME_LOWER` where the pads depend on extents of the input that
            are not known; `pads` is unused then. Such a map is called floating: it composes with
            pointwise maps only, for which its borders do not matter.
        output_shape: Spatial extents that a transposed map has to output, from which its pads
            follow; such a map is floating too.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    group: int = 1
    bias: bool = False
    transposed: bool = False
    extension: tuple[int, ...] = ()
    auto_pad: str = ""
    output_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rank = len(self.kernel)
        if rank or self.strides or self.dilations or self.pads or self.extension:
            self._fill_in(rank)
        if self.group < 1 or self.in_channels % self.group or self.out_channels % self.group:
            raise UsageError(
                f"group {self.group} does not divide {self.in_channels} input and "
                f"{self.out_channels} output channels"
            )
        if self.transposed and self.is_pointwise:
            object.__setattr__(self, "transposed", False)  # a pointwise map is its own form

    def _fill_in(self, rank: int) -> None:
        """Replace omitted attributes by their defaults, one value per axis."""
        for name, default, length in (
            ("strides", 1, rank),
            ("dilations", 1, rank),
            ("pads", 0, 2 * rank),
            ("extension", 0, rank),
        ):
            given = tuple(int(v) for v in getattr(self, name)) or (default,) * length
            if len(given) != length:
                raise UsageError(f"{name} has {len(given)} values; {length} go with the kernel")
            object.__setattr__(self, name, given)
        if min(self.kernel + self.strides + self.dilations, default=1) < 1:
            raise UsageError("kernel, strides and dilations are at least 1")
        steps = (d if k > 1 else 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        object.__setattr__(self, "dilations", tuple(steps))

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def begins(self) -> tuple[int, ...]:
        """Padding before the first element of each axis."""
        return self.pads[: self.rank]

    @property
    def ends(self) -> tuple[int, ...]:
        """Padding after the last element of each axis."""
        return self.pads[self.rank :]

    @property
    def reach(self) -> tuple[int, ...]:
        """Extent of the dilated kernel, per axis."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple((k - 1) * d + 1 for k, d in pairs)

    @property
    def floats(self) -> bool:
        """Whether the pads depend on extents of the input that are not known."""
        return bool(self.auto_pad or self.output_shape)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output position reads only the input position of the same index."""
        plain = not any(self.pads) and not any(self.extension) and not self.floats
        return plain and set(self.kernel) | set(self.strides) <= {1}

    @property
    def is_anchored(self) -> bool:
        """Whether the map composes with pointwise maps only."""
        return self.transposed or self.floats

    @property
    def is_per_channel(self) -> bool:
        """Whether the map is pointwise and does not mix channels."""
        return self.is_pointwise and self.group == self.in_channels == self.out_channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight, [n, m / group, *kernel], as in ONNX."""
        return (self.out_channels, self.in_channels // self.group, *self.kernel)

    @property
    def parameters(self) -> int:
        """The number of elements of weight and bias."""
        return math.prod(self.weight_shape) + self.out_channels * self.bias

    @property
    def macs_per_position(self) -> int:
        """Multiplications per output position, or per input position of a transposed map."""
        return math.prod(self.weight_shape)

    def output_extents(self, extents: Sequence[int]) -> tuple[int, ...]:
        """Compute the spatial extents of the output from those of the input; at least zero."""
        if self.floats:
            return self._floating_extents(extents)
        if self.transposed:
            return tuple(
                max(0, (size - 1) * stride + reach - begin - end + more)
                for size, begin, end, reach, stride, more in zip(
                    extents,
                    self.begins,
                    self.ends,
                    self.reach,
                    self.strides,
                    self.extension,
                    strict=True,
                )
            )
        return tuple(
            max(0, (size + begin + end - reach) // stride + 1)
            for size, begin, end, reach, stride in zip(
                extents, self.begins, self.ends, self.reach, self.strides, strict=True
            )
        )

    def _floating_extents(self, extents: Sequence[int]) -> tuple[int, ...]:
        if self.output_shape:
            return self.output_shape
        if not self.transposed:
            return tuple(-(-e // s) for e, s in zip(extents, self.strides, strict=True))
        parts = zip(extents, self.strides, self.reach, self.extension, strict=True)
        return tuple(min(e * s, (e - 1) * s + reach + more) for e, s, reach, more in parts)

    def settled(self, extents: Sequence[int]) -> Geometry:
        """Return this geometry with its explicit pads for an input of these spatial extents.

        The formulas are those of ONNX's Conv and ConvTranspose, as implemented by onnxruntime: if
        the total padding is odd, SAME_UPPER puts the larger half at the end.
        """
        if not self.floats:
            return self
        after = self._floating_extents(extents)
        whole = [
            (i - 1) * stride + reach + more - o
            if self.transposed
            else (o - 1) * stride + reach - i
            for i, o, stride, reach, more in zip(
                extents, after, self.strides, self.reach, self.extension, strict=True
            )
        ]
        totals = [max(0, total) for total in whole]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = less + more if self.auto_pad == "SAME_UPPER" else more + less
        extension = self.extension
        if self.transposed:  # an output longer than the taps reach ends with zeros
            extension = tuple(e - min(0, t) for e, t in zip(extension, whole, strict=True))
        return replace(self, pads=tuple(pads), extension=extension, auto_pad="", output_shape=())

    def floating(self) -> Refusal | None:
        """Return the refusal for operations that need explicit pads; None if they are known."""
        if not self.floats:
            return None
        what = f"auto_pad {self.auto_pad}" if self.auto_pad else "output_shape"
        stride = "x".join(map(str, dict.fromkeys(self.strides)))
        return Refusal(
            Reason.UNKNOWN_SHAPE,
            f"{what} with stride {stride} depends on an extent that is not static",
            hint="export the model with static height and width, or with explicit pads",
        )

    def macs(self, extents: Sequence[int]) -> int:
        """Return the multiplications for one sample with an input of these spatial extents."""
        positions = extents if self.transposed else self.output_extents(extents)
        return self.macs_per_position * math.prod(positions)

    def at_rank(self, rank: int) -> Geometry:
        """Return the same geometry with `rank` spatial axes; a matrix becomes a kernel of ones.

        Raises:
            UsageError: The rank is neither 0 nor `rank`.
        """
        if rank == self.rank:
            return self
        if self.rank:
            raise UsageError(f"a kernel of rank {self.rank} does not act on {rank} axes")
        ones = (1,) * rank
        return replace(
            self,
            kernel=ones,
            strides=ones,
            dilations=ones,
            pads=(0,) * 2 * rank,
            extension=(0,) * rank,
        )

    def then(self, other: Geometry) -> Geometry | Refusal:
        """Return the geometry of `other` after this one, or why it is not one convolution.

        Taps lie at `k2 d2 s1 + k1 d1`, strides multiply, pads add as `p1 + s1 p2`, and
        gcd(group1, group2) channel groups remain.
        """
        refusal = mismatch(self, other) or border(self, other)
        if refusal is not None:
            return refusal
        rank = max(self.rank, other.rank)
        first, second = self.at_rank(rank), other.at_rank(rank)
        if first.is_anchored or second.is_anchored:
            return replace(
                first if first.is_anchored else second,
                in_channels=first.in_channels,
                out_channels=second.out_channels,
                group=math.gcd(first.group, second.group),
                bias=first.bias or second.bias,
            )
        reach, dilations = [], []
        for axis in range(rank):
            stride = first.strides[axis]
            reach.append(first.reach[axis] + stride * (second.reach[axis] - 1))
            steps = (
                first.dilations[axis] if first.kernel[axis] > 1 else 0,
                second.dilations[axis] * stride if second.kernel[axis] > 1 else 0,
            )
            dilations.append(math.gcd(*steps) or 1)
        return Geometry(
            in_channels=first.in_channels,
            out_channels=second.out_channels,
            kernel=tuple((r - 1) // d + 1 for r, d in zip(reach, dilations, strict=True)),
            strides=tuple(a * b for a, b in zip(first.strides, second.strides, strict=True)),
            dilations=tuple(dilations),
            pads=tuple(
                p1 + s1 * p2
                for p1, s1, p2 in zip(first.pads, first.strides * 2, second.pads, strict=True)
            ),
            group=math.gcd(first.group, second.group),
            bias=first.bias or second.bias,
        )

    def plus(self, other: Geometry) -> Geometry | Refusal:
        """Return the geometry of the sum of two maps, or why it is not one convolution.

        Kernels are aligned by their pads and embedded in the union of their supports.
        """
        rank = max(self.rank, other.rank)
        if self.rank != other.rank and 0 not in (self.rank, other.rank):
            return ranks_differ(self, other)
        a, b = self.at_rank(rank), other.at_rank(rank)
        if (a.in_channels, a.out_channels) != (b.in_channels, b.out_channels):
            return Refusal(
                Reason.GEOMETRY,
                f"one branch maps {a.in_channels} to {a.out_channels} channels, the other "
                f"{b.in_channels} to {b.out_channels}",
            )
        if a.is_anchored or b.is_anchored:
            if replace(a, group=1, bias=False) != replace(b, group=1, bias=False):
                message = "transposed convolutions of different shapes"
                refusal = Refusal(Reason.GEOMETRY, message)
                return a.floating() or b.floating() or refusal
            return replace(a, group=math.gcd(a.group, b.group), bias=a.bias or b.bias)
        if a.strides != b.strides or a.overhang != b.overhang:
            return Refusal(
                Reason.GEOMETRY,
                "the branches differ in their strides or output extents",
                {"strides": [a.strides, b.strides], "overhang": [a.overhang, b.overhang]},
            )
        begins = tuple(map(max, a.begins, b.begins))
        ends = tuple(map(max, a.ends, b.ends))
        reach = [1 + p + q - c for p, q, c in zip(begins, ends, a.overhang, strict=True)]
        dilations = []
        for axis in range(rank):
            steps = [abs(a.begins[axis] - b.begins[axis])]
            steps += [g.dilations[axis] for g in (a, b) if g.kernel[axis] > 1]
            dilations.append(math.gcd(*steps) or 1)
        return replace(
            a,
            kernel=tuple((r - 1) // d + 1 for r, d in zip(reach, dilations, strict=True)),
            dilations=tuple(dilations),
            pads=begins + ends,
            group=math.gcd(a.group, b.group),
            bias=a.bias or b.bias,
        )

    @property
    def overhang(self) -> tuple[int, ...]:
        """Per axis, c in the output extent `(size + c - 1) // stride + 1`.

        Two kernels of one stride have equal output extents for every input size exactly if their
        overhangs are equal.
        """
        pads = zip(self.begins, self.ends, self.reach, strict=True)
        return tuple(begin + end - reach + 1 for begin, end, reach in pads)
