"""Where ONNX's reference implementation computes what onnxruntime does, as was compared.

The table `proven.txt` is written by `python -m tests.support.constant_sweep --table`: for each
operator and version the types of its inputs for which random nodes with all attributes gave the
same.
"""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["TABLE", "proven"]

TABLE = Path(__file__).with_suffix(".txt")


@functools.cache
def proven() -> dict[str, frozenset[str]]:
    """The types for which each operator is proven, by its name and version."""
    table = {}
    for line in TABLE.read_text().splitlines():
        key, _, types = line.partition(": ")
        table[key] = frozenset(types.split("; "))
    return table
