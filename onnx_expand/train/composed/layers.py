"""Nodes of an imported graph as affine maps whose numbers change while training.

A new linear op is one function here: it takes a node and says which layer it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import UsageError
from onnx_expand.train.composed.kernels import Numbers
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.convolution import conv, conv_transpose
from onnx_expand.train.ops.elementwise import add, div, identity, mul, sub
from onnx_expand.train.ops.linear import gemm, matmul

__all__ = ["Layer", "Tensors", "layer_of"]

Tensors: TypeAlias = Mapping[str, torch.Tensor]


class _Path(str):
    """A tensor of the module, among the arguments of a node."""


class _Input:
    """The value that is mapped, among the arguments of a node."""


@dataclass(frozen=True)
class Layer:
    """One linear node.

    Attributes:
        label: How people name it: its weight.
        geometry: Its map. A bias counts as one even while it is zero: training changes that.
        target: The function that computes the node.
        args: Its arguments, tensors by their paths.
        kwargs: Its settings.
        numbers: Its weight and bias as functions of the module's tensors.
        slot: Which argument is the value that it maps.
    """

    label: str
    geometry: Geometry
    target: Callable[..., torch.Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    numbers: _Reader
    slot: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return tuple(str(arg) for arg in self.args if isinstance(arg, _Path))

    def run(self, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Compute the node by itself."""
        args = []
        for index, arg in enumerate(self.args):
            if index == self.slot:
                args.append(x)
            else:
                args.append(tensors[arg] if isinstance(arg, _Path) else arg)
        return self.target(*args, **self.kwargs)


@dataclass(frozen=True)
class _Reader:
    """Reads a weight and a bias. What a layer does not have is None."""

    read: Callable[..., Numbers]
    weight: str | None = None
    bias: str | None = None
    settings: tuple[Any, ...] = ()

    def __call__(self, tensors: Tensors) -> Numbers:
        weight = None if self.weight is None else tensors[self.weight]
        bias = None if self.bias is None else tensors[self.bias]
        return self.read(weight, bias, *self.settings)


class Source:
    """What a lifter may know about a module.

    Args:
        module: The module.
    """

    def __init__(self, module: OnnxModule) -> None:
        self.module = module

    def tensor(self, node: Any) -> torch.Tensor | None:
        """The parameter or buffer that an argument is, if it is one."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part, None)
        return value if isinstance(value, torch.Tensor) and value.is_floating_point() else None


Lifter = Callable[[fx.Node, Source, "Geometry | None"], "Layer | None"]
_LIFTERS: dict[Any, Lifter] = {}


def layer_of(node: fx.Node, source: Source, before: Geometry | None) -> Layer | None:
    """The layer that a node is, if it is one that can be composed.

    Args:
        node: The node.
        source: The module.
        before: The map that computes the node's input, where that is one: elementwise nodes take
            their rank and channels from it.
    """
    lifter = _LIFTERS.get(node.target) if node.op == "call_function" else None
    if lifter is None:
        return None
    try:
        return lifter(node, source, before)
    except UsageError:  # shapes that contradict each other: running the node says so
        return None


def _lifts(*targets: Any) -> Callable[[Lifter], Lifter]:
    def register(function: Lifter) -> Lifter:
        _LIFTERS.update(dict.fromkeys(targets, function))
        return function

    return register


def _is_bias(bias: torch.Tensor | None) -> bool:
    return bias is not None and (bias.requires_grad or bool(bias.detach().any()))


def _made(
    node: fx.Node, geometry: Geometry, numbers: _Reader, *, slot: int = 0, label: str = ""
) -> Layer:
    args: list[Any] = []
    for index, arg in enumerate(node.args):
        if index == slot:
            args.append(_Input())
        else:
            args.append(_Path(arg.target) if isinstance(arg, fx.Node) else arg)
    name = label or numbers.weight or numbers.bias or node.name
    return Layer(name, geometry, node.target, tuple(args), dict(node.kwargs), numbers, slot)  # type: ignore[arg-type]


def _operands(node: fx.Node, source: Source) -> tuple[Any, Any, torch.Tensor | None, Any] | None:
    """Weight and bias of a node x, weight, bias as tensors, and their paths."""
    if source.tensor(node.args[0]) is not None or len(node.args) < 2:
        return None
    weight = source.tensor(node.args[1])
    third = node.args[2] if len(node.args) > 2 else None
    bias = source.tensor(third)
    if weight is None or (third is not None and bias is None):
        return None
    return weight, str(node.args[1].target), bias, None if third is None else str(third.target)  # type: ignore[union-attr]


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Numbers:
    return Numbers(weight, bias)


@_lifts(conv)
def _conv(node: fx.Node, source: Source, before: Geometry | None) -> Layer | None:
    found = _operands(node, source)
    if found is None:
        return None
    weight, path, bias, bias_path = found
    settings: dict[str, Any] = dict(node.kwargs)
    group, kernel = settings.get("group", 1), tuple(weight.shape[2:])
    geometry = Geometry(
        weight.shape[1] * group,
        weight.shape[0],
        kernel,
        tuple(settings.get("strides") or ()),
        tuple(settings.get("dilations") or ()),
        tuple(settings.get("pads") or ()),
        group,
        _is_bias(bias),
    )
    pads = _automatic_pads(settings.get("auto_pad", "NOTSET"), geometry)
    if pads is None:
        return None
    whole = Geometry(
        geometry.in_channels, geometry.out_channels, kernel, geometry.strides,
        geometry.dilations, pads, group, geometry.bias,
    )  # fmt: skip
    return _made(node, whole, _Reader(_plain, path, bias_path))


def _automatic_pads(auto_pad: str, geometry: Geometry) -> tuple[int, ...] | None:
    """The padding of a convolution; None where it depends on the size of the image."""
    if auto_pad in {"NOTSET", ""}:
        return geometry.pads
    if auto_pad == "VALID":
        return (0,) * len(geometry.pads)
    if set(geometry.strides) != {1}:
        return None
    totals = [reach - 1 for reach in geometry.reach]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(less + more if auto_pad == "SAME_UPPER" else more + less)


@_lifts(conv_transpose)
def _conv_transpose(node: fx.Node, source: Source, before: Geometry | None) -> Layer | None:
    found = _operands(node, source)
    settings: dict[str, Any] = dict(node.kwargs)
    automatic = settings.get("auto_pad", "NOTSET") not in {"NOTSET", ""}
    if found is None or automatic or settings.get("output_shape"):
        return None
    weight, path, bias, bias_path = found
    group = settings.get("group", 1)
    geometry = Geometry(
        weight.shape[0],
        weight.shape[1] * group,
        tuple(weight.shape[2:]),
        tuple(settings.get("strides") or ()),
        tuple(settings.get("dilations") or ()),
        tuple(settings.get("pads") or ()),
        group,
        _is_bias(bias),
        transposed=True,
        extension=tuple(settings.get("output_padding") or ()),
    )
    return _made(node, geometry, _Reader(_swapped, path, bias_path, (group,)))


def _swapped(weight: torch.Tensor, bias: torch.Tensor | None, group: int) -> Numbers:
    """[m, n / group, *kernel] as [n, m / group, *kernel]."""
    blocks = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:]).transpose(1, 2)
    return Numbers(blocks.reshape(-1, weight.shape[0] // group, *weight.shape[2:]), bias)


@_lifts(gemm)
def _gemm(node: fx.Node, source: Source, before: Geometry | None) -> Layer | None:
    found = _operands(node, source)
    settings: dict[str, Any] = dict(node.kwargs)
    if found is None or found[0].ndim != 2 or settings.get("transA", 0):
        return None
    weight, path, bias, bias_path = found
    flipped = not settings.get("transB", 0)
    n, m = tuple(weight.shape)[:: -1 if flipped else 1]
    alpha, beta = settings.get("alpha", 1.0), settings.get("beta", 1.0)
    if beta == 0:
        bias, bias_path = None, None
    if bias is not None and (bias.ndim > 2 or bias.numel() not in {1, n}):
        return None
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        return None  # a bias for each sample
    geometry = Geometry(m, n, bias=_is_bias(bias))
    return _made(node, geometry, _Reader(_matrix, path, bias_path, (flipped, alpha, beta, n)))


def _matrix(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    flipped: bool,
    alpha: float,
    beta: float,
    n: int,
) -> Numbers:
    weight = weight.t() if flipped else weight
    weight = weight if alpha == 1 else weight * alpha
    if bias is None:
        return Numbers(weight, None)
    bias = bias.reshape(-1) if bias.numel() == n else bias.reshape(1).expand(n)
    return Numbers(weight, bias if beta == 1 else bias * beta)


@_lifts(matmul)
def _matmul(node: fx.Node, source: Source, before: Geometry | None) -> Layer | None:
    found = _operands(node, source)
    if found is None or found[0].ndim != 2:
        return None
    weight, path, _, _ = found
    geometry = Geometry(weight.shape[0], weight.shape[1])
    return _made(node, geometry, _Reader(_matrix, path, None, (True, 1.0, 1.0, weight.shape[1])))


@_lifts(add, sub, mul, div)
def _elementwise(node: fx.Node, source: Source, before: Geometry | None) -> Layer | None:
    """A shift or scale of each channel behind another layer."""
    if before is None or len(node.args) != 2:
        return None
    tensors = [source.tensor(arg) for arg in node.args]
    slot = 0 if tensors[0] is None else 1
    tensor = tensors[1 - slot]
    if tensors[slot] is not None or tensor is None or (slot and node.target in {sub, div}):
        return None
    channels, rank = before.out_channels, before.rank
    # Behind matrices the rank of the value is not known: an operand of more axes may add one.
    shape = tuple(tensor.shape)[-rank - 1 :] if rank else tuple(tensor.shape)
    if tensor.ndim > (rank + 2 if rank else 1) or tensor.numel() not in {1, channels}:
        return None
    if tensor.numel() > 1 and (len(shape) != rank + 1 or shape[0] != channels):
        return None
    ones = (1,) * rank
    shifts = node.target in {add, sub}
    geometry = Geometry(channels, channels, ones, group=channels, bias=shifts and _is_bias(tensor))
    path = str(node.args[1 - slot].target)  # type: ignore[union-attr]
    settings = (channels, rank, node.target in {sub, div})
    reader = (
        _Reader(_shift, None, path, settings) if shifts else _Reader(_scale, path, None, settings)
    )
    return _made(node, geometry, reader, slot=slot, label=path)


def _shift(weight: None, bias: torch.Tensor, channels: int, rank: int, inverse: bool) -> Numbers:
    bias = bias.reshape(-1).expand(channels)
    return Numbers(None, -bias if inverse else bias)


def _scale(weight: torch.Tensor, bias: None, channels: int, rank: int, inverse: bool) -> Numbers:
    weight = weight.reshape(-1).expand(channels).reshape(channels, 1, *[1] * rank)
    return Numbers(weight.reciprocal() if inverse else weight, None)


def is_same(node: fx.Node) -> bool:
    """Whether a node hands on what it is given."""
    return node.op == "call_function" and node.target is identity
