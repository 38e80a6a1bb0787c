"""Re-parameterisable blocks of the literature in the form in which they are trained.

Each block computes one convolution or one matrix product, spread over several layers. Weights and
statistics are random, so that the output depends on every one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor, nn

__all__ = ["BLOCKS", "Block", "build"]

IMAGE = (4, 9, 7)  # odd and different, so that borders and swapped axes show


@dataclass(frozen=True)
class Block:
    """A block and what must remain of it.

    Attributes:
        make: Builds the module.
        shape: The shape of its input, without the batch.
        folded: The op types of the nodes that compute, after folding.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    folded: tuple[str, ...] = ("Conv",)


def build(name: str) -> nn.Module:
    """A block in inference mode; the same name gives the same numbers."""
    torch.manual_seed(sum(map(ord, name)))
    module = BLOCKS[name].make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
            part.weight.data[::2] *= -1
        else:
            for parameter in part.parameters(recurse=False):
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                nn.init.normal_(parameter, std=fan_in**-0.5)
    return module.eval()


def conv_bn(m: int, n: int, k: int, stride: int = 1, group: int = 1) -> nn.Sequential:
    """A convolution that keeps the extents, without bias, and its normalization."""
    conv = nn.Conv2d(m, n, k, stride, k // 2, groups=group, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n))


class Sum(nn.Module):
    """Branches of one input, added in order."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the branches compute."""
        total: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


class RepVGG(nn.Module):
    """3x3, 1x1 and, where the shape stays, identity, each with its normalization."""

    def __init__(self, m: int, n: int, stride: int = 1, group: int = 1) -> None:
        super().__init__()
        self.dense = conv_bn(m, n, 3, stride, group)
        self.point = conv_bn(m, n, 1, stride, group)
        self.same = nn.BatchNorm2d(m) if m == n and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches; a missing one is the number zero."""
        same = 0 if self.same is None else self.same(x)
        total: Tensor = self.dense(x) + self.point(x) + same
        return total


class Cropped(nn.Module):
    """An unpadded 3x3 with 3x1 and 1x3 beside it, which read the input with its sides cut off."""

    def __init__(self, m: int, n: int, *, negative: bool) -> None:
        super().__init__()
        self.square = nn.Sequential(nn.Conv2d(m, n, 3, bias=False), nn.BatchNorm2d(n))
        self.tall = nn.Sequential(nn.Conv2d(m, n, (3, 1), bias=False), nn.BatchNorm2d(n))
        self.wide = nn.Sequential(nn.Conv2d(m, n, (1, 3), bias=False), nn.BatchNorm2d(n))
        self.negative = negative

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches."""
        if self.negative:
            tall, wide = F.pad(x, (-1, -1, 0, 0)), F.pad(x, (0, 0, -1, -1))
        else:
            tall, wide = x[:, :, :, 1:-1], x[:, :, 1:-1, :]
        total: Tensor = self.square(x) + self.tall(tall) + self.wide(wide)
        return total


def set_border(y: Tensor, value: Tensor, p: int = 1) -> Tensor:
    """Pad by p and write a value per channel, [1, n, 1, 1], into the border."""
    y = F.pad(y, [p] * 4)
    y[:, :, :p, :] = value
    y[:, :, -p:, :] = value
    y[:, :, :, :p] = value
    y[:, :, :, -p:] = value
    return y


class BnAndPad(nn.Module):
    """A normalization whose output is padded with what it makes of zero."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(n)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and pad."""
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        zero = bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return set_border(bn(x), zero.detach().view(1, -1, 1, 1))


class NearIdentity(nn.Module):
    """A 1x1 convolution that learns the difference from the identity."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(m, m, 1, 1))
        self.one: Tensor
        self.register_buffer("one", torch.eye(m).view(m, m, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the sum."""
        return F.conv2d(x, self.weight + self.one.to(self.weight.device))


def diverse_branch(m: int, n: int, stride: int = 1) -> nn.Module:
    """3x3; 1x1; 1x1, padded, 3x3; 1x1, padded, average; each with its normalizations."""
    two = nn.Sequential(
        NearIdentity(m),
        BnAndPad(m),
        nn.Conv2d(m, n, 3, stride, bias=False),
        nn.BatchNorm2d(n),
    )
    average = nn.Sequential(
        nn.Conv2d(m, n, 1, bias=False), BnAndPad(n), nn.AvgPool2d(3, stride), nn.BatchNorm2d(n)
    )
    return Sum(conv_bn(m, n, 3, stride), conv_bn(m, n, 1, stride), two, average)


def diverse_branch_depthwise(n: int) -> nn.Module:
    """The depthwise form, whose average needs no 1x1 before it."""
    average = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(n))
    return Sum(conv_bn(n, n, 3, 1, n), conv_bn(n, n, 1, 1, n), average)


class MobileOne(nn.Module):
    """Several k x k branches of the same shape, a scale and a skip, each with a normalization."""

    def __init__(self, m: int, n: int, count: int = 3, stride: int = 1, group: int = 1) -> None:
        super().__init__()
        self.skip = nn.BatchNorm2d(m) if m == n and stride == 1 else None
        self.scale = conv_bn(m, n, 1, stride, group)
        self.branches = nn.ModuleList(conv_bn(m, n, 3, stride, group) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches."""
        skip = 0 if self.skip is None else self.skip(x)
        total: Tensor = self.scale(x) + skip
        for branch in self.branches:
            total += branch(x)
        return total


class EdgeBranch(nn.Module):
    """A 1x1, padded with its bias, then a learned or a scaled fixed 3x3."""

    def __init__(self, m: int, n: int, mask: list[list[float]] | None = None) -> None:
        super().__init__()
        inner = n if mask else 2 * n
        self.first = nn.Conv2d(m, inner, 1)
        shape = (inner, 1, 1, 1) if mask else (n, inner, 3, 3)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(n))
        self.mask: Tensor | None
        self.register_buffer("mask", torch.tensor(mask).expand(n, 1, 3, 3) if mask else None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        assert self.first.bias is not None
        y = set_border(self.first(x), self.first.bias.view(1, -1, 1, 1))
        if self.mask is None:
            return F.conv2d(y, self.weight, self.bias)
        return F.conv2d(y, self.weight * self.mask, self.bias, groups=self.weight.shape[0])


SOBEL_X = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
SOBEL_Y = [[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]
LAPLACIAN = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]


def edge_block(m: int, n: int) -> nn.Module:
    """The edge-oriented block: 3x3, 1x1 with 3x3, two Sobel filters and a Laplacian."""
    masks = (None, SOBEL_X, SOBEL_Y, LAPLACIAN)
    branches = [EdgeBranch(m, n, mask) for mask in masks]
    same = [nn.Identity()] if m == n else []
    return Sum(nn.Conv2d(m, n, 3, padding=1), *branches, *same)


class Collapsible(nn.Module):
    """A wide 5x5, a narrow 1x1, and a residual that the convolution can take in."""

    def __init__(self, m: int, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(m, width, 5, padding=2, bias=False)
        self.narrow = nn.Conv2d(width, m, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the pair and add the input."""
        y: Tensor = self.narrow(self.wide(x)) + x
        return y


class Dilated(nn.Module):
    """A large depthwise kernel and small dilated ones that cover parts of it."""

    def __init__(self, n: int, k: int, branches: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.large = nn.Conv2d(n, n, k, padding=k // 2, groups=n, bias=False)
        self.norm = nn.BatchNorm2d(n)
        self.small = nn.ModuleList(
            nn.Conv2d(n, n, q, 1, d * (q - 1) // 2, dilation=d, groups=n, bias=False)
            for q, d in branches
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for _ in branches)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches."""
        y: Tensor = self.norm(self.large(x))
        for conv, norm in zip(self.small, self.norms, strict=True):
            y = y + norm(conv(x))
        return y


class RepMixer(nn.Module):
    """x + layer_scale * (mixer(x) - norm(x))."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.mixer = MobileOne(n, n, 1, group=n)
        self.norm = nn.BatchNorm2d(n)
        self.layer_scale = nn.Parameter(torch.empty(n, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        y: Tensor = x + self.layer_scale * (self.mixer(x) - self.norm(x))
        return y


class RepVit(nn.Module):
    """bn(bn(3x3(x)) + 1x1(x) + x), all depthwise."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv = conv_bn(n, n, 3, 1, n)
        self.point = nn.Conv2d(n, n, 1, groups=n)
        self.norm = nn.BatchNorm2d(n)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        y: Tensor = self.norm((self.conv(x) + self.point(x)) + x)
        return y


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        y: Tensor = x + self.inner(x)
        return y


class Shifted(nn.Module):
    """A 1x1, padded with its bias by a detour through zero, then a 3x3."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(m, n, 1)
        self.second = nn.Conv2d(n, n, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        assert self.first.bias is not None
        bias = self.first.bias.view(1, -1, 1, 1)
        y: Tensor = self.second(F.pad(self.first(x) - bias, [1, 1, 1, 1]) + bias)
        return y


class Concatenated(nn.Module):
    """Branches side by side, then a 1x1 that mixes them."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.one = conv_bn(m, n, 3)
        self.two = conv_bn(m, n, 1)
        self.last = nn.Conv2d(2 * n, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all."""
        y: Tensor = self.last(torch.cat((self.one(x), self.two(x)), 1))
        return y


class Chunked(nn.Module):
    """One convolution for each half of the channels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.one, self.two = conv_bn(n // 2, n // 2, 3), conv_bn(n // 2, n // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each to its half."""
        one, two = x.chunk(2, 1)
        return torch.cat((self.one(one), self.two(two)), 1)


class Scaled(nn.Module):
    """A module whose result is multiplied with a vector along the last axis."""

    def __init__(self, inner: nn.Module, n: int) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.empty(n))

    def forward(self, x: Tensor) -> Tensor:
        """Apply and scale."""
        y: Tensor = self.inner(x) * self.scale
        return y


class RepBn(nn.Module):
    """A normalization plus a learned multiple of its input."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(n)
        self.alpha = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        """Add both."""
        y: Tensor = self.bn(x) + self.alpha * x
        return y


class Implicit(nn.Module):
    """Learned knowledge: a vector that is added to the input, or multiplied with it."""

    def __init__(self, n: int, *, multiply: bool) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.empty(1, n, 1, 1))
        self.multiply = multiply

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.implicit * x if self.multiply else self.implicit + x


class LoraLinear(nn.Module):
    """A linear layer with a low-rank side path, or with the path inside of its weight."""

    def __init__(self, m: int, n: int, rank: int, *, inside: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(m, n)
        self.down = nn.Parameter(torch.empty(rank, m))
        self.up = nn.Parameter(torch.empty(n, rank))
        self.dropout = nn.Dropout(0.1)
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        if self.inside:
            return F.linear(x, self.base.weight + self.up @ self.down * 0.25, self.base.bias)
        side = self.dropout(x) @ self.down.transpose(0, 1) @ self.up.transpose(0, 1)
        y: Tensor = self.base(x) + side * 0.25
        return y


class LoraConv(nn.Module):
    """A convolution with a low-rank side path."""

    def __init__(self, m: int, n: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Conv2d(m, n, 3, padding=1)
        self.down = nn.Conv2d(m, rank, 3, padding=1, bias=False)
        self.up = nn.Conv2d(rank, n, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        y: Tensor = self.base(x) + self.up(self.down(x)) * 2.0
        return y


class LoraConvInside(nn.Module):
    """A convolution whose kernel takes in a product of low rank."""

    def __init__(self, m: int, n: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Conv2d(m, n, 3, padding=1)
        self.down = nn.Parameter(torch.empty(3 * rank, 3 * m))
        self.up = nn.Parameter(torch.empty(3 * n, 3 * rank))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the kernel and convolve."""
        base = self.base.weight
        weight = base + (self.up @ self.down).view(base.shape) * 0.5
        return F.conv2d(x, weight, self.base.bias, padding=1)


class OnlineKernel(nn.Module):
    """A convolution whose kernel is computed from several parameters each time."""

    def __init__(self, m: int, n: int, *, einsum: bool) -> None:
        super().__init__()
        self.origin = nn.Parameter(torch.empty(n, m, 3, 3))
        self.average = nn.Parameter(torch.empty(n, m))
        self.point = nn.Parameter(torch.empty(n, m, 1, 1))
        self.first = nn.Parameter(torch.empty(2 * m, m))
        self.second = nn.Parameter(torch.empty(n, 2 * m, 3, 3))
        self.scales = nn.Parameter(torch.empty(4, n))
        self.mean: Tensor
        self.register_buffer("mean", torch.full((3, 3), 1 / 9))
        self.norm = nn.BatchNorm2d(n)
        self.einsum = einsum

    def kernel(self) -> Tensor:
        """The kernel, [n, m, 3, 3]."""
        point, scales = F.pad(self.point, [1, 1, 1, 1]), self.scales
        if self.einsum:
            average = torch.einsum("oi,hw->oihw", self.average, self.mean)
            both = torch.einsum("ti,othw->oihw", self.first, self.second)
            parts = torch.stack((self.origin, average, point, both))
            return torch.einsum("poihw,po->oihw", parts, scales)
        average = self.average[:, :, None, None] * self.mean
        both = F.conv2d(self.second, self.first.t()[:, :, None, None])
        total: Tensor = self.origin * scales[0].view(-1, 1, 1, 1)
        for part, scale in ((average, scales[1]), (point, scales[2]), (both, scales[3])):
            total = total + part * scale.view(-1, 1, 1, 1)
        return total

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalize."""
        y: Tensor = self.norm(F.conv2d(x, self.kernel(), padding=1))
        return y


class StandardizedConv(nn.Module):
    """A convolution whose kernel is standardized per filter."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(m, n, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Standardize and convolve."""
        w = self.conv.weight
        mean = w.mean(dim=(1, 2, 3), keepdim=True)
        spread = w.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (w - mean) / torch.sqrt(spread + 1e-5), self.conv.bias, padding=1)


class RefocusedConv(nn.Module):
    """A convolution whose kernel is its own convolution with another kernel, plus itself."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.empty(n, m, 3, 3))
        self.refocus = nn.Conv2d(m * n, m * n, 3, padding=1, groups=m * n, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the kernel and convolve."""
        one = self.base.view(1, -1, 3, 3)
        weight = (self.refocus(one) + one).view(self.base.shape)
        return F.conv2d(x, weight, padding=1)


class AveragedHeads(nn.Module):
    """Two classifiers, each behind a normalization, of which the mean is taken."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.BatchNorm1d(m), nn.Linear(m, n))
        self.two = nn.Sequential(nn.BatchNorm1d(m), nn.Linear(m, n))

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        y: Tensor = (self.one(x) + self.two(x)) / 2
        return y


class Transposed(nn.Module):
    """A module that sees the two last axes exchanged."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Exchange, apply, exchange."""
        y: Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return y


GEMM = ("Gemm",)
MATMUL = ("MatMul", "Add")

BLOCKS: dict[str, Block] = {
    "repvgg": Block(lambda: RepVGG(4, 4)),
    "repvgg, stride 2": Block(lambda: RepVGG(4, 6, 2)),
    "repvgg, depthwise": Block(lambda: RepVGG(4, 4, group=4)),
    "acnet": Block(
        lambda: Sum(
            conv_bn(4, 6, 3),
            nn.Sequential(nn.Conv2d(4, 6, (3, 1), padding=(1, 0)), nn.BatchNorm2d(6)),
            nn.Sequential(nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), nn.BatchNorm2d(6)),
        )
    ),
    "acnet, negative padding": Block(lambda: Cropped(4, 6, negative=True)),
    "acnet, sliced": Block(lambda: Cropped(4, 6, negative=False)),
    "dbb": Block(lambda: diverse_branch(4, 4)),
    "dbb, stride 2": Block(lambda: diverse_branch(4, 6, 2)),
    "dbb, depthwise": Block(lambda: diverse_branch_depthwise(4)),
    "mobileone": Block(lambda: MobileOne(4, 4)),
    "mobileone, stride 2": Block(lambda: MobileOne(4, 6, stride=2)),
    "mobileone, depthwise": Block(lambda: MobileOne(4, 4, group=4)),
    "ecb": Block(lambda: edge_block(4, 4)),
    "bn and pad": Block(
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), BnAndPad(4), nn.Conv2d(4, 4, 3))
    ),
    "bias as padding, by a detour": Block(lambda: Shifted(4, 4)),
    "qarepvgg": Block(
        lambda: nn.Sequential(
            Sum(conv_bn(4, 4, 3), nn.Conv2d(4, 4, 1, bias=False), nn.Identity()),
            nn.BatchNorm2d(4),
        )
    ),
    "repvgg, 1d": Block(
        lambda: Sum(
            nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4)),
            nn.Sequential(nn.Conv1d(4, 4, 1, bias=False), nn.BatchNorm1d(4)),
            nn.BatchNorm1d(4),
        ),
        (4, 9),
    ),
    "repvgg, 3d": Block(
        lambda: Sum(
            nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4)),
            nn.Sequential(nn.Conv3d(4, 4, 1, bias=False), nn.BatchNorm3d(4)),
            nn.BatchNorm3d(4),
        ),
        (4, 5, 6, 7),
    ),
    "repsr": Block(
        lambda: Residual(
            nn.Sequential(
                nn.Conv2d(4, 16, 1, bias=False),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.Conv2d(16, 4, 1),
            )
        )
    ),
    "concatenated": Block(lambda: Concatenated(4, 4)),
    "chunked": Block(lambda: Chunked(4)),
    "conv slope of one conv": Block(
        lambda: nn.Sequential(nn.Conv2d(4, 16, 3), nn.LeakyReLU(1.0), nn.Conv2d(16, 6, 1))
    ),
    "transposed conv bn": Block(
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)),
        folded=("ConvTranspose",),
    ),
    "sesr": Block(lambda: Collapsible(4, 16)),
    "replknet": Block(lambda: Sum(conv_bn(4, 4, 9, 1, 4), conv_bn(4, 4, 3, 1, 4))),
    "unireplknet": Block(lambda: Dilated(4, 9, ((5, 1), (5, 2), (3, 3), (3, 4)))),
    "yolov9 repconvn": Block(lambda: RepVGG(4, 6)),
    "fastvit mixer": Block(lambda: RepMixer(4)),
    "repvit mixer": Block(lambda: RepVit(4)),
    "implicit": Block(
        lambda: nn.Sequential(
            Implicit(4, multiply=False), nn.Conv2d(4, 6, 1), Implicit(6, multiply=True)
        )
    ),
    "lora linear": Block(lambda: LoraLinear(8, 6, 2), (8,), GEMM),
    "lora linear, sequence": Block(lambda: LoraLinear(8, 6, 2), (5, 8), MATMUL),
    "lora linear, inside": Block(lambda: LoraLinear(8, 6, 2, inside=True), (8,), GEMM),
    "lora conv": Block(lambda: LoraConv(4, 6, 2)),
    "lora conv, inside": Block(lambda: LoraConvInside(4, 6, 2)),
    "ia3, sequence": Block(lambda: Scaled(nn.Linear(8, 6), 6), (5, 8), MATMUL),
    "repbn, sequence": Block(
        lambda: nn.Sequential(Transposed(RepBn(8)), nn.Linear(8, 6)), (5, 8), MATMUL
    ),
    "orepa": Block(lambda: OnlineKernel(4, 6, einsum=False)),
    "orepa, einsum": Block(lambda: OnlineKernel(4, 6, einsum=True)),
    "weight standardization": Block(lambda: StandardizedConv(4, 6)),
    "weight norm": Block(
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1))
    ),
    "refconv": Block(lambda: RefocusedConv(4, 6)),
    "conv bn conv bn": Block(lambda: nn.Sequential(*conv_bn(4, 16, 3), *conv_bn(16, 6, 1))),
    "linear linear": Block(lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 6)), (8,), GEMM),
    "linear linear, sequence": Block(
        lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 6)), (5, 8), MATMUL
    ),
    "linear dropout linear": Block(
        lambda: nn.Sequential(nn.Linear(8, 16), nn.Dropout(), nn.Linear(16, 6)), (8,), GEMM
    ),
    "bn flatten linear": Block(
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(24, 6)), (4, 2, 3), GEMM
    ),
    "bn linear": Block(lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6)), (8,), GEMM),
    "averaged heads": Block(lambda: AveragedHeads(8, 6), (8,), GEMM),
    "transposed conv1d": Block(
        lambda: nn.Sequential(
            Transposed(nn.Sequential(nn.Conv1d(8, 16, 1), nn.Conv1d(16, 8, 1))), nn.Linear(8, 6)
        ),
        (5, 8),
        MATMUL,
    ),
    "residual depthwise": Block(lambda: Residual(nn.Conv2d(4, 4, 3, padding=1, groups=4))),
    "conv average pool": Block(
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.AvgPool2d(2))
    ),
}
