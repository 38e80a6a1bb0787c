"""Names of initializers as paths of torch parameters."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

import torch
from torch import fx

__all__ = ["COMPOSED", "CONSTANTS", "SOURCE", "STATEFUL", "state_keys"]

# Where the importer keeps what is no initializer.
CONSTANTS = "_constants"
STATEFUL = "_nodes"
COMPOSED = "_composed"

# Under which key a node of fx has what people call the ONNX node that it came from.
SOURCE = "onnx"

# fx writes names into Python code, between double quotes where they are no identifiers.
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
    """For each initializer the path at which a module can hold it.

    The path is the name, except where torch cannot have it: parts between dots must not be empty
    or names that Python or modules use themselves, and a path cannot lead through a tensor. Such a
    part gets underscores at its end, and underscores replace quotes and control characters.

    Args:
        names: The initializers' names, in the model's order.
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
    """A path below the parent that torch can express and nothing uses."""
    part = _UNQUOTABLE.sub("_", part) or "_"
    while (
        part in _TAKEN
        or keyword.iskeyword(part)
        or (f"{parent}.{part}" if parent else part) in used
    ):
        part += "_"
    return f"{parent}.{part}" if parent else part
