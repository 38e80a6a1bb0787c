"""The errors and refusals of onnx-expand.

An *error* ends a command: it carries the exit code that the command line returns. A *refusal* is
an ordinary value: it states why one rewrite was not made, with the figures behind the decision and
what would allow it, and the command continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "DifferentError",
    "ModelError",
    "OnnxExpandError",
    "Reason",
    "Refusal",
    "RefusedError",
    "UnsupportedError",
    "UsageError",
    "first_line",
    "one_line",
]


class OnnxExpandError(Exception):
    """Base class of all errors that onnx-expand raises deliberately.

    The message is one line that names the file, node or attribute at fault, what is wrong with it
    and what to do.
    """

    exit_code: ClassVar[int] = 2


class DifferentError(OnnxExpandError):
    """Two models that should compute the same do not (exit code 1)."""

    exit_code = 1


class UsageError(OnnxExpandError, ValueError):
    """An argument has an invalid value (exit code 2)."""

    exit_code = 2


class ModelError(OnnxExpandError):
    """A model or data file cannot be read, or is not valid (exit code 3)."""

    exit_code = 3


class UnsupportedError(OnnxExpandError):
    """The input is valid, but onnx-expand cannot do this with it (exit code 4)."""

    exit_code = 4


class Reason(StrEnum):
    """Why a rewrite was not made."""

    BORDER = "border"
    """The second layer's zero padding meets values that the composition cannot reproduce."""
    GEOMETRY = "geometry"
    """Strides, extents or channel counts do not fit each other."""
    COST = "cost"
    """Merging would cost more multiply-accumulates, parameters or nodes than it saves."""
    SHARED = "shared intermediate"
    """The intermediate value has another consumer."""
    BRANCHES = "several inputs"
    """The node combines several values, so that no single map computes the result."""
    OUTPUT = "graph output"
    """The intermediate value is an output of the graph."""
    OVERRIDABLE = "overridable initializer"
    """The weight is also a graph input, which a caller may override."""
    DYNAMIC = "dynamic weight"
    """The weight is computed while the model runs."""
    UNSUPPORTED = "unsupported attribute"
    """The node uses a feature that the algebra does not cover."""
    UNKNOWN_SHAPE = "unknown shape"
    """A rank or extent that the decision needs is not known."""
    OVERFLOW = "overflow"
    """The merged weights do not fit the model's floating-point type."""
    NON_FINITE = "non-finite weight"
    """The weight holds NaN or infinity, which products would spread."""
    POLICY = "policy"
    """The chosen policy does not rewrite this site."""
    ACTIVATION = "activation"
    """A non-linear node lies between the layers."""
    PATTERN = "pattern"
    """The node is part of a composite, such as a GELU, that runtimes fuse into one."""
    STRATEGY = "strategy"
    """The expansion strategy does not apply to this layer."""
    SELECTION = "selection"
    """The layer was not selected."""


@dataclass(frozen=True)
class Refusal:
    """Why one rewrite was not made.

    Attributes:
        reason: The kind of the obstacle.
        message: One sentence that names the obstacle.
        numbers: The figures behind the decision, by name.
        hint: What would allow the rewrite, if anything.
    """

    reason: Reason
    message: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.reason}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text

    def as_dict(self) -> dict[str, Any]:
        """Return this refusal as plain JSON types."""
        return {
            "reason": str(self.reason),
            "message": self.message,
            "numbers": dict(self.numbers),
            "hint": self.hint,
        }


class RefusedError(UnsupportedError):
    """A requested operation of the algebra would not be exact.

    Attributes:
        refusal: The reason, with its figures.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the name of its class if it is empty."""
    lines = [line.strip() for line in _message(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return all of an error message in one line, or the name of its class if it is empty."""
    return " ".join(_message(error).split()) or type(error).__name__


def _message(error: BaseException) -> str:
    told = error.args[0] if len(error.args) == 1 else None
    return told.decode(errors="replace") if isinstance(told, bytes) else str(error)
