"""Initial weights, as the networks' authors and frameworks draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["DARKNET", "HE_IN", "HE_OUT", "NORMAL", "TORCH", "Initial"]

Array: TypeAlias = "npt.NDArray[np.float64]"
Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True)
class Initial:
    """How the weight and the bias of a layer start.

    Attributes:
        spread: From the layer's fan-in and fan-out to the bound of a uniform distribution or the
            standard deviation of a normal one.
        uniform: Whether the weight is uniform within the spread; else it is normal.
        zero_bias: Whether the bias starts at zero; else it is drawn as the weight.
    """

    spread: Callable[[int, int], float]
    uniform: bool = False
    zero_bias: bool = True

    def weight(self, rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
        """A weight of this shape.

        Args:
            rng: Where the numbers come from.
            shape: Its shape.
            fan_in: How many products are summed in one output.
            fan_out: How many products one input takes part in, at stride 1 and without groups.
        """
        spread = self.spread(fan_in, fan_out)
        draw = (
            rng.uniform(-spread, spread, shape) if self.uniform else rng.normal(0, spread, shape)
        )
        return np.asarray(draw)

    def bias(self, rng: np.random.Generator, size: int, fan_in: int, fan_out: int) -> Array:
        """A bias of so many channels."""
        return np.zeros(size) if self.zero_bias else self.weight(rng, [size], fan_in, fan_out)


def _he(fan: int) -> float:
    """Keeps the variance through a ReLU (He et al., ICCV 2015, eq. 10 and 14)."""
    return math.sqrt(2 / fan)


# kaiming_uniform with a = sqrt 5 comes to this bound for weight and bias.
TORCH = Initial(lambda fan_in, _: 1 / math.sqrt(fan_in), uniform=True, zero_bias=False)
"""PyTorch's default."""
HE_IN = Initial(lambda fan_in, _: _he(fan_in))
"""Normal, by fan-in: the U-Net paper."""
HE_OUT = Initial(lambda _, fan_out: _he(fan_out))
"""Normal, by fan-out: convolutions of torchvision's ResNet and MobileNetV2."""
NORMAL = Initial(lambda *_: 0.01)
"""Normal with deviation 0.01: the classifier of torchvision's MobileNetV2."""
DARKNET = Initial(lambda fan_in, _: _he(fan_in), uniform=True)
"""Uniform within sqrt(2 / fan-in): Darknet's convolutions, YOLO-LITE's framework."""
