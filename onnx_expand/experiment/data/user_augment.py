"""Augmentation by a user's function, repeatable like the built-in augmentation."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from onnx_expand.errors import UsageError
from onnx_expand.experiment.data.sources.custom import find_function
from onnx_expand.experiment.user_code import user_errors

__all__ = ["UserAugment", "preserved_random_state", "seed_all"]


@dataclass(frozen=True)
class UserAugment:
    """A function of one image, such as a transform of torchvision's.

    The generators of torch, numpy and Python are seeded by the position of the image in the run.
    """

    spec: str

    def __call__(self, image: torch.Tensor, draw: float) -> torch.Tensor:
        """Apply the function to an image.

        Args:
            image: float32 [C, H, W], brightnesses from 0 to 1, or the values of the data.
            draw: A random number in [0, 1) that seeds the generators.

        Raises:
            UsageError: There is no such function, it raises an exception, or its result is not an
                image of the same shape.
        """
        function = _found(self.spec)
        with preserved_random_state(), user_errors(f"transform '{self.spec}'"):
            seed_all(int(draw * 2**32))
            result = function(image)
        if not isinstance(result, torch.Tensor) or result.shape != image.shape:
            got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise UsageError(
                f"transform '{self.spec}' turned an image {list(image.shape)} into {got}; it must "
                "return a tensor of the same shape"
            )
        return result.to(image.dtype)


@cache
def _found(spec: str) -> Any:
    return find_function(spec, "transform")


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the global random generators after the block."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def seed_all(seed: int) -> None:
    """Seed all global random generators, except those of devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
