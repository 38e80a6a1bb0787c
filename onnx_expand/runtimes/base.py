"""The interface of runtimes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError, first_line

__all__ = ["Runtime", "Session", "Source", "Tensors", "as_unsupported", "only_arrays"]

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


@contextlib.contextmanager
def as_unsupported(text: str) -> Iterator[None]:
    """Report any exception of a runtime as `UnsupportedError`, in one line after `text`.

    The exceptions of a runtime have no common base class.
    """
    try:
        yield
    except Exception as error:
        raise UnsupportedError(f"{text}: {first_line(error)}") from error


def only_arrays(names: list[str], values: list[Any], label: str) -> dict[str, npt.NDArray[Any]]:
    """Map outputs to arrays.

    The elements of a sequence `q` are `q[0]`, `q[1]`, ... A map `m`, or a sequence of maps, is
    the arrays `m.keys` and `m.values`.

    Raises:
        UnsupportedError: An output is a sparse tensor or opaque.
    """
    found = {}
    for name, value in zip(names, values, strict=True):
        if value is None:
            continue
        for key, part in _parts(name, value).items():
            if not isinstance(part, np.ndarray | np.generic):
                kind = type(part).__name__
                raise UnsupportedError(f"{label}: output '{key}' is a {kind}, not a tensor")
            found[key] = np.asarray(part)
    return found


def _parts(name: str, value: Any) -> dict[str, Any]:
    maps = value if isinstance(value, list) else [value]
    if maps and all(isinstance(part, dict) for part in maps):
        keys = [key for part in maps for key in part]
        numbers = [number for part in maps for number in part.values()]
        text = bool(keys) and isinstance(keys[0], str)
        return {
            f"{name}.keys": np.array(keys, object if text else np.int64),
            f"{name}.values": np.array(numbers),
        }
    if isinstance(value, list):
        return {f"{name}[{i}]": part for i, part in enumerate(value)}
    return {name: value}
