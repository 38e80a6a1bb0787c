"""Training settings that act on the kernels to which expanded chains fold, not on each layer.

Weight decay of the compact layer penalizes the kernel of a chain of linear layers, its product.
The compact layer's learning rate is the rate at which that product moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.composed import Chain, chains_of

__all__ = ["Penalty", "Products", "rate_shares"]

# The fewest probes, and the fewest random numbers in all: an error of a few percent.
_PROBES = 8
_NUMBERS = 2048


@dataclass(frozen=True)
class Products:
    """The kernels to which the chains of a module fold.

    Attributes:
        chains: The chains to compose.
        tensors: The parameters and buffers of the module, by their paths.
    """

    chains: Sequence[Chain]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, module: torch.nn.Module, option: str) -> Products:
        """Find the chains of a module.

        Args:
            module: The result of `to_torch`.
            option: The option that needs them, for the error message.

        Raises:
            UnsupportedError: The module has no chains to compose.
        """
        # Pooling after a chain is not part of the compact layer.
        chains = [chain for whole in chains_of(module) for chain in whole.weighted()]
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        chains = [chain for chain in chains if chain.numbers(tensors).weight is not None]
        if not chains:
            raise UnsupportedError(
                f"{option} product is for expanded models; this one has no two linear layers in a "
                "row"
            )
        return cls(chains, tensors)

    def kernels(self) -> Iterator[tuple[torch.Tensor, list[torch.nn.Parameter]]]:
        """Compose each kernel, and yield it with the parameters that it depends on."""
        for chain in self.chains:
            own = [self.tensors[path] for path in chain.paths]
            parameters = [p for p in own if isinstance(p, torch.nn.Parameter) and p.requires_grad]
            kernel = chain.numbers(self.tensors).weight
            assert kernel is not None
            yield kernel, parameters


@dataclass(frozen=True)
class Penalty:
    """Half the squared norm of composed kernels, times a factor.

    Attributes:
        products: The chains to compose.
        strength: The factor.
    """

    products: Products
    strength: float

    @classmethod
    def of(cls, module: torch.nn.Module, options: TrainOptions) -> Penalty | None:
        """Create the penalty for the options; None if each layer decays separately.

        Raises:
            UnsupportedError: The module has no chains to compose.
        """
        if options.decay == "layer" or not options.weight_decay:
            return None
        return cls(Products.of(module, "decay"), options.weight_decay)

    @property
    def covered(self) -> list[torch.nn.Parameter]:
        """The weights that the penalty depends on, which have no decay of their own."""
        with torch.enable_grad():
            kernels = list(self.products.kernels())
            own = list(dict.fromkeys(p for _, parameters in kernels for p in parameters))
            total = torch.stack([kernel.sum() for kernel, _ in kernels]).sum()
            gradients = torch.autograd.grad([total], own, allow_unused=True)
        return [p for p, gradient in zip(own, gradients, strict=True) if gradient is not None]

    def __call__(self) -> torch.Tensor:
        """Compute the penalty of the current weights."""
        squares = [kernel.square().sum() for kernel, _ in self.products.kernels()]
        return self.strength / 2 * torch.stack(squares).sum()


def rate_shares(module: torch.nn.Module, options: TrainOptions) -> dict[torch.nn.Parameter, float]:
    """Return the factor of the learning rate of each layer of an expanded chain.

    A gradient step of layer p at the rate r moves the product K by r J J^T g, where J is the
    derivative of K by p and g the gradient by K; a compact layer moves by r g (Arora, Cohen,
    Hazan, ICML 2018, section 4). Averaged over directions g, J J^T scales by e = |J|^2 / |K|, the
    squared norm over the number of elements. Each of the n layers of a chain gets 1 / (n e) for
    the weights at the start, so that all together move the product at the rate r.

    Returns:
        Factors by parameter; none if the rate is each layer's own.

    Raises:
        UnsupportedError: The module has no chains to compose.
    """
    if options.lr_on == "layer":
        return {}
    speeds: dict[torch.nn.Parameter, float] = {}
    counts: dict[torch.nn.Parameter, int] = {}
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        for kernel, parameters in Products.of(module, "lr-on").kernels():
            moving = _speeds(kernel, parameters, generator)
            for parameter, speed in moving.items():
                # A weight of several chains moves all of them; the most sensitive one decides.
                speeds[parameter] = max(speed, speeds.get(parameter, 0.0))
                counts[parameter] = max(len(moving), counts.get(parameter, 0))
    return {parameter: 1 / (counts[parameter] * speed) for parameter, speed in speeds.items()}


def _speeds(
    kernel: torch.Tensor, parameters: Sequence[torch.nn.Parameter], generator: torch.Generator
) -> dict[torch.nn.Parameter, float]:
    """Estimate |J|^2 / |K| for each parameter; those that do not move the kernel are left out.

    |J|^2 is the mean of |J^T g|^2 over normal g (Hutchinson, 1990).
    """
    totals = [0.0] * len(parameters)
    probes = max(_PROBES, -(-_NUMBERS // kernel.numel()))
    for _ in range(probes):
        probe = torch.randn(kernel.shape, generator=generator).to(kernel)
        gradients = torch.autograd.grad(
            [kernel], parameters, [probe], retain_graph=True, allow_unused=True
        )
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                totals[place] += float(gradient.double().square().sum())
    speeds = [total / probes / kernel.numel() for total in totals]
    return {p: speed for p, speed in zip(parameters, speeds, strict=True) if speed > 0}
