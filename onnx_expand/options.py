"""Options, declared once as fields of frozen dataclasses.

The flags and help of the command line (`onnx_expand.cli.options`), the keys of pipelines and
config files, and the keywords of the functions of `onnx_expand` are derived from them. Strings are
converted to the type that a field declares; values of other types are errors that name the field.
"""

from __future__ import annotations

import json
import math
import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnx_expand.errors import UsageError

__all__ = ["CALLED", "alternatives", "explain", "option", "parse", "require", "settle", "split"]

_HELP = "help"

CALLED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
"""What the plain types are called in messages."""


def option(default: Any, help: str, *, metavar: str | None = None, flag: str | None = None) -> Any:
    """Declare a dataclass field with a default and its help on the command line.

    Args:
        default: The default value.
        help: One or two sentences for people.
        metavar: How the command line names the value.
        flag: The option's name on the command line, if it is not the field's name, such as
            `-n --samples`.
    """
    return field(default=default, metadata={_HELP: help, "metavar": metavar, "flag": flag})


def explain(kind: type[Any]) -> Mapping[str, tuple[Field[Any], Any]]:
    """Map each field that `option` declared to its field object and type."""
    types = get_type_hints(kind)
    return {f.name: (f, types[f.name]) for f in fields(kind) if _HELP in f.metadata}


def require(options: Any, **ranges: tuple[float, float, str]) -> None:
    """Check fields against ranges (low, high, words), and every `Literal` against its values.

    Fields that are None are not checked against ranges; NaN is in no range.

    Raises:
        UsageError: A field has an invalid value.
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


def split(what: str, options: Mapping[str, Any], *kinds: type[Any]) -> list[dict[str, Any]]:
    """Assign each keyword to the dataclass that declares it.

    Args:
        what: The name of the function that takes them, for messages.
        options: The keywords.
        kinds: The dataclasses; a keyword belongs to the first that has a field of its name.

    Returns:
        The keywords of each dataclass, in their order.

    Raises:
        UsageError: No dataclass has a field of that name.
    """
    known = [[f.name for f in fields(kind) if f.init and _HELP in f.metadata] for kind in kinds]
    found: list[dict[str, Any]] = [{} for _ in kinds]
    for name, value in options.items():
        place = next((i for i, names in enumerate(known) if name in names), None)
        if place is None:
            offered = ", ".join(name for names in known for name in names)
            raise UsageError(f"{what} has no option '{name}'; it has {offered}")
        found[place][name] = value
    return found


def parse(kind: type[Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Convert options given as strings to the types that a dataclass declares.

    A string option takes the text as it is, without quotes around it; any other option is parsed
    as JSON if it is valid JSON: `rate=2`, `swap_rb=true`, `mean=[0.5,0.5,0.5]`, `policy=cheapest`,
    `include="conv[1,2]"`.
    """
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    return {name: _parsed(text, hints.get(name, str)) for name, text in texts.items()}


def _parsed(text: str, hint: Any) -> Any:
    if str in alternatives(hint) and not text.startswith('"'):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def settle(options: Any) -> None:
    """Convert the fields of a frozen dataclass to the types that it declares.

    `"cheapest"` becomes the member of its enumeration, and `"5,7x1"` a tuple of texts.

    Raises:
        UsageError: A field has a value that cannot be converted; the message names the field.
    """
    kinds = get_type_hints(type(options))
    for own in fields(options):
        if own.init:
            value = _settled(own.name, getattr(options, own.name), kinds[own.name])
            object.__setattr__(options, own.name, value)


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
    """Return the member types of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def _as(kind: Any) -> Callable[[str, Any], Any]:
    """Return the function that converts a value to a type."""
    origin = get_origin(kind)
    if origin is Literal:
        return lambda name, value: _chosen(name, value, get_args(kind))
    if origin is not None and issubclass(origin, Mapping):
        return _table
    if origin is not None and issubclass(origin, Sequence):
        return lambda name, value: _listed(name, value, get_args(kind)[0])
    kind = origin or kind
    if issubclass(kind, StrEnum):
        return lambda name, value: _member(name, value, kind)
    return lambda name, value: _plain(name, value, kind)


def _table(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return value
    raise UsageError(f"{name} is {value!r}; give a dictionary")


def _listed(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            raise UsageError(f"{name} is {value!r}; give a list without empty elements")
        value = tuple(_number(name, part, kind) for part in parts)
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


def _chosen(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise UsageError(f"{name} '{value}' is none of {', '.join(map(str, choices))}")
    return value


def _plain(name: str, value: Any, kind: type) -> Any:
    number = {int: numbers.Integral, float: numbers.Real}.get(kind)
    if isinstance(value, number or kind) and (kind is bool or type(value) is not bool):
        return value if number is None else kind(value)
    wanted = CALLED.get(kind, f"a {kind.__name__}")
    raise UsageError(f"{name} is {value!r}; it must be {wanted}")
