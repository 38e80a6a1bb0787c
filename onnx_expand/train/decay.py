"""Weight decay of what an expanded chain folds to, instead of each of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.recipes import TrainOptions

__all__ = ["Penalty"]


@dataclass(frozen=True)
class Penalty:
    """Half the squared norm of composed kernels, times a number.

    Attributes:
        kernels: Computes the kernels, differentiably.
        covered: The weights of which they are made.
        strength: The number.
    """

    kernels: Callable[[], Sequence[torch.Tensor]]
    covered: Sequence[torch.nn.Parameter]
    strength: float

    @classmethod
    def of(cls, module: torch.nn.Module, options: TrainOptions) -> Penalty | None:
        """The penalty that the options ask for; None where each layer has its own.

        Raises:
            UnsupportedError: The module has no chains whose product could be had.
        """
        if options.decay == "layer" or not options.weight_decay:
            return None
        products = getattr(module, "products", None)
        if products is None:
            raise UnsupportedError(
                "decay product needs a module of chains that compose; this one has none"
            )
        kernels, covered = products()
        return cls(kernels, covered, options.weight_decay)

    def __call__(self) -> torch.Tensor:
        """The penalty of the weights as they are."""
        squares = [kernel.square().sum() for kernel in self.kernels()]
        return self.strength / 2 * torch.stack(squares).sum()
