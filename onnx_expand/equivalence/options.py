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
    """What two models are compared on, where, and how near they have to be.

    Raises:
        UsageError: An option has a value that makes no sense.
    """

    samples: int = option(
        3,
        "Inputs of each kind (normal, uniform, large), besides zeros and denormal numbers. Open "
        "extents take a dozen sizes, three of them in all kinds.",
        flag="-n --samples",
    )
    seed: int = option(0, "Of the inputs.")
    providers: Sequence[str] | None = option(
        None,
        "Where to run: cpu, cuda, tensorrt (onnxruntime's), openvino, what installed packages "
        "register, or reference, ONNX's own implementation. cpu, and cuda where a GPU answers, "
        "when missing.",
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
    factor: float = option(FACTOR, "B may be so many times as far away as rounding puts A itself.")
    inputs: Given | None = option(
        None,
        "Run on these arrays instead: an .npz file with one for each input, a folder of such "
        "files, or ONNX test data (input_0.pb, ...); in Python also a list of mappings.",
        metavar="F.npz|DIR",
    )
    ranges: Mapping[str, tuple[float, float]] | None = option(
        None,
        "Draw an input, or all, evenly from a range; in Python by name, where '' is all.",
    )
    shapes: Mapping[str, Sequence[int | str]] | None = option(
        None, "Extents of random inputs, by name; a text is an open extent."
    )
    regions: bool = option(
        True,
        "Hold each part in which the graphs differ to its own forward error bound, too. Not done "
        "with a tolerance given.",
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
