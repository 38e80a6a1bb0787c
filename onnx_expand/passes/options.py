"""Options of passes: texts become what they name; values of other types are refused by name."""

from __future__ import annotations

import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from onnx_expand.errors import UsageError

__all__ = ["CALLED", "alternatives", "settle"]

CALLED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
"""What the plain types are called in messages."""


def settle(options: Any) -> None:
    """Give the fields of a frozen dataclass the types that it declares.

    `"cheapest"` becomes the member of its enumeration, and `"5,7x1"` a tuple of texts.

    Raises:
        UsageError: A field holds what it cannot hold; the message names it.
    """
    kinds = get_type_hints(type(options))
    for field in fields(options):
        if field.init:
            value = _settled(field.name, getattr(options, field.name), kinds[field.name])
            object.__setattr__(options, field.name, value)


def _settled(name: str, value: Any, kind: Any) -> Any:
    choices = alternatives(kind)
    if value is None and type(None) in choices:
        return None
    problems = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _as(choice)(name, value)
        except UsageError as error:
            problems.append(error)
    raise problems[0]


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a type allows: those of a union, or itself."""
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def _as(kind: Any) -> Callable[[str, Any], Any]:
    """What makes a value of a kind of another."""
    origin = get_origin(kind)
    if origin is not None and issubclass(origin, Mapping):
        return _table
    if origin is not None and issubclass(origin, Sequence):
        return lambda name, value: _listed(name, value, get_args(kind)[0])
    if issubclass(kind, StrEnum):
        return lambda name, value: _member(name, value, kind)
    return lambda name, value: _plain(name, value, kind)


def _table(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return value
    raise UsageError(f"{name} is {value!r}; give a dictionary")


def _listed(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
        value = tuple(_number(name, part, kind) for part in value)
    if not isinstance(value, Sequence):
        raise UsageError(f"{name} is {value!r}; give a list, or a text with commas")
    return tuple(_settled(name, part, kind) for part in value)


def _number(name: str, text: str, kind: Any) -> Any:
    if kind not in {int, float}:
        return text
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name}: '{text}' is not {CALLED[kind]}") from None


def _member(name: str, value: Any, kind: type[StrEnum]) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{name} '{value}' is none of {', '.join(kind)}") from None


def _plain(name: str, value: Any, kind: type) -> Any:
    number = {int: numbers.Integral, float: numbers.Real}.get(kind)
    if isinstance(value, number or kind) and (kind is bool or type(value) is not bool):
        return value if number is None else kind(value)
    wanted = CALLED.get(kind, f"a {kind.__name__}")
    raise UsageError(f"{name} is {value!r}; it must be {wanted}")
