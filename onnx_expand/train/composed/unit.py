"""The module that runs one chain, composed if that is cheaper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.lift import swap_channels
from onnx_expand.train.composed.chain import Branches, Chain, wide
from onnx_expand.train.composed.cost import (
    Piece,
    Pieces,
    Situation,
    best,
    layer_by_layer,
    products,
)
from onnx_expand.train.composed.kernels import Numbers
from onnx_expand.train.composed.layers import Tensors
from onnx_expand.train.ops.convolution import conv, conv_transpose

__all__ = ["ChainPlan", "ComposedChain", "Sharing"]

# Plans to remember: one per input shape, of which a run has few.
_PLANS = 64


@dataclass
class Sharing:
    """One kernel for several parts of a batch.

    Attributes:
        parts: The number of parts.
        last: Whether this is the last part, whose backward pass propagates all gradients.
        active: Whether a part is running.
        kernels: The kernels in use.
    """

    parts: int
    last: bool = False
    active: bool = False
    kernels: dict[Any, _Shared] = field(default_factory=dict)

    def settle(self) -> None:
        """Propagate gradients that no backward pass of a last part has propagated."""
        for shared in self.kernels.values():
            shared.settle()


@dataclass(frozen=True)
class ChainPlan:
    """How a chain runs."""

    pieces: Pieces
    products: int
    apart: int


class ComposedChain(torch.nn.Module):
    """A chain of linear layers, whose tensors are passed as arguments."""

    def __init__(self, chain: Chain, first: bool, execution: str = "auto") -> None:
        super().__init__()
        self.chain = chain
        self.execution = execution
        self.first = first
        self.paths = chain.paths
        self.sharing: Sharing | None = None
        self._plans: dict[Any, Pieces] = {}

    def forward(self, x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        """Apply the chain to x, with the tensors in the order of `paths`."""
        given = dict(zip(self.paths, tensors, strict=True))
        return self._run(self.chain, self.plan(x, given), x, given, ())

    def plan(self, x: torch.Tensor, tensors: Tensors) -> Pieces:
        """Return how to run the chain on x."""
        sharing = self._shares()
        parts = sharing.parts if sharing is not None else 1
        if torch.compiler.is_compiling():
            return best(self.chain, self._situation(x, tensors, parts), self.execution)
        trained = tuple([tensor.requires_grad for tensor in tensors.values()])
        key = (x.shape, x.requires_grad, torch.is_grad_enabled(), trained, parts)
        if key not in self._plans:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            situation = self._situation(x, tensors, parts)
            self._plans[key] = best(self.chain, situation, self.execution)
        return self._plans[key]

    def planned(self, x: torch.Tensor, tensors: Sequence[torch.Tensor]) -> ChainPlan:
        """Return how to run the chain on x, and the cost."""
        given = dict(zip(self.paths, tensors, strict=True))
        pieces, situation = self.plan(x, given), self._situation(x, given, 1)
        own, layers = (
            products(self.chain, p, situation) for p in (pieces, layer_by_layer(self.chain))
        )
        return ChainPlan(pieces, own, layers)

    def _situation(self, x: torch.Tensor, tensors: Tensors, parts: int) -> Situation:
        rank = self.chain.rank
        return Situation(
            x.shape[0] if rank else x.numel() // x.shape[self.chain.axis],
            tuple(x.shape[2:]) if rank else (),
            torch.is_grad_enabled(),
            x.requires_grad,
            frozenset([path for path, t in tensors.items() if t.requires_grad]),
            parts,
        )

    def extra_repr(self) -> str:
        """The chain and its execution, as torch prints them."""
        return f"{self.chain.label}, {self.execution}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sharing": None, "_plans": {}}

    def _shares(self) -> Sharing | None:
        """Return the kernels that parts of a batch share, if this pass is one of these."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return None
        return self.sharing if self.sharing is not None and self.sharing.active else None

    def _run(
        self,
        chain: Chain,
        pieces: Pieces,
        x: torch.Tensor,
        tensors: Tensors,
        place: tuple[int, ...],
    ) -> torch.Tensor:
        for piece in pieces:
            element = chain.elements[piece.first]
            if piece.whole:
                geometry = chain.spans[piece.first, piece.last].geometry
                assert geometry is not None
                numbers = self._numbers(chain, piece, x, tensors, place)
                x = _apply(geometry, numbers, x, chain.axis)
            elif isinstance(element, Branches):
                x = self._branches(element, piece, x, tensors, (*place, piece.first))
            else:
                x = element.call(x, tensors)
        return x

    def _branches(
        self,
        element: Branches,
        piece: Piece,
        x: torch.Tensor,
        tensors: Tensors,
        place: tuple[int, ...],
    ) -> torch.Tensor:
        total: torch.Tensor | None = None
        for index, (branch, way) in enumerate(zip(element.branches, piece.branches, strict=True)):
            part = x
            if branch is not None and way is not None:
                part = self._run(branch, way, x, tensors, (*place, index))
            factor = element.factors[index]
            part = part if factor == 1 else part * factor
            total = part if total is None else total + part
        assert total is not None
        return total

    def _numbers(
        self, chain: Chain, piece: Piece, x: torch.Tensor, tensors: Tensors, place: tuple[int, ...]
    ) -> Numbers:
        sharing = self._shares()
        if sharing is None:
            return _compose(chain, piece, x, tensors)
        paths = [p for e in chain.elements[piece.first : piece.last + 1] for p in e.paths]
        used = {path: tensors[path] for path in paths}
        key = (*place, piece.first, piece.last)
        versions = [tensor._version for tensor in used.values()]
        shared = sharing.kernels.get(key)
        if shared is None or shared.versions != versions:
            if shared is not None and shared.pending:
                raise RuntimeError(
                    f"the weights of {chain.label} changed between two parts of a batch"
                )
            # Activation checkpointing and similar hooks must not save these.
            with torch.autograd.graph.saved_tensors_hooks(_as_is, _as_is):
                shared = _Shared(_compose(chain, piece, x, tensors), versions)
            sharing.kernels[key] = shared
        return shared.use(sharing.last)


class _Shared:
    """A kernel that several backward passes reach, and one leaves."""

    def __init__(self, numbers: Numbers, versions: list[int]) -> None:
        self.versions = versions
        self.numbers = numbers
        self.leaves = Numbers(*(_leaf(tensor) for tensor in numbers))
        self.hooked = False

    @property
    def pending(self) -> bool:
        """Whether gradients have accumulated."""
        return any(leaf is not None and leaf.grad is not None for leaf in self.leaves)

    def use(self, last: bool) -> Numbers:
        """Return the kernel for one more part."""
        if not last:
            return self.leaves
        if not self.hooked:
            self.hooked = True
            for tensor, leaf in zip(self.numbers, self.leaves, strict=True):
                if tensor is not None and leaf is not None and tensor.requires_grad:
                    tensor.register_hook(_Adder(leaf))  # type: ignore[no-untyped-call]
        return self.numbers

    def settle(self) -> None:
        """Propagate gradients that no last part has propagated."""
        if self.pending:
            tensors = [t for t in self.use(last=True) if t is not None and t.requires_grad]
            torch.autograd.backward(tensors, [torch.zeros_like(t) for t in tensors])


class _Adder:
    """Adds the gradient that has accumulated in a leaf, once."""

    def __init__(self, leaf: torch.Tensor) -> None:
        self.leaf = leaf

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        waiting, self.leaf.grad = self.leaf.grad, None
        return gradient if waiting is None else gradient + waiting


def _as_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _leaf(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)


def _compose(chain: Chain, piece: Piece, x: torch.Tensor, tensors: Tensors) -> Numbers:
    """Compose the kernel of a stretch, in float32 at least; return it in its own type."""
    dtype = next(iter(tensors.values())).dtype
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            numbers = chain.numbers(wide(tensors), piece.first, piece.last)
    else:
        numbers = chain.numbers(wide(tensors), piece.first, piece.last)
    return Numbers(*(None if t is None else t.to(dtype) for t in numbers))


def _apply(geometry: Geometry, numbers: Numbers, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply one map to [N, m, ...]; a matrix acts on any axis."""
    weight, bias = numbers
    rank, axis = geometry.rank, axis % x.ndim
    if geometry.is_per_channel:
        shape = [-1, *[1] * (x.ndim - 1 - axis)]
        x = x if weight is None else x * weight.reshape(shape)
        return x if bias is None else x + bias.reshape(shape)
    assert weight is not None
    if not rank:
        last = axis == x.ndim - 1
        y = F.linear(x if last else x.movedim(axis, -1), weight, bias)
        return y if last else y.movedim(-1, axis)
    settings: Any = {
        "auto_pad": geometry.auto_pad or "NOTSET",
        "dilations": geometry.dilations,
        "group": geometry.group,
        "pads": geometry.pads,
        "strides": geometry.strides,
    }
    if not geometry.transposed:
        return conv(x, weight, bias, **settings)
    swapped = swap_channels(weight, geometry.group)
    settings["output_shape"] = geometry.output_shape or None
    return conv_transpose(x, swapped, bias, output_padding=geometry.extension, **settings)
