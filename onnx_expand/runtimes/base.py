"""The interface of runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError

__all__ = ["Runtime", "Session", "Source", "Tensors", "only_arrays"]

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]
Source: TypeAlias = ir.Model | Path


class Session(Protocol):
    """A model that is ready to run."""

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once.

        Returns:
            An array for every output, by name, in the order of the model.

        Raises:
            UnsupportedError: The runtime cannot run the model on these arrays.
        """


class Runtime(Protocol):
    """A way to run models; equal runtimes compute the same."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """The name of the runtime in messages."""

    def session(self, source: Source, label: str = "model") -> Session:
        """Prepare a model.

        Args:
            source: The model, which is not modified, or its binary ONNX file.
            label: The name of the model in messages.

        Raises:
            UnsupportedError: The runtime is missing, or cannot load the model.
        """


def only_arrays(names: list[str], values: list[Any], label: str) -> dict[str, npt.NDArray[Any]]:
    """Map outputs to arrays; the elements of a sequence `q` are `q[0]`, `q[1]`, ...

    Raises:
        UnsupportedError: An output is a map or sparse tensor.
    """
    found = {}
    for name, value in zip(names, values, strict=True):
        if value is None:
            continue
        parts = (
            {f"{name}[{i}]": part for i, part in enumerate(value)}
            if isinstance(value, list)
            else {name: value}
        )
        for key, part in parts.items():
            if not isinstance(part, np.ndarray | np.generic):
                kind = type(part).__name__
                raise UnsupportedError(f"{label}: output '{key}' is a {kind}, not a tensor")
            found[key] = np.asarray(part)
    return found
