"""onnxruntime: fold a model when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_expand.model import ModelLike, read
from onnx_expand.passes import Fold
from onnx_expand.plugins import optional
from onnx_expand.runtimes.content import content_of, discard
from onnx_expand.workflow.verification import require_equal, verify

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["inference_session"]


def inference_session(
    model: ModelLike,
    sess_options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    *,
    verified: bool = True,
    **options: Any,
) -> onnxruntime.InferenceSession:
    """Fold a model and create a session of onnxruntime for it, without writing a file.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
        sess_options: As for `onnxruntime.InferenceSession`.
        providers: As for `onnxruntime.InferenceSession`.
        verified: Whether to compare the folded model with the model first.
        options: Options of `onnx_expand.passes.Fold`.

    Returns:
        The session.

    Raises:
        UsageError: An option has an invalid value.
        ModelError: The model cannot be read, or is invalid.
        DifferentError: The folded model does not compute the same.
        UnsupportedError: onnxruntime is not installed.
    """
    missing = "inference_session needs onnxruntime: pip install 'onnx-expand[cpu]' or [gpu]"
    ort = optional("onnxruntime", missing)
    given = read(model)
    folded: ir.Model = Fold(**options)(given.clone()).model
    if verified:
        require_equal(verify(given, folded), "the folded model differs")
    content, directory = content_of(folded)
    try:
        return ort.InferenceSession(content, sess_options, providers=providers)
    finally:
        discard(directory)
