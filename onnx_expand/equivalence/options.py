"""The options of check."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnx_expand.equivalence.compare import FACTOR
from onnx_expand.errors import UsageError
from onnx_expand.options import option, require, settle

__all__ = ["CheckOptions", "Given"]

Given: TypeAlias = str | os.PathLike[str] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class CheckOptions:
    """The inputs, the providers and the tolerance of a comparison.

    Raises:
        UsageError: An option has an invalid value.
    """

    samples: int = option(
        3,
        "Inputs of each kind (normal, uniform, large), besides zeros and denormal values. Open "
        "extents are tried at a dozen sizes, three of them with all kinds.",
        flag="-n --samples",
    )
    seed: int = option(0, "Seed of the inputs.")
    providers: Sequence[str] | None = option(
        None,
        "Where to run: cpu, cuda, tensorrt (onnxruntime's), openvino, any that installed packages "
        "register, or reference, ONNX's own implementation. By default cpu, and cuda if a GPU is "
        "available.",
        metavar="cpu,cuda",
    )
    providers_b: Sequence[str] | None = option(
        None,
        "Where B runs, one for each of the providers, if not where A does.",
        metavar="cpu,...",
    )
    as_deployed: bool = option(False, "Let onnxruntime optimize both graphs.")
    rtol: float | None = option(
        None, "Allow |a - b| <= atol + rtol * |a| instead of the measured tolerance."
    )
    atol: float | None = option(None, "As rtol.")
    factor: float = option(FACTOR, "Allowed distance of B, in multiples of A's rounding.")
    inputs: Given | None = option(
        None,
        "Run on these arrays instead: an .npz file with one for each input, a folder of such "
        "files, or ONNX test data (input_0.pb, ...); in Python also a list of mappings.",
        metavar="F.npz|DIR",
    )
    ranges: Mapping[str, tuple[float, float]] | None = option(
        None,
        "Draw an input, or all, uniformly from a range; in Python by name, where '' is all.",
    )
    shapes: Mapping[str, Sequence[int | str]] | None = option(
        None, "Extents of random inputs, by name; a text is an open extent."
    )
    regions: bool = option(
        True,
        "Also compare each part in which the graphs differ with its own forward error bound. Not "
        "done if a tolerance is given.",
    )

    def __post_init__(self) -> None:
        for name in ("providers", "providers_b"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not value):
                raise UsageError(f"{name} is {value!r}; give a list, such as ['cpu']")
        settle(self)
        require(
            self,
            samples=(1, math.inf, "at least 1"),
            seed=(0, math.inf, "at least 0"),
            rtol=(0, math.inf, "finite and not negative"),
            atol=(0, math.inf, "finite and not negative"),
            factor=(math.ulp(0.0), math.inf, "finite and positive"),
        )
