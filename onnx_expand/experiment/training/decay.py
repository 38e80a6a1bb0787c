"""Weight decay on the kernel that an expanded chain folds to, instead of on each of its layers.

The penalty is half the squared norm of the composed kernel of a chain of linear layers, which
weight decay of the compact layer would penalize.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.composed import Chain, chains_of

__all__ = ["Penalty"]


@dataclass(frozen=True)
class Penalty:
    """Half the squared norm of composed kernels, times a factor.

    Attributes:
        chains: The chains to compose.
        tensors: The parameters and buffers of the module, by their paths.
        strength: The factor.
    """

    chains: Sequence[Chain]
    tensors: dict[str, torch.Tensor]
    strength: float

    @classmethod
    def of(cls, module: torch.nn.Module, options: TrainOptions) -> Penalty | None:
        """Create the penalty for the options; None if each layer decays separately.

        Raises:
            UnsupportedError: The module has no chains to compose.
        """
        if options.decay == "layer" or not options.weight_decay:
            return None
        # Pooling after a chain is not part of the compact layer.
        chains = [chain for whole in chains_of(module) for chain in whole.weighted()]
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        chains = [chain for chain in chains if chain.numbers(tensors).weight is not None]
        if not chains:
            raise UnsupportedError(
                "decay product is for expanded models; this one has no two linear layers in a row"
            )
        return cls(chains, tensors, options.weight_decay)

    @property
    def covered(self) -> list[torch.nn.Parameter]:
        """The weights that the penalty depends on, which have no decay of their own."""
        paths = dict.fromkeys(path for chain in self.chains for path in chain.paths)
        own = [p for path in paths if isinstance(p := self.tensors[path], torch.nn.Parameter)]
        own = [parameter for parameter in own if parameter.requires_grad]
        with torch.enable_grad():
            gradients = torch.autograd.grad(self(), own, allow_unused=True)
        return [p for p, gradient in zip(own, gradients, strict=True) if gradient is not None]

    def __call__(self) -> torch.Tensor:
        """Compute the penalty of the current weights."""
        kernels = [chain.numbers(self.tensors).weight for chain in self.chains]
        squares = [kernel.square().sum() for kernel in kernels if kernel is not None]
        return self.strength / 2 * torch.stack(squares).sum()
