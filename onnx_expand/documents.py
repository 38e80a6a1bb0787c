"""Parse untrusted JSON and YAML within bounds, and convert results to what JSON can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any

from onnx_expand.errors import UsageError

__all__ = ["parse_json", "parse_yaml", "plain", "table", "yaml_module"]

_LARGEST = 100_000
"""Entries of a document, each counted as often as it is referred to."""


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: It is not JSON.
        UsageError: It is nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise UsageError("it is nested too deep") from None


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        UsageError: It is not YAML, is nested too deep, or its aliases expand to too many entries.
    """
    yaml = yaml_module()
    try:
        data = yaml.safe_load(text)
    except RecursionError:
        raise UsageError("it is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:  # invalid dates raise ValueError
        raise UsageError(f"not YAML: {' '.join(str(error).split())}") from None
    _bound(data)
    return data


def _bound(data: Any) -> None:
    """Refuse documents whose aliases expand to too many entries; an error would print them all."""
    pending, count = [data], 0
    while pending:
        entry = pending.pop()
        count += 1
        if count > _LARGEST:
            raise UsageError(f"with all that it refers to it has more than {_LARGEST} entries")
        if isinstance(entry, dict):
            pending += entry.values()
        elif isinstance(entry, list | tuple | set):
            pending += entry


def yaml_module() -> Any:
    """Import PyYAML.

    Raises:
        UsageError: It is missing.
    """
    try:
        import yaml
    except ImportError:
        raise UsageError("YAML needs PyYAML: pip install pyyaml, or use JSON") from None
    return yaml


def plain(value: Any) -> Any:
    """Convert a value to strict JSON types.

    An object with a method `as_dict` becomes what that returns, another dataclass or named tuple a
    table of its fields, a tuple a list, a member of an enumeration a text, and a non-finite number
    its name.
    """
    as_dict = getattr(value, "as_dict", None)
    if as_dict is not None:
        return as_dict()
    if is_dataclass(value):
        return table(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, StrEnum):
        return str(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def table(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that its repr shows, in strict JSON types."""
    return {f.name: plain(getattr(instance, f.name)) for f in fields(instance) if f.repr}
