"""Large weights that were computed, kept on disk until the model is saved.

A model whose weights lie in a file may be larger than the memory. What replaces such weights waits
in a temporary file of its own, which goes when nothing refers to it any more.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
import weakref
from pathlib import Path

import onnx_ir as ir

__all__ = ["Spill"]

_LARGE = 1 << 20  # bytes


class Spill:
    """A directory of weights that goes when the process ends, each file as soon as it can."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._count = 0

    def moved(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """The tensor, on disk if it is large and there is room for it."""
        if isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < _LARGE:
            return tensor
        try:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="onnx-expand-"))
                atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
            self._count += 1
            path = self._directory / str(self._count)
            with path.open("wb") as stream:
                tensor.tofile(stream)  # type: ignore[attr-defined]
        except OSError:
            return tensor  # no room there: memory will have to do
        moved = ir.ExternalTensor(
            path.name,
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=path.parent,
        )
        weakref.finalize(moved, _remove, path)
        return moved


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
