"""Table of ops for which ONNX's reference implementation was found to equal onnxruntime.

The table `proven.txt` is written by `python -m tests.support.constant_sweep --table`: for each
operator and version, the input types for which both computed the same for random nodes with all
attributes.
"""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["TABLE", "proven"]

TABLE = Path(__file__).with_suffix(".txt")


@functools.cache
def proven() -> dict[str, frozenset[str]]:
    """Return the compared types of each operator, by its name and version."""
    table = {}
    for line in TABLE.read_text().splitlines():
        key, _, types = line.partition(": ")
        table[key] = frozenset(types.split("; "))
    return table
