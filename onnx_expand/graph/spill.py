"""Store large computed weights on disk until the model is saved.

A model with external data may be larger than memory. Tensors that replace such weights are kept in
temporary files, each of which is deleted once nothing refers to it.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

__all__ = ["LARGE", "Spill"]

LARGE = 1 << 20
"""Bytes of a tensor that is worth a file."""


class Spill:
    """A temporary directory of weights; files are deleted once unused, the rest at exit."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._count = 0

    def written(
        self,
        blocks: Iterable[npt.NDArray[Any]],
        shape: Sequence[int],
        dtype: ir.DataType,
        name: str,
    ) -> ir.ExternalTensor | None:
        """Write a tensor to disk block by block; return None if there is not enough space."""
        try:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="onnx-expand-"))
                atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
            self._count += 1
            path = self._directory / str(self._count)
            with path.open("wb") as stream:
                for block in blocks:
                    stream.write(block.data if block.dtype.isbuiltin == 1 else block.tobytes())
                size = stream.tell()
        except OSError:
            return None  # the tensor stays in memory
        moved = ir.ExternalTensor(
            path.name, 0, size, dtype, shape=ir.Shape(shape), name=name, base_dir=path.parent
        )
        weakref.finalize(moved, _remove, path)
        return moved


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
