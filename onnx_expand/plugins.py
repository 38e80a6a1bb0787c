"""Use what packages that may be installed offer: modules, and plugins by entry points.

A package registers in one of the groups below, in its own `pyproject.toml`:

    [project.entry-points."onnx_expand.passes"]
    tidy = "my_package:Tidy"
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from onnx_expand.errors import UnsupportedError, UsageError

__all__ = ["LINEAR_OPS", "PASSES", "RUNTIMES", "STRATEGIES", "load", "names", "optional"]

PASSES = "onnx_expand.passes"
"""Classes of `onnx_ir` passes whose options are the fields of a dataclass."""
STRATEGIES = "onnx_expand.strategies"
"""Functions registered by `onnx_expand.factorize.strategy`."""
RUNTIMES = "onnx_expand.runtimes"
"""Functions without arguments that return a `onnx_expand.runtimes.Runtime`."""
LINEAR_OPS = "onnx_expand.linear_ops"
"""Functions from a node and `onnx_expand.graph.facts.Facts` to the `onnx_expand.lift.Linear` that
the node computes, named by domain and op type: `com.example.Scale`."""


def optional(module: str, missing: str) -> Any:
    """Import and return a module that need not be installed.

    Raises:
        UnsupportedError: It is not; `missing` is the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(missing) from error


@functools.cache
def _group(group: str) -> Mapping[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise UsageError(
                f"'{entry.name}' in {group} is registered twice: {_home(other)} as "
                f"{other.value}, {_home(entry)} as {entry.value}; uninstall one of them"
            )
        found[entry.name] = entry
    return MappingProxyType(found)


def names(group: str) -> tuple[str, ...]:
    """Return the sorted names that packages register in a group, without importing anything.

    Raises:
        UsageError: Two packages register different things under one name.
    """
    return tuple(sorted(_group(group)))


@functools.cache
def load(group: str, name: str) -> Any:
    """Import the object registered under a name.

    Raises:
        UsageError: No package registers the name, or the registered object cannot be imported.
    """
    entry = _group(group).get(name)
    if entry is None:
        known = ", ".join(names(group)) or "nothing"
        raise UsageError(f"no package registers '{name}' in {group}; registered: {known}")
    try:
        return entry.load()
    except Exception as error:  # the package's modules may raise any exception
        raise UsageError(
            f"'{name}' of {_home(entry)} cannot be imported from {entry.value}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _home(entry: EntryPoint) -> str:
    """Return the name and version of the package that registers an entry point."""
    return "a package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
