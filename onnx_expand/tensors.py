"""The numbers of tensors, in memory of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["read_tensor"]


def read_tensor(tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """The numbers of a tensor.

    Those that lie in a file are copied, and the file is left as it was found: as long as anything
    sees into it, whoever owns the model cannot write it again.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    is_open = tensor.raw is not None
    array = np.array(tensor.numpy())
    if not is_open:
        tensor.release()
    return array
