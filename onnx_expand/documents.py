"""Parse untrusted JSON and YAML with bounds on depth and size."""

from __future__ import annotations

import json
from typing import Any

from onnx_expand.errors import UsageError

__all__ = ["parse_json", "parse_yaml", "yaml_module"]

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
