"""The bridge: an ONNX graph as a torch module, and its trained weights back in the model."""

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
    """Data, the loop and their options, which are in `onnx_expand.experiment`, under this name."""
    # The bridge knows nothing of them: it looks them up when somebody asks.
    experiment = import_module("onnx_expand.experiment")
    if name.startswith("_") or name not in experiment.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(experiment, name)
