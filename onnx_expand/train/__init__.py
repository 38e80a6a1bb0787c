"""Convert ONNX graphs to torch modules, and write trained weights back to the models."""

from importlib import import_module
from typing import Any

from onnx_expand.errors import UnsupportedError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise UnsupportedError("training needs torch: pip install 'onnx-expand[train]'") from error

from onnx_expand.train.importer import to_torch
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.writeback import write_back

__all__ = ["OnnxModule", "to_torch", "write_back"]


def __getattr__(name: str) -> Any:
    """Return a name of `onnx_expand.experiment`: data, the training loop and their options."""
    # Looked up on access, since the conversion does not depend on them.
    experiment = import_module("onnx_expand.experiment")
    if name.startswith("_") or name not in experiment.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(experiment, name)
