"""Fields of option dataclasses that the command line can show, and checks of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onnx_expand.errors import UsageError

__all__ = ["explain", "option", "require"]

_HELP = "help"
_METAVAR = "metavar"


def option(default: Any, help: str, *, metavar: str | None = None) -> Any:
    """A dataclass field with a default, and with what the command line says about it.

    Args:
        default: The value when nothing is said.
        help: One or two sentences for people.
        metavar: How the command line names the value.
    """
    return field(default=default, metadata={_HELP: help, _METAVAR: metavar})


def explain(kind: type[Any]) -> Mapping[str, tuple[Field[Any], Any]]:
    """The fields of an option dataclass that `option` declared, and their types, by name."""
    types = get_type_hints(kind)
    return {f.name: (f, types[f.name]) for f in fields(kind) if _HELP in f.metadata}


def require(options: Any, **ranges: tuple[float, float, str]) -> None:
    """Check numbers against ranges (low, high, words), and every `Literal` against its values.

    Fields that are None are not checked against ranges; NaN is in no range.

    Raises:
        UsageError: A field has a value that makes no sense.
    """
    for name, (low, high, words) in ranges.items():
        value = getattr(options, name)
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            raise UsageError(f"{name} is {value}; it must be {words}")
    for name, kind in get_type_hints(type(options)).items():
        value = getattr(options, name, None)
        if get_origin(kind) is Literal and value not in get_args(kind):
            valid = ", ".join(get_args(kind))
            raise UsageError(f"{name} '{value}' is none of {valid}")
