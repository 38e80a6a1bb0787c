"""Map names of initializers to paths of torch parameters."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

import torch
from torch import fx

__all__ = ["COMPOSED", "CONSTANTS", "SOURCE", "STATEFUL", "state_keys"]

# Where the importer stores values that are not initializers.
CONSTANTS = "_constants"
STATEFUL = "_nodes"
COMPOSED = "_composed"

# The metadata key of an fx node with the name of its ONNX node for messages.
SOURCE = "onnx"

# fx writes names that are not identifiers into Python code between double quotes.
_UNQUOTABLE = re.compile(r'["\\\x00-\x1f]')

_TAKEN = frozenset(dir(fx.GraphModule(torch.nn.Module(), fx.Graph()))) | {
    "apart",
    "initializers",
    "sharing",
    COMPOSED,
    CONSTANTS,
    STATEFUL,
}


def state_keys(names: Iterable[str]) -> dict[str, str]:
    """Return for each initializer the path at which a module can store it.

    The path is the name, except where torch cannot express it: parts between dots must not be
    empty or reserved by Python or by modules, and a path cannot lead through a tensor. Such a part
    gets trailing underscores, and underscores replace quotes and control characters.
    """
    keys: dict[str, str] = {}
    tensors: set[str] = set()
    modules: set[str] = set()
    for name in names:
        *path, leaf = name.split(".")
        key = ""
        for part in path:
            key = _free(key, part, tensors)
            modules.add(key)
        key = _free(key, leaf, tensors | modules)
        tensors.add(key)
        keys[name] = key
    return keys


def _free(parent: str, part: str, used: set[str]) -> str:
    """Return an unused path below the parent that torch can express."""
    part = _UNQUOTABLE.sub("_", part) or "_"
    while (
        part in _TAKEN
        or keyword.iskeyword(part)
        or (f"{parent}.{part}" if parent else part) in used
    ):
        part += "_"
    return f"{parent}.{part}" if parent else part
